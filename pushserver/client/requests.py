"""Requests: numbered, paced, bounded in number and time, and repeated over as many connections as that takes."""

from __future__ import annotations

from collections import deque
from typing import Any

from pushserver.client.calls import Call
from pushserver.client.effects import Answered, Failed
from pushserver.client.errors import QueueFull, RequestFailed, RequestTimeout
from pushserver.client.line import CoreLine, Done
from pushserver.client.messages import Frame


class _Request:
    __slots__ = ("data", "deadline", "done", "number", "type", "user_id")

    def __init__(
        self, number: int, type: str, data: Any, deadline: int, done: Done | None, user_id: str | None
    ) -> None:
        self.number = number
        self.type = type
        self.data = data
        self.deadline = deadline
        #: for the core's own requests: what the reply means
        self.done = done
        #: who asked; None where the server had not said yet
        self.user_id = user_id


class Requests:
    """What was asked and has no answer yet."""

    def __init__(self, line: CoreLine) -> None:
        self._line = line
        self._numbers = 0
        self._pending: dict[int, _Request] = {}
        #: the core's own, which die with their link
        self._own: dict[int, _Request] = {}
        #: when a part of something longer came last
        self._moved_at = 0
        self._outgoing: deque[int] = deque()
        self._credit = float(line.options.burst)
        self._credit_at: int | None = None

    def add(self, call: Call[Any], now: int, user_id: str | None) -> int:
        """Take a request of the application's and return its number. Raises QueueFull."""
        if len(self._outgoing) >= self._line.options.max_queued:
            raise QueueFull(f"{len(self._outgoing)} requests wait for a connection already")
        request = self._new(call.name, call.data, now, None, user_id)
        self._pending[request.number] = request
        self._outgoing.append(request.number)
        self.send(now)
        return request.number

    def ask(self, type: str, data: Any, now: int, done: Done) -> int:
        """Send a request of the core's own at once and return its number."""
        request = self._new(type, data, now, done, None)
        self._own[request.number] = request
        self._transmit(request)
        return request.number

    def forget(self, number: int) -> None:
        """Nobody waits for this answer any more; what is not sent yet is not sent."""
        if self._pending.pop(number, None) is not None and number in self._outgoing:
            self._outgoing.remove(number)

    def send(self, now: int) -> None:
        """Send what waits, no faster than the server takes it."""
        if not self._line.connected:
            return
        options = self._line.options
        if self._credit_at is not None:
            self._credit = min(options.burst, self._credit + (now - self._credit_at) * options.rate / 1000)
        self._credit_at = now
        while self._outgoing and self._credit >= 1:
            self._transmit(self._pending[self._outgoing.popleft()])

    def spend(self) -> None:
        """Count a message that the core sent by itself."""
        self._credit -= 1

    def due(self) -> list[int]:
        """Return when the oldest request expires and when the next may be sent, as far as that applies."""
        # All have the same time to live and the order is kept, so the oldest expires first.
        moments = [next(iter(self._pending.values())).deadline] if self._pending else []
        if self._own:
            moments.append(self._own_due())
        if self._line.connected and self._outgoing and self._credit_at is not None:
            moments.append(self._credit_at + int((1 - self._credit) * 1000 / self._line.options.rate) + 1)
        return moments

    def _own_due(self) -> int:
        """Return when the link is dead for no answer to the core's oldest request: it may be on its way still."""
        return max(next(iter(self._own.values())).deadline, self._moved_at + self._line.options.request_timeout)

    def progressed(self, now: int) -> None:
        """A part came of what is longer."""
        self._moved_at = now

    def expire(self, now: int) -> str | None:
        """End what had no answer in time. Return the type of an expired request of the core's own: the link is dead."""
        if self._own and self._own_due() <= now:
            return self._own.pop(next(iter(self._own))).type
        while self._pending:
            request = next(iter(self._pending.values()))
            if request.deadline > now:
                break
            self.forget(request.number)
            seconds = self._line.options.request_timeout / 1000
            self._line.emit(Failed(request.number, RequestTimeout(f"no answer to {request.type} within {seconds:g} s")))
        return None

    def reply(self, frame: Frame, now: int) -> bool:
        """Hand a reply to who asked. Return whether the message was one."""
        if not isinstance(frame.id, int):
            return False
        request = self._own.pop(frame.id, None) or self._pending.pop(frame.id, None)
        if request is None:
            return False
        if request.done is not None:
            request.done(frame, now)
        elif frame.type == "error":
            data = frame.data or {}
            error = RequestFailed(str(data.get("code", "")), str(data.get("message", "")), retry_after(frame))
            self._line.emit(Failed(request.number, error))
        else:
            self._line.emit(Answered(request.number, frame.data))
        return True

    def connected(self, now: int) -> None:
        """A new connection may send a whole burst."""
        self._credit, self._credit_at = float(self._line.options.burst), now

    def lost(self) -> None:
        """The link is gone: what had no answer is sent again in the old order; the core's own requests are not."""
        self._own.clear()
        # Requests carry a message id or only ask.
        self._outgoing = deque(self._pending)

    def fail(self, error: Exception, user_id: str | None = None) -> None:
        """End all requests of the application's, or only those of one user."""
        for request in list(self._pending.values()):
            if user_id in (None, request.user_id):
                self.forget(request.number)
                self._line.emit(Failed(request.number, error))

    def _new(self, type: str, data: Any, now: int, done: Done | None, user_id: str | None) -> _Request:
        self._numbers += 1
        deadline = now + self._line.options.request_timeout
        return _Request(self._numbers, type, data, deadline, done, user_id)

    def _transmit(self, request: _Request) -> None:
        self._line.transmit({"type": request.type, "id": request.number, "data": request.data})


def retry_after(frame: Frame) -> int | None:
    """Return the milliseconds after which an error says to try again, where it does."""
    value = (frame.data or {}).get("retryAfter")
    return value if isinstance(value, int) else None
