"""How a figure is taken of a running server, from outside: by HTTP, WebSocket, and what the kernel says of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar

from bench.measure import cpu, resident
from bench.servers import Load, PushServer, Server, masked

#: What whoever signs in subscribes to.
CHANNELS = ("public:a", "public:b", "public:c")

#: Seconds in which a server finishes what clients that left have caused, and in which its memory comes to rest.
REST = 0.3
SETTLED = 2.0

Kind = TypeVar("Kind", bound=Server)


@contextmanager
def running(
    kind: type[Kind], connections: int = 0, own: int = 0, load: Callable[[Server], Load] = Load, **options: Any
) -> Iterator[tuple[Kind, Load]]:
    """A server of its own, with the client that loads it (``load`` makes it); both are gone afterwards."""
    with ExitStack() as stack:
        server = kind(**options)
        stack.callback(server.stop)
        client = load(server)
        stack.callback(client.close)
        if connections:
            client.open(connections, own=own)
        yield server, client


def warm(server: Server, connections: int, load: Callable[[Server], Load] = Load) -> None:
    """A first few come and go, so that no figure pays for what is done once."""
    client = load(server)
    try:
        client.open(connections, channels=CHANNELS)
    finally:
        client.close()
    time.sleep(REST)


def one_a_turn(server: Server, load: Load, publications: int, connections: int) -> float:
    """µs of the server's CPU for one delivery, one publication a turn: the next when the last has come to all."""
    load.reset()
    before = cpu(server.pid)
    for _ in range(publications):
        server.publish()
        load.wait(connections)
    return (cpu(server.pid) - before) / publications / connections * 1e6


def ten_a_turn(server: Server, load: Load, bursts: int, connections: int) -> float:
    """The same with ten publications in one request."""
    load.reset()
    before = cpu(server.pid)
    for _ in range(bursts):
        server.burst(10)
        load.wait(10 * connections)
    return (cpu(server.pid) - before) / bursts / 10 / connections * 1e6


def notify(
    server: PushServer, load: Load, turns: int, users: int, at_once: int = 1, others: Sequence[int] = ()
) -> float:
    """µs of CPU for a notification that is kept and handed out, so many in one request, to one user after another.

    ``others``: processes whose CPU counts beside the server's.
    """

    def used() -> float:
        return sum(map(cpu, (server.pid, *others)))

    load.reset()
    before = used()
    for first in range(0, turns * at_once, at_once):
        server.notify(*(f"u{number % users}" for number in range(first, first + at_once)))
        load.wait(at_once)
    return (used() - before) / turns / at_once * 1e6


def sign_in(server: Server, load: Load, count: int, first: int = 0, window: int = 64) -> tuple[float, float]:
    """µs of the server's CPU, and ms that pass, for each of so many clients that connect, sign in and subscribe."""
    path = load.prepare(count, CHANNELS, first=first)
    before = cpu(server.pid)
    taken = load.open(count, window, path)
    return (cpu(server.pid) - before) / count * 1e6, taken / count * 1e3


def idle_memory(server: Server, load: Load, count: int) -> float:
    """KiB of resident memory for each of so many connections that have signed in and subscribed."""
    path = load.prepare(count, CHANNELS)
    before = resident(server.pid)
    load.open(count, path=path)
    time.sleep(SETTLED)
    return (resident(server.pid) - before) / count


def inbound(server: Server, load: Load, connections: int, each: int) -> float:
    """µs of the server's CPU for a ping that it answers; each of the connections sends so many at once."""
    octets = masked(json.dumps({"type": "ping", "id": 7, "data": {"n": 12345}}).encode()) * each
    before = cpu(server.pid)
    load.flood(octets, '"pong"', connections * each)
    return (cpu(server.pid) - before) / connections / each * 1e6
