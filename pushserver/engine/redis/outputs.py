"""`IOutputs`: what tasks write while they work, appended and read by one script each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.defer import Deferred
from zope.interface import implementer

from pushserver.core import errors, output
from pushserver.core.output import MAX_OUTPUTS, OutputKind, ProducerConflict
from pushserver.core.positions import Position
from pushserver.engine.identity import OUTPUT as OUTPUT_KEYS
from pushserver.engine.interfaces import IOutputs, OutputPage, OutputRules, OutputTaken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.output import NewOutput, Producer
    from pushserver.engine.interfaces import IdempotencyKey

    from .commands import RedisCommands
    from .live import Live
    from .names import Names
    from .output_pages import OutputPages
    from .shared_settings import SharedSettings

#: How often it is looked whether the task of an output goes on, ms, and how many are looked at in one go.
_LOOK_AGAIN: Final = 600_000
_SWEPT: Final = 200

_pack: Final = msgspec.msgpack.Encoder().encode


@implementer(IOutputs)
class RedisOutputs:
    """Each output in a hash, and its pieces in another."""

    def __init__(
        self, commands: RedisCommands, live: Live, names: Names, pages: OutputPages, settings: SharedSettings
    ) -> None:
        self._commands = commands
        self._live = live
        self._names = names
        self._pages = pages
        self.rules = OutputRules()
        self._settings = settings
        self.appended = self.trimmed = 0
        #: bytes that all nodes' outputs held when they were last counted, and what this node added since
        self._counted = 0

    def append(
        self,
        task_id: str,
        new: NewOutput,
        producer: Producer | None,
        attempt: int | None,
        once: IdempotencyKey | None,
    ) -> Deferred[OutputTaken]:
        channel = output.channel_of(new.name, task_id)
        literal = output.literal(new.kind, new.body)
        keys = [self._names.task(task_id), *self._names.output(channel), self._names.stale]
        packed = self._commands.append(
            keys,
            new.name,
            new.kind.value,
            new.body,
            new.count,
            "" if attempt is None else attempt,
            *(("", "", "") if producer is None else (producer.id, producer.epoch, producer.seq)),
            self._max_bytes,
            "" if self._commands.waits else self._names.live(channel),
            literal,
            new.timestamp,
            MAX_OUTPUTS,
            task_id,
            once=None if once is None else (self._names.once(OUTPUT_KEYS, task_id, once), once),
        )
        # No coroutine: there is one of these for each token.
        return packed.addCallback(self._taken, keys, channel, new, literal)

    def _taken(
        self, packed: bytes, keys: list[str], channel: str, new: NewOutput, literal: bytes
    ) -> OutputTaken | Deferred[OutputTaken]:
        answer = self._commands.appended(packed, keys)
        word, *rest = answer
        if word == "duplicate":
            offset, of = str(rest[0]).split(" ")
            return OutputTaken(int(offset), of, duplicate=True)
        if word == "repeat":
            return OutputTaken(int(rest[0]), str(rest[1]), duplicate=True, cancel_requested=bool(rest[2]))
        self.check(answer)
        reached, epoch, before = int(rest[0]), str(rest[1]), int(rest[3])
        self.note(new, int(rest[4]))
        taken = OutputTaken(reached, epoch, cancel_requested=bool(rest[2]))
        if self._commands.waits:
            line = f"o {reached} {epoch} {self._commands.writes} {before} {new.timestamp} 0\n".encode() + literal
            told: Deferred[None] | None = Deferred.fromCoroutine(self._live.appended(self._names.live(channel), line))
        else:
            told = self._live.answered(output.appended(channel, epoch, (before, reached), literal, new.timestamp))
        return taken if told is None else told.addCallback(lambda _: taken)

    def note(self, new: NewOutput, trimmed: int) -> None:
        """Count what was appended, and the bytes of the oldest that went for it."""
        self.appended += len(new.body)
        self.trimmed += trimmed
        self._counted += len(new.body) - trimmed

    async def sweep(self) -> None:
        """Close, or remove, some of the outputs whose tasks an older node has ended or begun anew. Fails with
        `errors.Unavailable`."""
        await self._commands.run_in_epoch("outputs_sweep", [], _LOOK_AGAIN, _SWEPT, self._names.task(""))

    async def measure(self) -> None:
        """Count what is kept. Fails with `errors.Unavailable`."""
        (self._counted,) = await self._commands.run_in_epoch("outputs_kept", [])

    def figures(self) -> dict[str, float]:
        return {
            "output_bytes_in_total": float(self.appended),
            "output_bytes_kept": float(self._counted),
            "output_bytes_trimmed_total": float(self.trimmed),
        }

    @property
    def _max_bytes(self) -> int:
        """While nodes differ, the widest of their bounds."""
        return self._settings.widest("tasks.output_max_bytes", self.rules.max_bytes)

    def packed(self, new: NewOutput) -> bytes:
        """Return what is appended as ``task_replace.lua`` takes it."""
        literal = output.literal(new.kind, new.body).decode()
        return _pack(
            (new.name, new.kind.value, new.body.decode(), new.count, literal, new.timestamp, self._max_bytes,
             MAX_OUTPUTS)
        )  # fmt: skip

    @staticmethod
    def check(answer: Sequence[int | str]) -> None:
        """Raise what a script refused an append with, where it did."""
        match answer[0]:
            case "unknown":
                raise errors.NotFound("no such task")
            case "attempt":
                raise errors.Conflict(f"the task is in attempt {answer[1]}")
            case "ended":
                raise errors.Conflict("the task has ended")
            case "kind":
                raise errors.Conflict(f"the output holds {answer[1]}")
            case "many":
                output.check_number(MAX_OUTPUTS)
            case "begin":
                raise errors.Invalid("a producer's epoch begins at seq 0")
            case "fenced":
                raise ProducerConflict("the producer has a later epoch", int(answer[1]), int(answer[2]))
            case "gap":
                raise ProducerConflict(
                    "appends of the producer are missing before this one", int(answer[1]), int(answer[2])
                )
            case _:
                return

    def read(self, task_id: str, name: str, since: Position | None, max_bytes: int) -> Deferred[OutputPage]:
        return Deferred.fromCoroutine(self._read(output.channel_of(name, task_id), since, max_bytes))

    async def _read(self, channel: str, since: Position | None, max_bytes: int) -> OutputPage:
        after, epoch = (None, None) if since is None else (since.offset, since.epoch)
        page, newest = await self._pages.page(channel, after, epoch, max_bytes)
        if page.kind is not None:
            # Of an end that a node of an older version made nobody else tells.
            reached = newest + 1 if page.closed else page.offset
            await self._live.reached(channel, Position(reached, page.epoch))
        if page.kind is OutputKind.TEXT and page.body and not output.begins_character(page.body[0]):
            raise errors.Invalid("the position lies inside a character")
        return page
