"""How the figures of a path are taken: each function starts what it needs on a stage and returns what takes a round.

A round's figures are costs (less is better), but those whose name begins with ``rate``. All come from a `Watch`: the
CPU of the whole server, of Redis, and what the clients and everything else used meanwhile.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from bench.measure import resident
from bench.scoreboard.clients import Clients, Posts, Wrong, allow_descriptors
from bench.scoreboard.peers import NotifyingOurs, Peer, Position, Positions, compact
from bench.scoreboard.quiet import Processes, Watch
from bench.scoreboard.receiver import Receiver
from bench.scoreboard.records import Facts
from bench.servers import CHANNEL, Http, NotAvailable, redis_process

#: What whoever signs in subscribes to.
THREE = ("public:a", "public:b", "public:c")

#: The same with history, where clients come back to it.
THREE_KEPT = ("log:a", "log:b", "log:c")

#: Seconds in which a server finishes what clients that left have caused, and in which its memory comes to rest.
REST = 0.3
SETTLED = 2.0

#: Addresses from which the clients of the large paths come.
ADDRESSES = 50


@dataclass(frozen=True, slots=True)
class Taken:
    """One round of one peer."""

    figures: dict[str, float]
    facts: Facts
    quiet: bool


#: Takes a round.
Meter = Callable[[], Taken]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is done in a round. `QUICK` shows that a path works; its figures mean nothing."""

    name: str
    connections: int
    publications: int
    bursts: int
    posts: int
    publishers: int
    arrivals: int
    one_by_one: int
    storm: int
    returning: int
    present: int
    joins: int
    channels_each: int
    idle: int
    idle_seconds: float
    paced_seconds: float


FULL = Sizes(
    name="full",
    connections=1_000,
    publications=200,
    bursts=100,
    posts=5_000,
    publishers=32,
    arrivals=1_000,
    one_by_one=200,
    storm=5_000,
    returning=1_000,
    present=10_000,
    joins=200,
    channels_each=100,
    idle=10_000,
    idle_seconds=50.0,
    paced_seconds=5.0,
)

QUICK = Sizes(
    name="quick",
    connections=20,
    publications=10,
    bursts=5,
    posts=100,
    publishers=4,
    arrivals=20,
    one_by_one=5,
    storm=50,
    returning=20,
    present=50,
    joins=10,
    channels_each=5,
    idle=50,
    idle_seconds=1.0,
    paced_seconds=0.5,
)


@dataclass
class Stage:
    """What a path has started: all of it ends with the stack."""

    stack: ExitStack
    sizes: Sizes
    ours: Processes = field(default_factory=Processes)
    #: The Redis of each server that has one: their processes.
    redis: dict[int, int] = field(default_factory=dict)
    #: Publications a second at which latencies are taken.
    rate: float = 0.0

    def server(self, kind: type[Peer], redis: bool = False) -> Peer:
        """Start a server, with a Redis of its own where that is asked for."""
        url = ""
        if redis:
            port, pid = self.stack.enter_context(redis_process())
            self.ours.clients.add(pid)
            self.stack.callback(self.ours.clients.discard, pid)
            url = f"redis://127.0.0.1:{port}/0"
        server = kind(redis=url)
        self.stack.callback(server.stop)
        self.ours.sessions.add(server.pid)
        self.stack.callback(self.ours.sessions.discard, server.pid)
        if redis:
            self.redis[server.pid] = pid
        return server

    def clients(self, server: Peer, addresses: int = 0) -> Clients:
        """Start a process that can hold connections."""
        clients = Clients(server, addresses)
        self.stack.callback(clients.close)
        self.count(clients.pid)
        return clients

    def posts(self, server: Peer, connections: int) -> Posts:
        posts = Posts(server.port, connections)
        self.stack.callback(posts.close)
        self.count(posts.pid)
        return posts

    def count(self, pid: int) -> None:
        """What this process uses is a client's."""
        self.ours.clients.add(pid)
        self.stack.callback(self.ours.clients.discard, pid)

    def watch(self, server: Peer, *clients: Clients | Posts | Receiver) -> Watch:
        return Watch(self.ours, server.pid, [each.pid for each in clients], self.redis.get(server.pid, 0))

    def round(self) -> Stage:
        """Return a stage for what one round starts; the caller closes its stack. It knows what else is running."""
        return Stage(ExitStack(), self.sizes, self.ours, self.redis)


