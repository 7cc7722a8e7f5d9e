"""Servers that are replaced under load, and what those notice who are connected or call.

    python -m tests.reliability.replacing [--clients 2000] [--only PART ...] [--write]

    workers           workers on Redis, one by one, as `pushctl restart-workers` does
    held, held-redis  a whole server behind a listening socket that outlives it, as a unit's socket does
    nginx, haproxy    two nodes on one Redis, one after the other, behind the samples of etc/

Clients follow rooms with a history; two others call as fast as they may, over a kept connection and over a new one
each time. Exit status 1 where a call failed or was refused, a client lost a message, was closed in another way than by
being sent elsewhere or had to move more than once (behind a balancer: for each node), or a call took longer than is
allowed.
--write puts the figures into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import datetime
import resource
import shutil
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.app.test_held_socket import CONFIG as HELD
from tests.app.test_held_socket import Held
from tests.cluster.conftest import API_KEY, SECRET, Deployment
from tests.etc.balancers import NODES, Haproxy, Nginx, TwoNodes
from tests.harness import ROOT, wait_until
from tests.reliability.caller import Caller, Calls
from tests.reliability.crowd import NAMESPACE, Crowd
from tests.tables import write_column

PAGE: Final = ROOT / "docs" / "reliability.md"
TITLE: Final = "Replaced under load"
#: How many clients share a room.
SHARED: Final = 10
#: Seconds that a call may take where nobody has to wait for a start.
LONGEST: Final = 1.0
#: Seconds until all clients are where they belong.
PATIENCE: Final = 180.0

CONFIG: Final = f'[server]\nshutdown_drain = "10s"\n{NAMESPACE}'


@dataclass
class Outcome:
    """What a part has seen. ``allowed``: seconds that the longest call may take."""

    clients: int
    allowed: float = LONGEST
    calls: list[Calls] = field(default_factory=list)
    #: by client
    moves: Counter[int] = field(default_factory=Counter)
    #: how often each client may have to move
    moves_due: range = range(1, 2)
    received: int = 0
    failed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def longest(self) -> float:
        return max((calls.longest for calls in self.calls), default=0.0)

    def broken(self) -> list[str]:
        """Return what does not hold, a line each, but how long calls took."""
        lines = [f"a call failed: {problem}" for calls in self.calls for problem in calls.failed]
        lines += [f"a connection failed: {problem}" for problem in self.failed]
        lines += [f"missing: {problem}" for problem in self.missing]
        for times, clients in sorted(Counter(self.moves[number] for number in range(self.clients)).items()):
            if times not in self.moves_due:
                lines.append(f"{clients} clients had to move {times} times")
        return lines

    def cells(self) -> dict[str, str]:
        """Return its column of the table."""
        received = f"{self.received:,}; {len(self.missing)}" if self.received else "none were published"
        least, most = min(self.moves.values(), default=0), max(self.moves.values(), default=0)
        moved = "once" if least == most == 1 else f"{least} to {most} times" if most else "never"
        return {
            "clients": f"{self.clients:,}",
            "each had to move": moved,
            "connections that failed": f"{len(self.failed)}",
            "messages to clients; missing": received,
            "calls": f"{sum(calls.calls for calls in self.calls):,}",
            "failed or refused": f"{sum(len(calls.failed) for calls in self.calls)}",
            "longest call; allowed": f"{self.longest:.2f} s; {self.allowed:.2f} s",
            "it took": f"{self.seconds:.0f} s",
        }


@contextmanager
def load(
    outcome: Outcome, url: Callable[[], str], callers: Sequence[Callable[[], Caller]], tls: ssl.SSLContext | None = None
) -> Iterator[Crowd]:
    """Clients that are all connected, and callers that have begun. Afterwards the outcome has what they saw."""
    with ExitStack() as stack:
        crowd = stack.enter_context(Crowd(url, SECRET, outcome.clients, max(1, outcome.clients // SHARED), tls))
        wait_until(lambda: crowd.all_here, PATIENCE, "the clients are connected")
        calling = []
        for make in callers:
            calling.append(make())
            stack.callback(calling[-1].kill)
        began = time.monotonic()
        yield crowd
        wait_until(lambda: crowd.all_here, PATIENCE, "all clients came back")
        outcome.seconds = time.monotonic() - began
        outcome.calls = [caller.end() for caller in calling]
        outcome.moves, outcome.received = crowd.moves, crowd.received
        outcome.failed, outcome.missing = crowd.failed, crowd.missing


def publishers(origin: str, clients: int, ca: str = "") -> list[Callable[[], Caller]]:
    """Return what makes two callers that publish to the rooms of so many clients."""
    url = f"{origin}/api/publish"
    rooms = max(1, clients // SHARED)
    return [lambda kept=kept: Caller(url, API_KEY, rooms, kept, ca) for kept in (False, True)]


def workers(place: Path, clients: int) -> Outcome:
    """Two workers are replaced one by one."""
    outcome = Outcome(clients)
    site = Deployment(place)
    try:
        server = site.server("--redis", site.redis().url, "--workers", "2", config=CONFIG)
        wait_until(lambda: server.log.count(" is ready") == 2)
        with load(outcome, lambda: server.ws_url, publishers(server.url, clients)) as crowd:
            assert server.api("POST", "/api/restart-workers").status == 200
            wait_until(lambda: not server.api("GET", "/api/restart-workers", timeout=60).body["running"], PATIENCE)
            assert server.api("GET", "/api/restart-workers").body["problem"] == ""
            wait_until(lambda: crowd.moves.total() >= clients, PATIENCE, "all clients have moved")
    finally:
        site.end()
    return outcome


def held(place: Path, clients: int, options: Sequence[str] = ()) -> Outcome:
    """A server ends, and another begins, behind one socket. Who calls meanwhile waits for both."""
    outcome = Outcome(clients)
    socket = Held(place, [*options], HELD + NAMESPACE)
    try:
        server = socket.start()
        with load(outcome, lambda: server.ws_url, publishers(f"http://127.0.0.1:{socket.port}", clients)) as crowd:
            began = time.monotonic()
            server.terminate()
            server = socket.start()
            # The wait, and the call itself.
            outcome.allowed = time.monotonic() - began + LONGEST
            wait_until(lambda: crowd.moves.total() >= clients, PATIENCE, "all clients have moved")
    finally:
        socket.end()
    return outcome


def held_redis(place: Path, clients: int) -> Outcome:
    """The same on Redis, with two workers."""
    site = Deployment(place)
    try:
        return held(place, clients, ("--redis", site.redis().url, "--workers", "2"))
    finally:
        site.end()


def behind(kind: type[TwoNodes], place: Path, clients: int) -> Outcome:
    """Two nodes behind a balancer are replaced, one after the other."""
    outcome = Outcome(clients, moves_due=range(1, len(NODES) + 1))
    site = Deployment(place)
    with ExitStack() as stack:
        stack.callback(site.end)
        pair = kind(site, place, NAMESPACE)
        stack.callback(pair.end)
        token = pair.nodes[NODES[0]].token("42")
        url, ca = f"https://127.0.0.1:{pair.port}", str(pair.ca)
        if kind.API:
            callers = publishers(url, clients, ca)
        else:
            callers = [
                lambda kept=kept: Caller(f"{url}/healthz", kept=kept, ca=ca, pause=kind.PAUSE) for kept in (False, True)
            ]
        with load(outcome, lambda: pair.ws_url, callers, pair.tls) as crowd:
            for name in NODES:
                pair.replace(name, token)
            wait_until(lambda: len(crowd.moves) == clients, PATIENCE, "all clients have moved")
    return outcome


PARTS: Final[dict[str, Callable[[Path, int], Outcome]]] = {
    "workers": workers,
    "held": held,
    "held-redis": held_redis,
    "nginx": lambda place, clients: behind(Nginx, place, clients),
    "haproxy": lambda place, clients: behind(Haproxy, place, clients),
}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.replacing")
    parser.add_argument("--clients", type=int, default=2_000)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--write", action="store_true", help="the figures into docs/reliability.md")
    options = parser.parse_args(words)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    def show(text: str) -> None:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    status = 0
    for name in options.only or PARTS:
        place = Path(tempfile.mkdtemp(prefix="push-replacing-"))
        show(f"-- {name}")
        outcome = PARTS[name](place, options.clients)
        cells = outcome.cells() | {"on": datetime.date.today().isoformat()}
        for what, cell in cells.items():
            show(f"{what:32} {cell}")
        broken = outcome.broken()
        if outcome.longest > outcome.allowed:
            broken.append(f"a call took {outcome.longest:.2f} s")
        for problem in broken[:20]:
            show(problem)
        if options.write:
            write_column(PAGE, TITLE, name, cells)
        if broken:
            status = 1
            show(f"the logs are in {place}")
        else:
            shutil.rmtree(place)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
