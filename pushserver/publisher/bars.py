"""A progress bar that a user sees too: the real ``tqdm``, that also tells the push server.

::

    from pushserver.publisher import tqdm

    for row in tqdm(rows, desc="Import", user_id=42):
        ...

Where to push comes from `publisher`, or from PUSHSERVER_URL and PUSHSERVER_API_KEY (PUSHSERVER_PREFIX over Redis);
whom it is for from `user_id`, or, for the outermost bar alone, from PUSHSERVER_USER_ID. Without these it is the plain
tqdm, of a terminal or a notebook.

Nothing is told while tqdm's lock is held, and finalisers only leave a note.
"""

from __future__ import annotations

import io
import logging
import math
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import Any

try:
    from tqdm.auto import tqdm as _tqdm
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("progress bars need tqdm: pip install pushserver[publisher]") from error

from pushserver.publisher.asynchronous import AsyncPublisher
from pushserver.publisher.synchronous import Publisher
from pushserver.publisher.tasks import AsyncTask, Task

_log = logging.getLogger("pushserver.publisher")

_lock = threading.Lock()
_configured: dict[tuple[str, str | None, str], Publisher] = {}
_refused: set[tuple[str, str | None, str]] = set()
#: Where `disable` stands among tqdm's positional arguments, after the iterable.
_DISABLE = 9


class _Nesting:
    """Which told bars are open around this code: by thread and by asyncio's task, wherever they are closed."""

    def __init__(self) -> None:
        self._innermost: ContextVar[tuple[Task | AsyncTask, Any] | None] = ContextVar("pushserver bars", default=None)

    def enclosing(self) -> tuple[Task | AsyncTask, Any] | None:
        found = self._innermost.get()
        while found is not None and found[0].ended:
            found = found[1]
        return found

    def register(self, task: Task | AsyncTask) -> None:
        self._innermost.set((task, self.enclosing()))


_open = _Nesting()


def _from_environment() -> Publisher | None:
    url = os.environ.get("PUSHSERVER_URL")
    if not url:
        return None
    where = (url, os.environ.get("PUSHSERVER_API_KEY"), os.environ.get("PUSHSERVER_PREFIX", "push"))
    with _lock:
        if where not in _configured and where not in _refused:
            try:
                _configured[where] = Publisher(url, api_key=where[1], prefix=where[2])
            except (ValueError, ImportError) as error:
                _refused.add(where)
                _log.warning("bars are shown here alone: PUSHSERVER_URL: %s", error)
        return _configured.get(where)


