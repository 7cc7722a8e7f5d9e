"""`ITaskStore`: the states of tasks, changed by comparing versions inside the scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from twisted.internet.defer import Deferred, gatherResults
from zope.interface import implementer

from pushserver.core import errors
from pushserver.core import publication as publications
from pushserver.core.inbox import INBOXES
from pushserver.core.positions import Position
from pushserver.core.task import TaskState
from pushserver.engine.coroutines import started
from pushserver.engine.identity import TASK as TASK_KEYS
from pushserver.engine.interfaces import IdempotencyKey, ITaskStore, TaskRules

from .events import packed
from .names import TASK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.core.events import NewEvent
    from pushserver.core.output import NewOutput
    from pushserver.core.publication import Publication
    from pushserver.engine.interfaces import EventRules, TaskEvent

    from .commands import RedisCommands
    from .connection import Part
    from .inbox_limits import InboxLimits
    from .live import Live
    from .names import Names
    from .outputs import RedisOutputs
    from .quarantine import Quarantine

#: An unfinished task without news is failed as stale long before; this only keeps Redis clean where nobody runs, ms.
_UNFINISHED_TTL: Final = 365 * 24 * 3600 * 1000

#: How a script answers that nothing was changed.
_REFUSED: Final = (b"duplicate", b"unknown", b"version", b"ended", b"kind", b"many")

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(TaskState).decode


@implementer(ITaskStore)
class RedisTasks:
    """Each task in a hash, with sorted sets to find a user's and the stale ones."""

    def __init__(
        self,
        commands: RedisCommands,
        live: Live,
        names: Names,
        limits: InboxLimits,
        quarantine: Quarantine,
        ttl: int,
        others: tuple[EventRules, RedisOutputs],
    ) -> None:
        """``ttl``: how long an ended task stays known at first, ms. ``others``: the rules of the outbox of events, and
        the outputs."""
        self.rules = TaskRules(ttl)
        self._event_rules, self._outputs = others
        self._commands = commands
        self._quarantine = quarantine
        self._live = live
        self._names = names
        self._limits = limits

    def _once(self, task_id: str, once: IdempotencyKey | None) -> tuple[str, IdempotencyKey] | None:
        return (self._names.once(TASK_KEYS, task_id, once), once) if once is not None else None

    def _keys(self, state: TaskState) -> list[str]:
        return [self._names.task(state.task_id), *self._names.tasks(state.user_id), self._names.stale]

    def create(self, event: TaskEvent, once: IdempotencyKey | None) -> Deferred[TaskState]:
        return started(self._create(event, once))

    async def _create(self, event: TaskEvent, once: IdempotencyKey | None) -> TaskState:
        state = event.state
        channels = (INBOXES + state.user_id, TASK + state.task_id)
        tag = self._live.tag(*channels)
        reply = await self._commands.write(
            "task_create",
            self._keys(state),
            *self._arguments(state, _UNFINISHED_TTL, event, tag),
            once=self._once(state.task_id, once),
        )
        self._live.changed(event, tag, channels, not reply)
        if not reply:
            return state
        if reply[0] == b"exists":
            raise errors.Conflict("the task exists")
        if reply[0] == b"version":
            raise errors.Unavailable("Redis' data was replaced")
        return _decode(reply[1])

    def _arguments(self, state: TaskState, ttl: int, event: TaskEvent, tag: str) -> list[Part]:
        return [
            state.task_id,
            _encode(state),
            state.version,
            state.created_at,
            state.updated_at,
            ttl,
            _encode(event),
            tag,
            self._names.live(TASK + state.task_id),
            self._names.live(INBOXES + state.user_id),
        ]

    def lowest_version(self) -> int:
        return self._commands.lowest_version

    def replace(
        self,
        event: TaskEvent,
        final: Publication | None,
        once: IdempotencyKey | None,
        kept: int | None = None,
        events: Sequence[NewEvent] = (),
        output: NewOutput | None = None,
    ) -> Deferred[bool]:
        return started(self._replace(event, final, once, kept, packed(events, self._event_rules), output))

    async def _replace(
        self,
        event: TaskEvent,
        final: Publication | None,
        once: IdempotencyKey | None,
        kept: int | None,
        told: bytes,
        output: NewOutput | None,
    ) -> bool:
        state = event.state
        done = state.final
        channels = (TASK + state.task_id,) if done else (INBOXES + state.user_id, TASK + state.task_id)
        tag = self._live.tag(*channels)
        body = publications.encode(final) if final is not None else b""
        last = b"" if output is None else self._outputs.packed(output)
        reply = await self._commands.write(
            "task_replace",
            [*self._keys(state), self._names.inbox(state.user_id)],
            *self._arguments(state, self._limits.task_ttl(self.rules.ttl) if done else _UNFINISHED_TTL, event, tag),
            "final" if done else "",
            body,
            *self._limits.rules,
            *self._limits.ttls,
            "" if self._commands.waits or final is None else self._names.live(final.channel),
            state.version - 1 if kept is None else kept,
            last,
            "later" if self._commands.waits else "",
            once=self._once(state.task_id, once),
            told=told,
            durable=done or bool(told) or bool(last),
        )
        happened = not reply or reply[0] not in _REFUSED
        self._live.changed(event, tag, channels, happened)
        if not happened:
            self._outputs.check([each.decode() if isinstance(each, bytes) else each for each in reply])
            return bool(reply[0] == b"duplicate")
        if reply and output is not None:
            self._outputs.note(output, int(reply[2]))
        for live, line in zip(reply[3::2], reply[4::2], strict=True):
            await self._live.appended(live.decode(), line)
        if reply and final is not None:
            await self._live.kept(final, body, Position(int(reply[0]), reply[1].decode()))
        return True

    def replace_all(self, changes: Sequence[tuple[TaskEvent, int]]) -> Deferred[list[bool | errors.PushError]]:
        return Deferred.fromCoroutine(self._replace_all(changes))

    async def _replace_all(self, changes: Sequence[tuple[TaskEvent, int]]) -> list[bool | errors.PushError]:
        by_task: dict[str, list[int]] = {}
        for place, (event, _) in enumerate(changes):
            by_task.setdefault(event.state.task_id, []).append(place)
        answers: list[bool | errors.PushError] = [False] * len(changes)

        async def replace(places: list[int]) -> None:
            for count, place in enumerate(places):
                event, kept = changes[place]
                try:
                    answers[place] = await self._replace(event, None, None, kept, b"", None)
                except errors.NotFound:
                    return
                except errors.PushError as problem:
                    for later in places[count:]:
                        answers[later] = problem.with_traceback(None)
                    return
                if not answers[place]:
                    return

        await gatherResults([Deferred.fromCoroutine(replace(places)) for places in by_task.values()])
        return answers

    def restart(
        self, event: TaskEvent, once: IdempotencyKey | None, kept: int | None = None
    ) -> Deferred[TaskState | None]:
        return started(self._restart(event, once, kept))

    async def _restart(self, event: TaskEvent, once: IdempotencyKey | None, kept: int | None) -> TaskState | None:
        state = event.state
        channels = (INBOXES + state.user_id, TASK + state.task_id)
        tag = self._live.tag(*channels)
        reply = await self._commands.write(
            "task_restart",
            [*self._keys(state), self._names.inbox(state.user_id)],
            *self._arguments(state, _UNFINISHED_TTL, event, tag),
            *self._limits.ttls,
            state.version - 1 if kept is None else kept,
            once=self._once(state.task_id, once),
        )
        self._live.changed(event, tag, channels, not reply)
        if not reply:
            return state
        if reply[0] == b"unknown":
            raise errors.NotFound("no such task")
        return _decode(reply[1]) if reply[0] == b"duplicate" else None

    def get(self, task_id: str) -> Deferred[TaskState]:
        return started(self._get(task_id))

    async def _get(self, task_id: str) -> TaskState:
        state = await self._commands.call("HGET", self._names.task(task_id), "state")
        found = [] if state is None else await self._read([task_id.encode(), state])
        if not found:
            raise errors.NotFound("no such task")
        return found[0]

    async def _read(self, rows: list[bytes]) -> list[TaskState]:
        """Return the states of task id and state in turns, without those that cannot be read."""
        states: list[TaskState] = []
        for task_id, state in zip(rows[::2], rows[1::2], strict=True):
            try:
                states.append(_decode(state))
            except msgspec.MsgspecError as error:
                name = task_id.decode()
                await self._quarantine.put("task", name, self._names.task(name), state, str(error))
        return states

    def get_all(self, task_ids: Sequence[str]) -> Deferred[dict[str, TaskState | errors.PushError]]:
        return Deferred.fromCoroutine(self._get_all(task_ids))

    async def _get_all(self, task_ids: Sequence[str]) -> dict[str, TaskState | errors.PushError]:
        found: dict[str, TaskState | errors.PushError] = {}
        rows: list[bytes] = []

        async def read(task_id: str) -> None:
            try:
                state = await self._commands.call("HGET", self._names.task(task_id), "state")
            except errors.PushError as problem:
                found[task_id] = problem.with_traceback(None)
            else:
                rows.extend(() if state is None else (task_id.encode(), state))

        await gatherResults([Deferred.fromCoroutine(read(task_id)) for task_id in task_ids])
        found.update((state.task_id, state) for state in await self._read(rows))
        return found

    def of_user(self, user_id: str, unfinished: bool, limit: int) -> Deferred[list[TaskState]]:
        return started(self._of_user(user_id, unfinished, limit))

    async def _of_user(self, user_id: str, unfinished: bool, limit: int) -> list[TaskState]:
        keys = self._names.tasks(user_id)[:2]
        reply = await self._commands.run_in_epoch(
            "tasks_of", keys, limit, "unfinished" if unfinished else "", self._names.task("")
        )
        return await self._read(reply)

    def stale(self, age: int, limit: int) -> Deferred[list[TaskState]]:
        return started(self._stale(age, limit))

    async def _stale(self, age: int, limit: int) -> list[TaskState]:
        now, *states = await self._commands.run_in_epoch(
            "tasks_stale", [self._names.stale], age, limit, self._names.task("")
        )
        self._commands.note_time(now)
        return [] if self._commands.time.step else await self._read(states)

    def idle(self, task_ids: Sequence[str]) -> Deferred[list[int]]:
        return started(self._idle(task_ids))

    async def _idle(self, task_ids: Sequence[str]) -> list[int]:
        return [int(each) for each in await self._commands.run_in_epoch("tasks_idle", [self._names.stale], *task_ids)]

    def done(self, task_id: str, key: str) -> Deferred[bool]:
        return started(self._done(task_id, key))

    async def _done(self, task_id: str, key: str) -> bool:
        return bool(await self._commands.call("EXISTS", self._names.once(TASK_KEYS, task_id, IdempotencyKey(key))))
