"""A progress bar that a user sees too: the real ``tqdm``, that also tells the push server.

::

    from pushserver.publisher import tqdm

    for row in tqdm(rows, desc="Import", user_id=42):
        ...

Where to push comes from `publisher`, or from PUSHSERVER_URL and PUSHSERVER_API_KEY (PUSHSERVER_PREFIX over Redis);
whom it is for from `user_id`, or, for the outermost bar alone, from PUSHSERVER_USER_ID. Without these it is the plain
tqdm.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator
from typing import Any

try:
    from tqdm import tqdm as _tqdm
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("progress bars need tqdm: pip install pushserver[publisher]") from error

from pushserver.publisher.asynchronous import AsyncPublisher
from pushserver.publisher.synchronous import Publisher
from pushserver.publisher.tasks import Task

_lock = threading.Lock()
_configured: dict[tuple[str, str | None, str], Publisher] = {}
_open = threading.local()


def _from_environment() -> Publisher | None:
    url = os.environ.get("PUSHSERVER_URL")
    if not url:
        return None
    where = (url, os.environ.get("PUSHSERVER_API_KEY"), os.environ.get("PUSHSERVER_PREFIX", "push"))
    with _lock:
        publisher = _configured.get(where)
        if publisher is None:
            publisher = _configured[where] = Publisher(url, api_key=where[1], prefix=where[2])
        return publisher


class tqdm(_tqdm):  # type: ignore[misc]
    """The real tqdm with three more keywords: `user_id`, `publisher`, `title` (by default the description).

    A bar that ends, or whose ``with`` block ends, completes its task; an exception in the ``with`` block or in what is
    iterated fails it; a loop left early fails it with "stopped after 3 of 10". A disabled bar tells nothing.
    """

    # Read by tqdm's own clean-up where __init__ did not get so far.
    _task: Task | None = None
    _looping = False

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *args: Any,
        user_id: str | int | None = None,
        publisher: Publisher | AsyncPublisher | None = None,
        title: str | None = None,
        **kwargs: Any,
    ) -> None:
        self._told: tuple[Any, ...] | None = None
        super().__init__(iterable, *args, **kwargs)
        if self.disable:
            return
        depth = getattr(_open, "depth", 0)
        if user_id is None and depth == 0:
            user_id = os.environ.get("PUSHSERVER_USER_ID") or None
        if user_id is None:
            return
        publisher = publisher if publisher is not None else _from_environment()
        if publisher is None:
            return
        self._task = publisher.task(user_id, title if title is not None else (self.desc.rstrip(": ") or None))
        _open.depth = depth + 1
        self._tell()

    @property
    def task(self) -> Task | None:
        """The task that this bar tells of, to end it differently or to see whether the owner asked to cancel."""
        return self._task

    def __iter__(self) -> Iterator[Any]:
        # tqdm's own generator closes the bar in any case; only here it shows how the loop was left.
        rows = super().__iter__()
        self._looping = True
        try:
            for row in rows:  # noqa: UP028 - `yield from` would close the bar before GeneratorExit is seen here
                yield row
        except GeneratorExit:
            self._end(self._stopped())
            raise
        except BaseException as error:
            self._end(str(error) or type(error).__name__)
            raise
        else:
            self._end(None)
        finally:
            self._looping = False
            rows.close()

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is not None:
            self._end(str(error) or type(error).__name__)
        self.close()

    def __del__(self) -> None:
        # A bar that nobody closed was abandoned, however far it had come.
        self._end(self._stopped())
        super().__del__()

    def display(self, *args: Any, **kwargs: Any) -> Any:
        """tqdm calls this as often as it redraws, so no oftener than `mininterval`."""
        shown = super().display(*args, **kwargs)
        self._tell()
        return shown

    def reset(self, total: float | None = None) -> None:
        super().reset(total=total)
        self._tell(force=True)

    def close(self) -> None:
        super().close()
        self._tell()
        if not self._looping:
            self._end(None)

    def _stopped(self) -> str:
        of = f" of {self.total}" if getattr(self, "total", None) else ""
        return f"stopped after {getattr(self, 'n', 0)}{of}"

    def _tell(self, force: bool = False) -> None:
        task = self._task
        if task is None:
            return
        message = ", ".join(filter(None, (self.desc.rstrip(": ") if self.desc else "", self.postfix or ""))) or None
        now = (self.n, self.total, message)
        # The monitor and `refresh` redraw without news; only the cancel wish needs them, and it can wait for some.
        if now == self._told and not force:
            return
        self._told = now
        if self.total and math.isfinite(self.total):
            task.progress(self.n, of=self.total, message=message, force=force)
        elif self.n == int(self.n):
            task.steps(int(self.n), message=message)

    def _end(self, error: str | None) -> None:
        task, self._task = self._task, None
        if task is None:
            return
        _open.depth = max(0, getattr(_open, "depth", 0) - 1)
        if error is None:
            task.complete()
        else:
            task.fail(error)


def trange(*args: Any, **kwargs: Any) -> tqdm:
    """``tqdm(range(*args), **kwargs)``."""
    return tqdm(range(*args), **kwargs)
