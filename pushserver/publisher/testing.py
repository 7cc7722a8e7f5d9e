"""Publishers for tests: they send nothing, and remember what they would have sent.

::

    publisher = RecordingPublisher()
    application.pay(publisher, order)
    assert publisher.notifications_for(42) == [{"title": "Paid"}]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pushserver.publisher.asynchronous import AsyncPublisher
from pushserver.publisher.commands import Command
from pushserver.publisher.core import PublisherBase
from pushserver.publisher.nowhere import NullTransport
from pushserver.publisher.synchronous import Publisher
from pushserver.publisher.transport import Transport
from pushserver.publisher.transports import Address

T = TypeVar("T")

_ENDS = {"task.complete": "completed", "task.fail": "failed", "task.cancel": "cancelled"}


class _Recording(PublisherBase):
    """What both publishers for tests share. The options are those of `Publisher`, but for the address."""

    def __init__(self, **options: Any) -> None:
        self._recorder = _Recorder()
        super().__init__("null://", **{"min_interval": 0.0, **options})

    def _address_of(self, url: str, **options: Any) -> Address:
        return _Recorded(self._recorder, url, **options)

    def _retry(self, work: Callable[[Transport], T]) -> T:
        # In the order of the calls: what waits for nobody first.
        self._background.flush(10)
        return super()._retry(work)

    @property
    def sent(self) -> list[Command]:
        """Everything that was sent, in order, what goes by the background included: `method`, and `params`."""
        self._background.flush(10)
        return list(self._recorder.sent)

    def published_to(self, channel: str) -> list[Any]:
        """Return the data of what was published to a channel, by whichever call."""
        return [
            command.params["data"]
            for command in self.sent
            if channel == command.params.get("channel") or channel in command.params.get("channels", ())
        ]

    def notifications_for(self, user: Any) -> list[dict[str, Any]]:
        """Return the data of a user's notifications, oldest first."""
        return [
            command.params["data"]
            for command in self.sent
            if command.method == "notify"
            and (str(user) == command.params.get("userId") or str(user) in command.params.get("userIds", ()))
        ]

    def tasks_of(self, user: Any) -> list[dict[str, Any]]:
        """Return the last states of a user's tasks, as far as what was sent tells them, in order of creation."""
        states: dict[str, dict[str, Any]] = {}
        for command in self.sent:
            task_id = command.params.get("taskId", "")
            if command.method == "task.create":
                states[task_id] = {"status": "pending"} | command.params
            elif task_id in states:
                states[task_id] |= {"status": _ENDS.get(command.method, "running")} | command.params
        return [state for state in states.values() if state["userId"] == str(user)]

    def clear(self) -> None:
        """Forget what was sent so far."""
        self._background.flush(10)
        self._recorder.sent.clear()


class RecordingPublisher(_Recording, Publisher):
    """A `Publisher` that goes nowhere and remembers."""


class AsyncRecordingPublisher(_Recording, AsyncPublisher):
    """An `AsyncPublisher` that goes nowhere and remembers."""


class _Recorder(NullTransport):
    def __init__(self) -> None:
        self.sent: list[Command] = []

    def call(self, command: Command) -> Any:
        self.sent.append(command)
        return super().call(command)

    def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        named = {} if type is None else {"type": type}
        self.sent.append(Command("publish", {"channel": channel, "data": data, **named}))


class _Recorded(Address):
    def __init__(self, recorder: _Recorder, url: str, **options: Any) -> None:
        self._recorder = recorder
        super().__init__(url, **options)

    def transport(self) -> Transport:
        return self._recorder