class tqdm(_tqdm):  # type: ignore[misc]
    """The real tqdm with three more keywords: `user_id`, `publisher`, `title` (by default the description).

    A bar whose iterable ended, or that is closed at its total, completes its task. An exception in what is iterated, in
    the ``with`` block, or on its way while the bar is closed fails it; so does closing it short of its total, or
    leaving the loop early: "stopped after 3 of 10". ``disable=True`` tells nothing; what else disables a bar
    (TQDM_DISABLE, ``disable=None`` without a terminal) quiets the terminal alone.
    """

    # Read by tqdm's own clean-up where __init__ did not get so far.
    _task: Task | AsyncTask | None = None
    _looping = False
    _ran_out = False

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        *args: Any,
        user_id: Any = None,
        publisher: Publisher | AsyncPublisher | None = None,
        title: Any = None,
        **kwargs: Any,
    ) -> None:
        self._reported: tuple[Any, ...] | None = None
        # One that is handled already while the bar begins does not pass through it.
        self._before = sys.exc_info()[1]
        asked = args[_DISABLE] if len(args) > _DISABLE else kwargs.get("disable", False)
        if asked:
            super().__init__(iterable, *args, **kwargs)
            return
        if user_id is None and _open.enclosing() is None:
            user_id = os.environ.get("PUSHSERVER_USER_ID") or None
        if user_id is not None and publisher is None:
            publisher = _from_environment()
        if user_id is None or publisher is None:
            super().__init__(iterable, *args, **kwargs)
            return
        if len(args) <= _DISABLE and _is_quiet(asked, args[3] if len(args) > 3 else kwargs.get("file"), kwargs):
            kwargs |= {"disable": False, "file": _Nowhere()}
            args = args[:3]
        super().__init__(iterable, *args, **kwargs)
        self._task = publisher.task(user_id, title if title is not None else (self.desc.rstrip(": ") or None))
        _open.register(self._task)
        self._report()

    @property
    def task(self) -> Task | AsyncTask | None:
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
            # Now tqdm counts what it had not shown yet. Perhaps it is the collector that ends this: nothing waits.
            rows.close()
            self._abandon()
            raise
        except BaseException as error:
            self._end(error)
            raise
        else:
            self._ran_out = True
            self._report()
            self._end(None)
        finally:
            self._looping = False
            rows.close()

    async def __anext__(self) -> Any:
        self._looping = True
        try:
            return await super().__anext__()
        except StopAsyncIteration:
            self._ran_out = True
            self._report()
            await self._end_in_loop(None)
            raise
        except BaseException as error:
            await self._end_in_loop(error)
            raise
        finally:
            self._looping = False

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is not None:
            self._end(error)
        self.close()

    def __del__(self) -> None:
        # A bar that nobody closed was abandoned, however far it had come.
        self._abandon()
        super().__del__()

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
        """tqdm calls this as often as it redraws, so no oftener than `mininterval`."""
        shown = super().refresh(nolock=nolock, lock_args=lock_args)
        if not nolock:
            # Else the caller holds tqdm's lock, and redraws what was told before.
            self._report()
        return shown

    def close(self) -> None:
        super().close()
        if self._looping or self._task is None:
            return
        self._report()
        passing = sys.exc_info()[1]
        if passing is self._before or isinstance(passing, (StopIteration, StopAsyncIteration)):
            passing = None
        self._end(passing)

    def _report(self) -> None:
        task = self._task
        if task is None:
            return
        message = ", ".join(filter(None, (self.desc.rstrip(": ") if self.desc else "", self.postfix or ""))) or None
        now = (self.n, self.total, message)
        # `refresh` redraws without news, too; only the cancel wish needs them, and it can wait for some.
        if now == self._reported:
            return
        before, self._reported = self._reported, now
        if self._is_total_known:
            # A total that grew, or a bar that was reset or set back: it is less than before, and shall be.
            less = before is not None and bool(before[1]) and before[0] / before[1] > self.n / self.total
            task.progress(self.n, of=self.total, message=message, force=less)
        else:
            task.steps(int(self.n), message=message)

    @property
    def _is_total_known(self) -> bool:
        return bool(self.total) and math.isfinite(self.total)

    @property
    def _is_short(self) -> bool:
        return not self._ran_out and self._is_total_known and self.n < self.total

    def _stopped(self) -> str:
        of = f" of {self.total}" if getattr(self, "total", None) else ""
        return f"stopped after {getattr(self, 'n', 0)}{of}"

    def _how_ended(self, error: BaseException | None) -> BaseException | str | None:
        return self._stopped() if error is None and self._is_short else error

    def _end(self, error: BaseException | None) -> None:
        task, self._task = self._task, None
        if task is not None and task.is_ours:
            how = self._how_ended(error)
            task.complete() if how is None else task.fail(how)

    async def _end_in_loop(self, error: BaseException | None) -> None:
        task, self._task = self._task, None
        if task is not None and task.is_ours:
            await task.ending(self._how_ended(error))

    def _abandon(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.abandon(self._stopped())


class _Nowhere(io.StringIO):
    """Takes a bar that the terminal shall not show."""

    def write(self, text: str) -> int:
        return len(text)


def _is_quiet(asked: bool | None, file: Any, kwargs: dict[str, Any]) -> bool:
    """Whether tqdm would disable a bar that its caller did not."""
    if asked is None:
        isatty = getattr(file if file is not None else sys.stderr, "isatty", None)
        return isatty is not None and not isatty()
    return "disable" not in kwargs and bool(os.environ.get("TQDM_DISABLE"))


def trange(*args: Any, **kwargs: Any) -> tqdm:
    """Return ``tqdm(range(*args), **kwargs)``."""
    return tqdm(range(*args), **kwargs)
