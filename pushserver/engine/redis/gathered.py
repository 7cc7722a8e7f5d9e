"""Writes of one turn of the reactor that go to Redis in few calls of their script, and are answered one by one.

A worker sends what is due for all of its outputs in one request: a call for each would cost this node, and Redis, more
than what it does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core.errors import PushError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pushserver.engine.interfaces import EngineClock

    from .connection import Part, Reply

#: So many writes are one call at most, and no more are added to one that has so many bytes: Redis does nothing else
#: meanwhile, and this node gives their answers in one go.
MOST: Final = 10
MOST_BYTES: Final = 256 * 1024

_pack: Final = msgspec.msgpack.Encoder().encode


class GatheredWrites:
    """Calls of a script that carries out several at once.

    Args:
        call: calls it with what is packed; returns their answers, each packed as the script gives it. Fails with
            `errors.PushError`.
    """

    _log = Logger()

    def __init__(self, clock: EngineClock, call: Callable[[bytes], Awaitable[list[Reply]]]) -> None:
        self._clock = clock
        self._call = call
        #: the keys and the arguments of each write, packed, and who waits for its answer
        self._packed: list[msgspec.Raw] = []
        self._waiting: list[Deferred[bytes]] = []
        self._bytes = 0
        self._scheduled = False

    def add(self, keys: Sequence[str], arguments: Sequence[Part]) -> Deferred[bytes]:
        """Return the script's answer to this write, packed. Fails with `errors.PushError`."""
        answer: Deferred[bytes] = Deferred()
        packed = _pack(
            (keys, [each if type(each) is str else each.decode() if type(each) is bytes else str(each)
                    for each in arguments])
        )  # fmt: skip
        self._packed.append(msgspec.Raw(packed))
        self._waiting.append(answer)
        self._bytes += len(packed)
        # What is large is kept no more often than it must be.
        del packed
        if len(self._packed) >= MOST or self._bytes >= MOST_BYTES:
            self.send()
        elif not self._scheduled:
            self._scheduled = True
            self._clock.later(0, self._end_of_turn)
        return answer

    def _end_of_turn(self) -> None:
        self._scheduled = False
        self.send()

    def send(self) -> None:
        """Send what was gathered: whatever is sent after this comes after it."""
        if self._packed:
            # Once more in one piece, and no longer one by one: the answer may take its time.
            whole = _pack(self._packed)
            waiting, self._waiting, self._packed, self._bytes = self._waiting, [], [], 0
            self._clock.detach(self._send(whole, waiting), self._log, "writing")

    async def _send(self, whole: bytes, waiting: list[Deferred[bytes]]) -> None:
        answers: list[Any]  # Any: what comes from Redis; `Script.may_reply` has seen that each is bytes
        try:
            answers = await self._call(whole)
            if len(answers) != len(waiting):
                raise Unavailable("Redis did not answer to each write")
        except Exception as problem:
            # Whatever it is: each of them waits for an answer.
            for each in waiting:
                each.errback(type(problem)(str(problem)) if isinstance(problem, PushError) else problem)
            return
        for each, answer in zip(waiting, answers, strict=True):
            each.callback(answer)
