"""A run of a plan, and its history."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.logger import globalLogPublisher

from .devices import Device
from .disk import Disk, copy_store, fill
from .history import FORMAT, History
from .network import End, Network
from .nodes import REDIS_HOST, REDIS_PORT, FailureObserver, Node, SimulatedRedis, configuration
from .outputs import OWNER, Reader, Writer, texts
from .plan import NEWS, ORDERS, ROOM, USERS, Plan, Step
from .publishers import Ingester, Publisher, Worker
from .receivers import EventReceiver
from .redis.server import RedisSession
from .sdks import SdkDevice
from .sentinels import MISTAKEN, Sentinels
from .streams import StreamDevice
from .world import Process, World

#: Seconds that pass after everything was mended, until it is judged: a lease, a look at positions, and some.
SETTLING = 50.0
#: Seconds that the reading at the end takes at most.
READING = 12.0
#: Where the replica is, where there are sentinels.
REPLICA_HOST = "10.0.1.2"
#: Seconds more until an event that failed twice was sent once more, where there are events.
TRYING_AGAIN = 45.0
#: Seconds until a node is back that ended with Redis.
BACK_LATER = 4.0
#: The limits of a node with a narrower configuration.
NARROW = {"inbox": {"max_messages": 2}, "tasks": {"ttl": "1m"}}


class Run:
    """One run.

    Args:
        trace: takes the product's log lines, where somebody wants to read them.
    """

    def __init__(self, plan: Plan, folder: Path, trace: Callable[[str], None] | None = None) -> None:
        self._plan = plan
        self._folder = folder
        self._trace = trace
        self.world = World(plan.seed)
        self.network = Network(self.world)
        self.history = History(lambda: self.world.now * 1000)
        self.disk = Disk(self.world)
        self.world.replaced += self.disk.governed()
        #: by node: where its store lies now, and how often it has begun
        self._stores: dict[str, Path] = {}
        self._starts = 0
        self.redis = self._make_redis(REDIS_HOST)
        self.sentinels: Sentinels | None = None
        #: when they replaced the master last, s
        self._replaced_at = 0.0
        if "sentinels" in plan.settings.get("redis", {}):
            self.sentinels = Sentinels(self.world, self.network, self.redis, self._make_redis(REPLICA_HOST))
        #: who begins an entry next is killed after so many seconds, for as many
        self._doomed: list[tuple[Step, float, float]] = []
        #: for how long who writes under a lease next stands still
        self._stalling: list[float] = []
        #: by whose write is late: the lease
        self._late: dict[RedisSession, bytes] = {}
        #: nodes with narrower limits than the others
        self._narrowed: set[str] = set()
        #: how far Redis' clock was set in all, s
        self._redis_set = 0.0
        #: by a step's time: data as it was, and when
        self._saved: dict[float, tuple[object, float]] = {}
        self.nodes = [
            Node(self.world, self.network, number, lambda number=number: self._configure(f"n{number}"), self._failed)
            for number in range(1, plan.nodes + 1)
        ]
        self.devices = [self._make_device(number, **each) for number, each in enumerate(plan.devices, 1)]
        self.publisher = Publisher(self.world, self.network, self.history, "publisher", self._choose, 1)
        self.auditor = Publisher(self.world, self.network, self.history, "auditor", self._choose_ready, 2)
        self._receiver = EventReceiver(self.world, self.network, self.history) if "events" in plan.settings else None
        self.ingester = Ingester(self.world, self.network, self.history, lambda: self.redis.host, "ingester", ORDERS)
        #: who reads along what tasks write, and these tasks
        self.readers: list[Reader] = []
        self._writing: list[str] = []
        self.world.failed = self._raised
        self._mended = False

    def _make_redis(self, host: str) -> SimulatedRedis:
        made = SimulatedRedis(self.world, self.network, self._plan.policy, host)
        made.model.stale_write = self._stale_write
        made.model.entry_begun = self._entry_begun
        made.model.is_late = self._is_late
        made.model.leased = self._leased
        return made

    def _make_device(self, number: int, *, stream: bool = False, sdk: bool = False, **each: Any) -> Device:
        kind = StreamDevice if stream else SdkDevice if sdk else Device
        return kind(self.world, self.network, self.history, choose=self._choose, number=number, **each)

    def _configure(self, name: str) -> Any:
        settings = {section: dict(values) for section, values in self._plan.settings.items()}
        settings.setdefault("redis", {})["url"] = f"redis://{REDIS_HOST}:{REDIS_PORT}/0"
        settings.setdefault("server", {})["state_dir"] = str(self._store_of(name))
        for section, values in NARROW.items() if name in self._narrowed else ():
            settings.setdefault(section, {}).update(values)
        return configuration(self._folder / f"{name}.toml", settings)

    def _store_of(self, name: str) -> Path:
        """Return where a node that begins finds its store: a copy, since who was killed still holds the files here."""
        self._starts += 1
        place = self._folder / f"{name}-{self._starts}"
        if name in self._stores:
            copy_store(self._stores[name], place)
        self._stores[name] = place
        return place

    def _choose(self) -> tuple[str, str] | None:
        """Choose as a balancer that has not noticed everything yet."""
        living = [node for node in self.nodes if node.alive]
        chosen = living if living and self.world.chance.random() < 0.9 else self.nodes
        node = self.world.chance.choice(chosen)
        return node.name, node.host

    def _choose_ready(self) -> tuple[str, str] | None:
        ready = [node for node in self.nodes if node.ready]
        if not ready:
            return None
        node = self.world.chance.choice(ready)
        return node.name, node.host

    def _failed(self, node: Node, text: str) -> None:
        self.history.note("failure", node=node.name, text=text)

    def _raised(self, process: Process, text: str) -> bool:
        for node in self.nodes:
            if node.process is process:
                self._failed(node, text)
                return True
        return False

    def _stale_write(self, lease: bytes, token: bytes) -> None:
        self.history.note("stale_write", lease=lease.decode(), token=token.decode())

    # -- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Let it happen; return the history."""
        plan = self._plan
        observer = FailureObserver(self.world, self.nodes, self._trace)
        globalLogPublisher.addObserver(observer)
        try:
            with self.world.governed():
                self._begin()
                for step in plan.steps:
                    self._schedule(step)
                self.world.run(plan.seconds)
                self._mend()
                # Redis' clock is what leases end by.
                settling = SETTLING + self._redis_set + (TRYING_AGAIN if self._receiver is not None else 0)
                self.world.run(plan.seconds + settling)
                self._read_all()
                self.world.run(plan.seconds + settling + READING)
                self._judge_devices()
        finally:
            globalLogPublisher.removeObserver(observer)
        if observer.outside:
            raise RuntimeError(f"a failure outside of every node: {observer.outside[0]}")
        return self.history.end()

    def _begin(self) -> None:
        plan = self._plan
        self.history.note(
            "begin",
            format=FORMAT,
            seed=plan.seed,
            nodes=[node.name for node in self.nodes],
            devices=[device.describe() for device in self.devices],
            settings=plan.settings,
            strict=list(plan.strict),
        )
        for node in self.nodes:
            node.start()
        for device in self.devices:
            self.world.at(0.3, device.start)

    def _schedule(self, step: Step) -> None:
        if "lag" in step.with_:
            # What is written after this moment will be lost.
            self.world.at(max(0.5, step.at - step.with_["lag"]), self._save, step)
        self.world.at(step.at, self._do, step)

    def _do(self, step: Step) -> None:
        if step.fault:
            self.history.note("fault", fault=step.do, **step.with_)
        getattr(self, f"_{step.do}")(step, **step.with_)

    def _mend(self) -> None:
        """Everything works again from now on."""
        self.history.note("mended")
        self._mended = True
        for reader in self.readers:
            reader.stay()
        for name in sorted(self._narrowed):
            self._widen(self._node(name))
        if self._receiver is not None:
            self._receiver.well = True
        self.network.unreachable.clear()
        self.redis.model.database.full = ""
        self.disk.slow = 0
        for node in self.nodes:
            self._fill(node, False)
        if self.redis.process.held:
            self.redis.process.go_on()
        if not self.redis.process.alive:
            self.redis.start()
        if self.sentinels is not None and not self.sentinels.ready:
            self._old_returns(self.redis)
        late = {session.transport.peer.process for session in self._late}
        for node in self.nodes:
            # A lease has to end before what is late arrives: that is longer than most runs.
            if node.process.held and node.process not in late:
                node.process.go_on()
            if not node.alive or node.ending:
                node.start()

    def _read_all(self) -> None:
        if self.sentinels is not None and not self.sentinels.ready:
            # What waits for a replica is never answered then, and the nodes would be blamed for it.
            raise RuntimeError("everything was mended, and nobody follows the master")
        self.history.note("settled")
        for device in self.devices:
            # What is shown of a status is as old as its last message; an answer is of now.
            device.process.later(0, device.ask_statuses)
        for user in USERS:
            self.auditor.read("inbox", "/api/inbox", userId=user)
            self.auditor.read("tasks", "/api/tasks", userId=user)
        for channel in (*NEWS, ORDERS, ROOM):
            self.auditor.read("history", "/api/history", channel=channel, limit="1000")
        for task in self._writing:
            self.auditor.read("output", f"/api/tasks/{task}/output")
        if self._writing:
            self.auditor.read("tasks", "/api/tasks", userId=OWNER)
        self.auditor.read("presence", "/api/presence", channel=ROOM)
        self.auditor.read("nodes", "/api/nodes")
        if self._receiver is not None:
            self.auditor.read("events", "/api/events", limit="1000")

    def _judge_devices(self) -> None:
        for device in self.devices:
            self.history.note(
                "device", device=device.name, connected=device.signed_in, wanted=device.wanted, user=device.user
            )
        for reader in self.readers:
            reader.note()

    def _node(self, name: str) -> Node:
        return next(node for node in self.nodes if node.name == name)

    def _device(self, name: str) -> Device:
        return next(device for device in self.devices if device.name == name)

    # -- faults in the midst of an entry ------------------------------------------------------------------------------

    def _owner(self, session: RedisSession) -> Node | None:
        """Return whose session it is; None where that one has ended since, also where another began under its name."""
        return next((node for node in self.nodes if node.process is session.transport.peer.process), None)

    def _kill_ingest(self, step: Step, after: float, seconds: float) -> None:
        self._doomed.append((step, after, seconds))

    def _entry_begun(self, session: RedisSession) -> None:
        owner = self._owner(session)
        if self._doomed and not self._mended and owner is not None:
            step, after, seconds = self._doomed.pop()
            self.world.at(self.world.now + after, self._kill, step, owner.name, seconds)

    def _late_write(self, step: Step, seconds: float) -> None:
        self._stalling.append(seconds)

    def _is_late(self, session: RedisSession, lease: bytes) -> bool:
        """Let a write under a lease be under way until another node has the lease; its node stands still meanwhile."""
        process = session.transport.peer.process
        if not self._stalling or self._mended or process.held:
            return False
        seconds = self._stalling.pop()
        self._late[session] = lease
        self.world.at(self.world.now + seconds, self._go_on, session, process.hold())
        return True

    def _leased(self, lease: bytes) -> None:
        # Who stands still renews none: it is another one's.
        for session in [session for session, wanted in self._late.items() if wanted == lease]:
            self._deliver_late(session)

    def _deliver_late(self, session: RedisSession) -> None:
        if self._late.pop(session, None) is not None:
            session.transport.process.later(0, session.deliver_late)

    def _go_on(self, session: RedisSession, end: Callable[[], None]) -> None:
        self._deliver_late(session)
        end()

    # -- operations ---------------------------------------------------------------------------------------------------

    def _notify(self, step: Step, user: str, key: str) -> None:
        self.publisher.notify(user, key)

    def _burst(self, step: Step, user: str, keys: list[str]) -> None:
        for key in keys:
            self.publisher.notify(user, key)

    def _rush(self, step: Step, channel: str, keys: list[str], seconds: float) -> None:
        """Publish so many messages in so short a time."""
        for number, key in enumerate(keys):
            self.world.at(self.world.now + seconds * number / len(keys), self.publisher.publish, channel, key)

    def _away(self, step: Step, device: str, seconds: float, keys: list[str]) -> None:
        """A device leaves and comes back; meanwhile its user is sent these."""
        chosen = self._device(device)
        chosen.leave()
        for number, key in enumerate(keys, 1):
            self.world.at(self.world.now + seconds * number / (len(keys) + 1), self.publisher.notify, chosen.user, key)
        self.world.at(self.world.now + seconds, chosen.start)

    def _resubscribe(self, step: Step, device: str) -> None:
        self._device(device).resubscribe()

    def _collapse(self, step: Step, user: str, key: str, collapse: str) -> None:
        self.publisher.notify(user, key, collapseKey=collapse)

    def _publish(self, step: Step, channel: str, key: str, without: str = "") -> None:
        self.publisher.publish(channel, key, without)

    def _task(self, step: Step, task: str, user: str, steps: list[int], end: str) -> None:
        Worker(self.publisher, task, user, steps, end)

    def _output(self, step: Step, task: str, count: int, readers: list[float]) -> None:
        self._writing.append(task)
        Writer(self.publisher, task, texts(self._plan.seed, task, count))
        for after in readers:
            self.world.at(self.world.now + after, self._read_along, task)

    def _read_along(self, task: str) -> None:
        number = len(self.readers) + 1
        self.readers.append(Reader(self.world, self.network, self.history, self._choose, task, number))
        if self._mended:
            self.readers[-1].stay()

    def _ingest(self, step: Step, keyed: bool) -> None:
        self.ingester.add(keyed)

    def _chat(self, step: Step, user: str, key: str) -> None:
        device = self._device(f"{user}-phone")
        device.process.later(
            0, device.call, "chat", "chat_message", {"content": key, "channel": ROOM, "messageId": key}
        )

    def _direct(self, step: Step, user: str, to: str, key: str) -> None:
        device = self._device(f"{user}-phone")
        device.process.later(
            0, device.call, "direct", "chat_message", {"content": key, "targetId": to, "messageId": key}
        )

    def _leave(self, step: Step, device: str) -> None:
        self._device(device).leave()

    def _come(self, step: Step, device: str) -> None:
        self._device(device).start()

    def _mark(self, step: Step, device: str, read: bool, up_to: bool) -> None:
        self._device(device).change_inbox("inbox.read", {"read": read}, up_to)

    def _delete(self, step: Step, device: str) -> None:
        self._device(device).change_inbox("inbox.delete", {}, False)

    def _list(self, step: Step, device: str, unread: bool) -> None:
        self._device(device).list_inbox(unread)

    def _read(self, step: Step, user: str, channel: str) -> None:
        self.publisher.read("inbox", "/api/inbox", userId=user)
        self.publisher.read("history", "/api/history", channel=channel, limit="1000")

    # -- faults -------------------------------------------------------------------------------------------------------

    def _later(self, seconds: float, call: Callable[..., None], *args: object) -> None:
        """Mend a fault after a while, unless everything was mended before."""

        def mend() -> None:
            if not self._mended:
                call(*args)

        self.world.at(self.world.now + seconds, mend)

    def _kill(self, step: Step, node: str, seconds: float) -> None:
        chosen = self._node(node)
        if chosen.alive:
            chosen.kill()
            self._later(seconds, self._start, chosen)

    def _start(self, node: Node) -> None:
        if not node.alive or node.ending:
            self.history.note("started", node=node.name)
            node.start()

    def _stop(self, step: Step, node: str, seconds: float) -> None:
        chosen = self._node(node)
        # As long as one has narrower limits, another one is there that has not.
        if chosen.alive and not chosen.process.held and not self._narrowed:
            chosen.stop()
            self._later(seconds + 5, self._start, chosen)

    def _hold(self, step: Step, node: str, seconds: float) -> None:
        process = self._node(node).process
        if process.alive and not process.held:
            self._later(seconds, process.hold())

    def _part(self, step: Step, node: str, seconds: float) -> None:
        pair = frozenset((self._node(node).host, REDIS_HOST))
        self.network.unreachable.add(pair)
        for end in self._redis_ends(node):
            end.stop(seconds)
            end.peer.stop(seconds)
        self._later(seconds, self.network.unreachable.discard, pair)

    def _redis_ends(self, node: str, pubsub: bool | None = None) -> list[End]:
        """Return Redis' ends of a node's connections; with ``pubsub`` those for Pub/Sub alone, or all others."""
        process = self._node(node).process
        subscribed = {session.transport for sessions in self.redis.model.subscribers.values() for session in sessions}
        return [
            end
            for end in self.network.ends_of(self.redis.process)
            if end.peer.process is process and (pubsub is None or pubsub == (end in subscribed))
        ]

    def _cut_redis(self, step: Step, node: str) -> None:
        for end in self._redis_ends(node):
            if self.world.chance.random() < 0.7:
                end.cut()

    def _cut_pubsub(self, step: Step, node: str) -> None:
        for end in self._redis_ends(node, True):
            end.cut()

    def _delay_pubsub(self, step: Step, node: str, seconds: float) -> None:
        for end in self._redis_ends(node, True):
            end.stop(seconds)

    def _lose_replies(self, step: Step, node: str) -> None:
        """Commands are carried out, and their replies lost."""
        for end in self._redis_ends(node, False):
            end.stop(10)
            self.world.at(self.world.now + self.world.chance.uniform(0.05, 0.8), end.cut)

    def _drop_device(self, step: Step, device: str) -> None:
        self._device(device).drop()

    def _slow_device(self, step: Step, device: str, seconds: float) -> None:
        line = self._device(device).line
        if line is not None and line.transport is not None:
            line.transport.peer.stop(seconds)

    # -- faults of Redis ----------------------------------------------------------------------------------------------

    def _end_redis(self, seconds: float, saved: object | None, flush: bool = False) -> None:
        """The process ends; another begins after a while, with the data as it was, as it was saved, or with none."""
        if not self.redis.process.alive:
            return
        self.redis.process.held = False
        self.redis.stop()
        if flush:
            self.redis.model.database.flush()
        self.redis.model.restart(saved)
        self._later(seconds, self._start_redis, self.redis)

    def _start_redis(self, redis: SimulatedRedis) -> None:
        if not redis.process.alive:
            self.history.note("started", node="redis")
            redis.start()

    def _redis_restart(self, step: Step, seconds: float) -> None:
        self._end_redis(seconds, None)

    _redis_down = _redis_restart

    def _redis_hold(self, step: Step, seconds: float) -> None:
        """Redis stands still, and carries out what came meanwhile when it goes on, also for who gave up."""
        if self.redis.process.alive and not self.redis.process.held:
            self._later(seconds, self.redis.process.hold())

    def _save(self, step: Step) -> None:
        saved: object
        if step.do == "disk_older":
            saved = self._folder / f"saved-{step.at}"
            copy_store(self._stores[step.with_["node"]], Path(str(saved)))
        else:
            saved = self.redis.model.database.save()
        self._saved[step.at] = (saved, self.world.now)

    def _older(self, step: Step) -> object:
        """Return the data as it was a while ago; what was written since is lost."""
        saved, since = self._saved[step.at]
        self.history.note("data_lost", since=round(since * 1000, 3))
        return saved

    def _redis_lost(self, step: Step, seconds: float, lag: float, node: str = "") -> None:
        """Another process begins with older data: a dump, or a replica that was behind. ``node``: who ends with it."""
        if self.redis.process.alive:
            self._end_redis(seconds, self._older(step))
            self._end_with_redis(step, node)

    def _end_with_redis(self, step: Step, node: str) -> None:
        """The node on Redis' machine ends too, and is back when others have found the new Redis."""
        if node:
            self._kill(step, node, BACK_LATER)

    def _redis_flush(self, step: Step, seconds: float) -> None:
        if self.redis.process.alive:
            self.history.note("data_lost", since=0)
            self._end_redis(seconds, None, flush=True)

    def _failover(self, step: Step, seconds: float, lag: float = 0.0, back: bool = False, node: str = "") -> None:
        """The sentinels make the replica the master.

        Args:
            lag: how far the replica is behind, s.
            node: who ends with the master.
            back: the old master stands still, and takes itself for the master for a moment when it goes on.
        """
        old = self.redis
        if self.sentinels is None or not self.sentinels.ready or not old.process.alive or old.process.held:
            return
        data = self._older(step) if lag else old.model.database.save()
        self.redis, self._replaced_at = self.sentinels.promote(data, old), self.world.now
        # A program that leaves entries learns it from the sentinels at once.
        self.ingester.drop()
        old.model.followed = False
        if back:
            old.process.hold()
        else:
            old.stop()
        self._later(seconds, self._old_returns, self.redis)
        self._end_with_redis(step, node)

    _failover_lost = _failover_back = _failover

    def _old_returns(self, master: SimulatedRedis) -> None:
        """What was the master follows this one, at once or after a moment in which it does not know that yet."""
        assert self.sentinels is not None
        old = self.sentinels.replica
        if old.process.held:
            old.process.go_on()
            self.world.at(self.world.now + MISTAKEN, self._corrected, master)
        elif not old.process.alive:
            self.sentinels.follow(master)

    def _corrected(self, master: SimulatedRedis) -> None:
        assert self.sentinels is not None
        # What the old master answered while nobody followed it; with ``wait_replicas`` it answered nothing.
        lost = "unanswered_lost" if self._plan.settings["redis"]["wait_replicas"] else "data_lost"
        self.history.note(lost, since=round(self._replaced_at * 1000, 3))
        self.sentinels.follow(master)

    def _redis_full(self, step: Step, seconds: float) -> None:
        database = self.redis.model.database
        database.full = "OOM command not allowed when used memory > 'maxmemory'."
        self._later(seconds, setattr, database, "full", "")

    def _redis_rollback(self, step: Step, lag: float) -> None:
        """The data goes back inside the same process, as by ``DEBUG RELOAD NOSAVE``."""
        self.redis.model.database.load(self._older(step))

    def _evict_presence(self, step: Step, share: float) -> None:
        # What a node says of itself is used every few seconds: that goes last.
        kinds = ("online", "seen", "members", "infos")
        self.redis.model.evict([f"push:{kind}:".encode() for kind in kinds], share)
        sets = [key for key in self.redis.model.database.all_keys() if key.endswith((b":connections", b":joins"))]
        self.redis.model.evict(sorted(sets), share)

    def _evict(self, step: Step, share: float) -> None:
        kinds = ("inbox", "history", "messages", "online", "members", "task")
        gone = self.redis.model.evict([f"push:{kind}:".encode() for kind in kinds], share)
        self.history.note("data_lost", since=0, keys=[key.decode() for key in gone])

    # -- faults of a disk ---------------------------------------------------------------------------------------------

    def _fill(self, node: Node, full: bool) -> None:
        if node.ready and self._plan.settings["engine"]["kind"] == "embedded":
            assert node.service is not None
            fill(node.service.node.engine, full)

    def _disk_full(self, step: Step, node: str, seconds: float) -> None:
        self._fill(self._node(node), True)
        self._later(seconds, self._fill, self._node(node), False)

    def _disk_slow(self, step: Step, node: str, seconds: float) -> None:
        self.disk.slow = 0.3
        self._later(seconds, setattr, self.disk, "slow", 0)

    def _disk_older(self, step: Step, node: str, lag: float) -> None:
        """The node ends, and begins with an older copy of its store."""
        saved, since = self._saved[step.at]
        self.history.note("data_lost", since=round(since * 1000, 3))
        chosen = self._node(node)
        if chosen.alive:
            chosen.kill()
        # A log of the newer data would be taken for one of the older.
        for file in self._stores[node].glob("pushserver.db*"):
            file.unlink()
        for file in sorted(Path(str(saved)).glob("pushserver.db*")):
            shutil.copy(file, self._stores[node])
        if not chosen.alive:
            chosen.start()

    # -- faults of clocks and configurations --------------------------------------------------------------------------

    def _step_node(self, step: Step, node: str, ms: int) -> None:
        """The wall clock of a running node is set. One that begins has nothing else to go by: where it has a store of
        its own, its clock is right."""
        chosen = self._node(node)
        chosen.process.skew += ms
        if self._plan.settings["engine"]["kind"] == "redis":
            chosen.skew = chosen.process.skew

    def _step_redis(self, step: Step, ms: int) -> None:
        self.redis.process.skew += ms
        self._redis_set += abs(ms) / 1000

    def _narrow(self, step: Step, node: str, seconds: float) -> None:
        """The node begins anew with narrower limits than another one that lives, and after a while with the same."""
        chosen = self._node(node)
        others = [each for each in self.nodes if each is not chosen and each.name not in self._narrowed]
        if chosen.alive and not chosen.ending and any(each.ready and not each.process.held for each in others):
            self._narrowed.add(node)
            chosen.kill()
            chosen.start()
            self._later(seconds, self._widen, chosen)

    def _widen(self, node: Node) -> None:
        self._narrowed.discard(node.name)
        if node.alive:
            node.kill()
            node.start()


def run(plan: Plan, trace: Callable[[str], None] | None = None) -> str:
    """Return the history of a plan's run."""
    # Where files are memory, a sync costs nothing; how long it takes is the world's to say.
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        history = Run(plan, Path(folder), trace).run()
    _collect()
    return history


def _collect() -> None:
    """Let what is left of the nodes go: in the midst of what it did, so that its code may complain, to nobody."""
    complain = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        gc.collect()
    finally:
        sys.unraisablehook = complain