def taken(watch: Watch, figures: dict[str, float], **facts: float) -> Taken:
    """Return a round with what every round tells."""
    told = {"load": watch.load, "other": watch.other, "seconds": watch.seconds, **facts}
    return Taken(figures, {name: round(value, 4) for name, value in told.items()}, watch.quiet)


def each_anew(stage: Stage, take: Callable[[Stage], Taken]) -> Meter:
    """Return a meter that starts everything anew in each round, and ends it."""

    def meter() -> Taken:
        own = stage.round()
        with own.stack:
            return take(own)

    return meter


# -- delivery ---------------------------------------------------------------------------------------------------------


def _followed(stage: Stage, kind: type[Peer]) -> tuple[Peer, Clients]:
    """Return a server and its clients, all of which follow one channel."""
    connections = stage.sizes.connections
    allow_descriptors(connections)
    server = stage.server(kind)
    clients = stage.clients(server)
    clients.connect(clients.greet(range(connections), (CHANNEL,)))
    # Once for what is made at the first of them.
    clients.reset()
    for _ in range(10):
        server.publish()
        clients.wait(connections)
    return server, clients


def one_a_turn(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how a publication to everybody is taken: the next when the last has come to all."""
    server, clients = _followed(stage, kind)
    return _fanned_out(stage, server, clients, stage.sizes.publications, 1, server.publish)


def ten_a_turn(stage: Stage, kind: type[Peer]) -> Meter:
    """The same with ten in one request."""
    server, clients = _followed(stage, kind)
    return _fanned_out(stage, server, clients, stage.sizes.bursts, 10, lambda: server.burst(10), kind.distinct)


def _fanned_out(
    stage: Stage,
    server: Peer,
    clients: Clients,
    times: int,
    each: int,
    publish: Callable[[], None],
    ordered: bool = True,
) -> Meter:
    """Return how this is taken so many times, with so many publications each time."""
    connections = stage.sizes.connections

    def meter() -> Taken:
        clients.reset()
        with stage.watch(server, clients) as watch:
            for _ in range(times):
                publish()
                clients.wait(each * connections)
        deliveries = times * each * connections
        counts = clients.check(times * each, ordered)
        return taken(watch, {"cpu": watch.server / deliveries * 1e6}, frame=counts.octets / deliveries)

    return meter


def own_channels(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how a publication to one subscriber is taken where each of very many channels has one."""
    connections, each = stage.sizes.connections, stage.sizes.channels_each
    allow_descriptors(connections)
    server = stage.server(kind)
    warm_up(server, stage)
    before = resident(server.pid)
    clients = stage.clients(server)
    own = [f"public:own-{{user}}-{k}" for k in range(each)]
    clients.connect(clients.greet(range(connections), (), own=own))
    time.sleep(SETTLED)
    kept = (resident(server.pid) - before) / connections / each * 1024
    posts = stage.posts(server, stage.sizes.publishers)

    def meter() -> Taken:
        count = stage.sizes.posts
        first = time.monotonic_ns() // 1000
        users = [n * 7919 % connections for n in range(count)]
        names = [f"public:own-{user}-{n // connections % each}" for n, user in enumerate(users)]
        posts.prepare(server.request(name, f"{first + n:016d}") for n, name in enumerate(names))
        clients.reset()
        with stage.watch(server, clients, posts) as watch:
            posts.post()
            clients.wait(count)
        clients.check(count // connections, ordered=False)
        return taken(watch, {"cpu": watch.server / count * 1e6, "memory": kept})

    return meter


def paced(stage: Stage, kind: type[Peer], sets_rate: bool) -> Meter:
    """Return how latencies are taken, at half of what one of the path's peers can publish: it is prepared first."""
    if not sets_rate and not stage.rate:
        raise NotAvailable("no rate without the peer, which says how much it can")
    server, clients = _followed(stage, kind)
    connections = stage.sizes.connections
    if sets_rate:
        clients.reset()
        times = max(5, stage.sizes.publications // 4)
        with stage.watch(server, clients) as watch:
            for _ in range(times):
                server.publish()
                clients.wait(connections)
        stage.rate = times / max(watch.server, 1e-3) / 2
    rate = stage.rate

    def meter() -> Taken:
        clients.reset()
        count = max(2, int(rate * stage.sizes.paced_seconds))
        with stage.watch(server, clients) as watch:
            began = time.monotonic_ns() // 1000
            for n in range(count):
                # Its time begins when it is due: what waits for an answer that is late has waited.
                due = began + int(n * 1e6 / rate)
                left = due / 1e6 - time.monotonic()
                if left > 0:
                    time.sleep(left)
                server.publish(sent=f"{due:016d}")
            clients.wait(count * connections)
        clients.check(count)
        p50, p99, p999 = clients.percentiles()
        return taken(watch, {"p50": p50 / 1e3, "p99": p99 / 1e3, "p99.9": p999 / 1e3}, rate=rate)

    return meter


def warm_up(server: Peer, stage: Stage) -> None:
    """A first few come and go, so that no figure pays for what is done once."""
    own = stage.round()
    with own.stack:
        clients = own.clients(server)
        clients.connect(clients.greet(range(min(200, stage.sizes.connections)), THREE))
    time.sleep(REST)


# -- publishing with history ------------------------------------------------------------------------------------------


def kept(stage: Stage, kind: type[Peer], redis: bool) -> Meter:
    """Return how publications into histories are taken: publishers at once, each for a channel with one subscriber."""
    return _to_one_each(stage, kind, redis, "log:own", stage.sizes.publishers)


def one_user_each(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how publications through Redis are taken: publishers at once, one user after another."""
    return _to_one_each(stage, kind, True, "public:own", stage.sizes.connections)


def _to_one_each(stage: Stage, kind: type[Peer], redis: bool, channels: str, many: int) -> Meter:
    """Return how publications are taken to so many channels, one after another, each with one subscriber."""
    count = stage.sizes.posts
    allow_descriptors(many)
    server = stage.server(kind, redis)
    clients = stage.clients(server)
    if kind.delivers:
        clients.connect(clients.greet(range(many), (), own=[channels + "-{user}"]))
    posts = stage.posts(server, stage.sizes.publishers)

    def meter() -> Taken:
        first = time.monotonic_ns() // 1000
        posts.prepare(server.request(f"{channels}-{n % many}", f"{first + n:016d}") for n in range(count))
        clients.reset()
        with stage.watch(server, clients, posts) as watch:
            seconds = posts.post()
            if kind.delivers:
                clients.wait(count)
        if kind.delivers and ((counts := clients.counts()).disordered or counts.most - counts.least > 1):
            raise Wrong(f"{counts.disordered} out of order; {counts.least} to {counts.most} for a channel")
        figures = {"rate": count / seconds, "cpu": watch.server / count * 1e6}
        if redis:
            figures["redis"] = watch.redis / count * 1e6
        return taken(watch, figures)

    return meter


# -- what no peer has -------------------------------------------------------------------------------------------------


def notified(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how durable messages to one user each are taken: publishers at once, each user connected."""
    users, count = stage.sizes.connections, stage.sizes.posts
    allow_descriptors(users)
    server = stage.server(kind)
    clients = stage.clients(server)
    clients.connect(clients.greet(range(users), THREE))
    posts = stage.posts(server, stage.sizes.publishers)

    def meter() -> Taken:
        first = time.monotonic_ns() // 1000
        data = [{"userId": f"u{n % users}", "data": {"sent": f"{first + n:016d}", "text": "x"}} for n in range(count)]
        posts.prepare(server.request_to("/api/notify", each) for each in data)
        clients.reset()
        with stage.watch(server, clients, posts) as watch:
            seconds = posts.post()
            clients.wait(count)
        clients.check(count // users, ordered=False)
        return taken(watch, {"rate": count / seconds, "cpu": watch.server / count * 1e6})

    return meter


def pending(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how inboxes are read: users who were away sign in, and are sent the 20 messages that wait for each."""
    waiting, together = 20, 100

    def take(own: Stage) -> Taken:
        count = own.sizes.returning
        allow_descriptors(count)
        server = own.server(kind)
        warm_up(server, own)
        for first in range(0, count, together):
            users = [f"u{n}" for n in range(first, min(first + together, count))]
            for _ in range(waiting):
                sent = f"{time.monotonic_ns() // 1000:016d}"
                body = compact({"userIds": users, "data": {"sent": sent, "text": "x"}})
                server.http.post("/api/notify", body, server.headers)
        clients = own.clients(server, ADDRESSES)
        path = clients.greet(range(count), ())
        clients.reset()
        with own.watch(server, clients) as watch:
            clients.connect(path)
            clients.wait(waiting * count)
        clients.check(waiting)
        return taken(watch, {"cpu": watch.server / count * 1e6, "seconds": watch.seconds})

    return each_anew(stage, take)


def progress(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how progress of tasks is taken: 1,000 at once, in batches of 100, each task's owner connected.

    Each task reports ten times a second, which its owner is shown once a second, and the last report at the end.
    """
    tasks, batch, rate = stage.sizes.connections, 100, 10
    allow_descriptors(tasks)
    server = stage.server(kind)
    clients = stage.clients(server)
    clients.connect(clients.greet(range(tasks), THREE))

    def commands(method: str, **each: Any) -> Iterator[dict[str, Any]]:
        """Yield the batches with a command for each task."""
        for first in range(0, tasks, batch):
            numbers = range(first, min(first + batch, tasks))
            yield {
                "commands": [
                    {"method": method, "params": {"taskId": f"t{n}", "userId": f"u{n}", **each}} for n in numbers
                ]
            }

    for body in commands("task.create"):
        server.http.post(server.batch_path, compact(body), server.headers)
    percentages = itertools.count(1)

    def meter() -> Taken:
        updates = max(2, int(rate * stage.sizes.paced_seconds))
        bodies: list[bytes] = []
        for _ in range(updates):
            percentage = (next(percentages) + 0.5) / 100  # written alike everywhere
            bodies += map(compact, commands("task.progress", percentage=percentage))
        apart = updates / rate / len(bodies)
        clients.count_text(f'"percentage":{percentage}')
        with stage.watch(server, clients) as watch:
            began = time.monotonic()
            for n, body in enumerate(bodies):
                left = began + n * apart - time.monotonic()
                if left > 0:
                    time.sleep(left)
                server.http.post(server.batch_path, body, server.headers)
            posted = time.monotonic() - began
            clients.wait(tasks)
        done = updates * tasks
        return taken(watch, {"cpu": watch.server / done * 1e6}, rate=done / posted)

    return meter


def told(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how events are taken: the ends of tasks, publishers at once, each told to a webhook."""
    count, batch = stage.sizes.posts, 100
    server = stage.server(kind)
    assert isinstance(server, NotifyingOurs)
    stage.count(server.receiver.pid)
    posts = stage.posts(server, stage.sizes.publishers)
    rounds = itertools.count()

    def meter() -> Taken:
        number = next(rounds)
        names = [f"t{number}-{n}" for n in range(count)]
        for first in range(0, count, batch):
            commands = [
                {"method": "task.create", "params": {"taskId": name, "userId": f"u{n % 1000}"}}
                for n, name in enumerate(names[first : first + batch])
            ]
            server.http.post(server.batch_path, compact({"commands": commands}), server.headers)
        posts.prepare(server.request_to(f"/api/tasks/{name}/complete", {}) for name in names)
        server.receiver.reset()
        with stage.watch(server, posts, server.receiver) as watch:
            posts.post()
            seconds = server.receiver.wait(count)
        return taken(watch, {"rate": count / seconds, "cpu": watch.server / count * 1e6})

    return meter


def output(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how a task's output is taken: 100 bytes an append, publishers at once, one follower for each task."""
    many, appends = stage.sizes.publishers, stage.sizes.posts
    text = "x" * 99 + "\n"
    server = stage.server(kind)
    clients = stage.clients(server)
    for n in range(many):
        server.http.post("/api/tasks", compact({"taskId": f"t{n}", "userId": f"u{n}"}), server.headers)
    clients.connect(clients.greet(range(many), (), own=["output:main/t{user}"]))
    posts = stage.posts(server, many)
    # A follower is sent what came together in one push: the position behind the last byte shows that all has come.
    done = appends // many * many
    rounds = itertools.count(1)

    def meter() -> Taken:
        posts.prepare(server.request_to(f"/api/tasks/t{n % many}/output", {"text": text}) for n in range(done))
        clients.count_text(f'"offset":{next(rounds) * (done // many) * len(text)}')
        with stage.watch(server, clients, posts) as watch:
            seconds = posts.post()
            clients.wait(many)
        return taken(watch, {"rate": done / seconds, "cpu": watch.server / done * 1e6})

    return meter


# -- arriving and coming back -----------------------------------------------------------------------------------------


def arrivals(stage: Stage, kind: type[Peer], redis: bool) -> Meter:
    """Return how arriving is taken: connect, sign in with a token, subscribe to three channels; then one by one."""

    def take(own: Stage) -> Taken:
        count, few = own.sizes.arrivals, own.sizes.one_by_one
        allow_descriptors(count + few)
        server = own.server(kind, redis)
        warm_up(server, own)
        many, single = own.clients(server, ADDRESSES), own.clients(server)
        path = many.greet(range(1_000, 1_000 + count), THREE)
        with own.watch(server, many) as watch:
            many.connect(path)
        one = single.connect(single.greet(range(100_000, 100_000 + few), THREE), window=1)
        figures = {"cpu": watch.server / count * 1e6, "wait": one / few * 1e3}
        if redis:
            figures["redis"] = watch.redis / count * 1e6
        return taken(watch, figures)

    return each_anew(stage, take)


def _missed(server: Peer, channel: str, messages: int) -> Position:
    """Publish a first message, and then those that are missed; return the position of the first."""
    position = server.position(server.send(channel))
    for _ in range(messages):
        server.send(channel)
    return position


class Bystanders:
    """Connections that stay, and somebody who publishes to them all the time: what others' troubles cost them."""

    RATE = 20

    def __init__(self, stage: Stage, server: Peer) -> None:
        self._server = server
        self._clients = stage.clients(server)
        self._many = min(100, stage.sizes.connections)
        self._clients.connect(self._clients.greet(range(500_000, 500_000 + self._many), ("public:bystanders",)))
        self._sent = 0
        self._failed: list[BaseException] = []

    @property
    def pid(self) -> int:
        return self._clients.pid

    def __enter__(self) -> Bystanders:
        self._clients.reset()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._publish)
        self._thread.start()
        return self

    def _publish(self) -> None:
        http = Http(self._server.port)
        try:
            while True:
                self._server.send("public:bystanders", http)
                self._sent += 1
                if self._ended.wait(1 / self.RATE):
                    return
        except (OSError, RuntimeError, ValueError) as problem:
            self._failed.append(problem)
        finally:
            http.close()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def p99(self) -> float:
        """Return the 99th percentile from publication to receipt, ms. Raises NotAvailable, Wrong."""
        if self._failed:
            raise NotAvailable(f"publishing meanwhile: {self._failed[0]}")
        self._clients.wait(self._sent * self._many)
        self._clients.check(self._sent)
        return self._clients.percentiles()[1] / 1e3


def storm(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how a storm is taken: all are cut at once, and come back with positions in three channels.

    Meanwhile 20 messages were published to one of the three. It is over when each client is subscribed to all three
    and has had the 20.
    """
    missed = 20

    def take(own: Stage) -> Taken:
        count = own.sizes.storm
        allow_descriptors(count + 200)
        server = own.server(kind)
        clients = own.clients(server, ADDRESSES)
        positions: Positions = {name: server.position(server.send(name)) for name in THREE_KEPT}
        clients.connect(clients.greet(range(count), THREE_KEPT))
        bystanders = Bystanders(own, server)
        clients.cut()
        for _ in range(missed):
            server.send(THREE_KEPT[0])
        path = clients.greet(range(count), THREE_KEPT, positions)
        clients.reset()
        with own.watch(server, clients) as watch, bystanders:
            began = time.monotonic()
            clients.connect(path, window=count)
            clients.wait(missed * count)
            seconds = time.monotonic() - began
        clients.check(missed)
        return taken(watch, {"seconds": seconds, "cpu": watch.server / count * 1e6, "meanwhile": bystanders.p99()})

    return each_anew(stage, take)


def recovery(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how recovery is taken: clients come with a position behind which 100 messages lie."""
    missed = 100

    def take(own: Stage) -> Taken:
        count = own.sizes.returning
        allow_descriptors(count)
        server = own.server(kind)
        warm_up(server, own)
        clients = own.clients(server, ADDRESSES)
        positions = {"log:a": _missed(server, "log:a", missed)}
        path = clients.greet(range(count), ("log:a",), positions)
        clients.reset()
        with own.watch(server, clients) as watch:
            clients.connect(path)
            clients.wait(missed * count)
        clients.check(missed)
        return taken(watch, {"cpu": watch.server / count * 1e6, "seconds": watch.seconds})

    return each_anew(stage, take)


# -- presence and rest ------------------------------------------------------------------------------------------------


def presence(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how joins are taken: users who sign in and enter a channel with presence, 200 a second."""
    rate = 200.0

    def take(own: Stage) -> Taken:
        there, joins = own.sizes.present, own.sizes.joins
        allow_descriptors(there + joins)
        server = own.server(kind)
        clients = own.clients(server, ADDRESSES)
        clients.connect(clients.greet(range(there), ("room:all",)))
        joining = own.clients(server, ADDRESSES)
        paths = joining.greet(range(600_000, 600_000 + joins), ("room:all",))
        time.sleep(REST)
        with own.watch(server, clients, joining) as watch:
            seconds = joining.connect_at(paths, rate)
        return taken(watch, {"cpu": watch.server / joins * 1e3}, rate=joins / seconds)

    return each_anew(stage, take)


def idle(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how rest is taken: the memory of each connection, and the CPU that all take with their pings."""

    def take(own: Stage) -> Taken:
        count = own.sizes.idle
        allow_descriptors(count)
        server = own.server(kind)
        warm_up(server, own)
        clients = own.clients(server, ADDRESSES)
        path = clients.greet(range(count), THREE)
        before = resident(server.pid)
        clients.connect(path)
        time.sleep(SETTLED)
        memory = (resident(server.pid) - before) / count
        with own.watch(server, clients) as watch:
            time.sleep(own.sizes.idle_seconds)
        if lost := clients.lost():
            raise Wrong(f"{lost} of {count} idle connections were ended")
        return taken(watch, {"memory": memory, "cpu": watch.server / watch.seconds * 1e3})

    return each_anew(stage, take)


def start(stage: Stage, kind: type[Peer]) -> Meter:
    """Return how the start is taken: from the process to the first answer."""

    def take(own: Stage) -> Taken:
        with Watch(own.ours) as watch:
            server = own.server(kind)
        return taken(watch, {"seconds": server.started_in})

    return each_anew(stage, take)
