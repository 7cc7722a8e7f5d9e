"""python -m bench counts [PATH ...] [--clients N] [--instructions] [--functions N]

What the coming of a client costs, a request that publishes, or a report of a task, in counts: other work on the machine
does not move them much. Calls of the server's main thread, of Python's functions and of C's, by part of the program
(cProfile); or with ``--instructions`` those of the whole process outside of the kernel (callgrind, which valgrind
brings). Each beside the libraries alone: Twisted and Autobahn, or twisted.web; where Redis is asked, with txredisapi
(and PyJWT, in a sign-in).
"""

from __future__ import annotations

import argparse
import os
import pstats
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, TypeVar

from bench.scoreboard.meters import QUICK, REST, THREE, Stage
from bench.scoreboard.peers import Ours, Peer, Positions, TwistedAndAutobahn, TwistedAndTxredisapi, TwistedWeb, compact
from bench.servers import PEERS

#: A function, as cProfile names it: its file, its line and its name.
Function = tuple[str, int, str]
#: How often each function was called, and by whom how often.
Calls = Mapping[Function, tuple[int, Mapping[Function, int]]]
Parts = Mapping[str, str]
Counted = TypeVar("Counted")

#: The parts of the program, by where their code stands: the first that fits. What is in none of them, as C's functions
#: and Deferreds, is counted where it is called from.
PARTS: Parts = {
    "Redis": r"/txredisapi|/hiredis/|/pushserver/engine/redis/",
    "embedded engine": r"/pushserver/engine/(?!coroutines)",
    "accept, socket, reactor": r"/twisted/internet/(?!defer)|/twisted/python/|/pushserver/web/tls",
    "head, admission, handshake": r"/pushserver/web/(port|admission|handshake|places|farewell|endpoints|reach)",
    "frames, writing": r"/autobahn/|/bench/peers/|/pushserver/web/|/pushserver/(protocols/rfc6455|server/outbox)",
    "messages of the protocol": r"/pushserver/protocols/|/pushserver/server/(inbound|connection|answers)|/msgspec/",
    "token": r"/pushserver/server/(auth|jwks|revocations)|/pushserver/core/tokens|/jwt/",
    "presence, heartbeat": r"/pushserver/server/(presence|present|heartbeat|user_places|peers)",
    "signing in: inbox, tasks": r"/pushserver/server/(sign_in|backlog|inbox|tasks|outputs|reading|resumption)",
    "replay": r"/pushserver/server/(replay|reply_room|shared_reads)|/pushserver/core/publication",
    "subscriptions": r"/pushserver/server/(subscriptions|hub|channel|fanout|client_requests|publishing)"
    r"|/pushserver/core/(channels|permissions|positions)",
    "limits, counters, clocks": r"/pushserver/(?!server/concurrency|engine/coroutines)",
}
#: The same for a request over a connection that is kept.
PARTS_OF_REQUESTS: Parts = {
    "Redis": PARTS["Redis"],
    "embedded engine": PARTS["embedded engine"],
    "twisted.web": r"/twisted/web/|/twisted/protocols/",
    "socket, reactor": r"/twisted/internet/(?!defer)|/twisted/python/",
    "head, body, answer": r"/bench/peers/|/pushserver/web/(?!api|calls|reach|parameters)",
    "the call": r"/pushserver/web/|/pushserver/server/backend_commands",
    "publishing": r"/pushserver/(?!server/concurrency)",
}
#: What is told besides: it runs everywhere.
DEFERREDS: Parts = {
    "Deferreds and coroutines": r"/twisted/internet/defer|/pushserver/(server/concurrency|engine/coroutines)"
}
REST_OF_ALL = "everything else"
#: How many calls of what is in no part may stand between a part and what is counted for it.
DEEPEST = 20
#: Connections over which requests come, and how many come before any is counted.
CONNECTIONS = 4
WARM = 200


def part_of(file: str, parts: Parts = PARTS) -> str | None:
    """Return the part in which a file stands; None for what any of them may call."""
    return next((part for part, pattern in parts.items() if re.search(pattern, file)), None)


def shares(calls: Calls, parts: Parts = PARTS) -> Counter[str]:
    """Return how many calls each part has: of its own functions, and of those in no part that it calls."""
    own = {function: part_of(function[0], parts) for function in calls}
    owners: dict[Function, dict[str, float]] = {f: {part: 1.0} if part else {} for f, part in own.items()}
    # They call each other, also in circles: what is known of the callers spreads, a call further each time.
    for _ in range(DEEPEST):
        for function in (function for function, part in own.items() if part is None):
            found: Counter[str] = Counter()
            for caller, times in calls[function][1].items():
                for part, share in owners.get(caller, {}).items():
                    found[part] += share * times
            owners[function] = {part: times / found.total() for part, times in found.items()}
    counted: Counter[str] = Counter()
    for function, (times, _) in calls.items():
        for part, share in (owners[function] or {REST_OF_ALL: 1.0}).items():
            counted[part] += share * times
    return counted


def read_calls(file: Path) -> Calls:
    """Return the calls that cProfile has written."""
    stats = pstats.Stats(str(file)).stats  # type: ignore[attr-defined]
    return {
        function: (times, {caller: each[1] for caller, each in callers.items()})
        for function, (_, times, _, _, callers) in stats.items()
    }


def read_instructions(file: Path) -> int:
    """Return the instructions that callgrind has written."""
    found = re.search(r"^(?:summary|totals): (\d+)", file.read_text(), re.MULTILINE)
    if found is None:
        raise ValueError("callgrind has counted nothing")
    return int(found[1])


# -- the servers ------------------------------------------------------------------------------------------------------


class _Counted(Peer):
    """A server under a counter."""

    #: Slower by so much, and on any machine.
    patience = 600

    def begin(self) -> None:
        """Count from now on."""
        raise NotImplementedError

    def end(self) -> Path:
        """Count no more; return the file of what was counted."""
        raise NotImplementedError


class _Profiled(_Counted):
    def environment(self) -> dict[str, str]:
        usual = super().environment()
        path = os.pathsep.join(filter(None, [str(PEERS / "counting"), usual["PYTHONPATH"]]))
        return {**usual, "PYTHONPATH": path, "BENCH_CALLS": str(self.place / "calls")}

    def begin(self) -> None:
        self.process.send_signal(signal.SIGUSR2)
        time.sleep(REST)

    def end(self) -> Path:
        self.process.send_signal(signal.SIGUSR2)
        file = self.place / "calls"
        while not file.exists():
            time.sleep(0.02)
        return file


class _Instrumented(_Counted):
    def command(self) -> list[str]:
        command = super().command()
        program = command if command[0] == sys.executable else [sys.executable, *command]
        file = self.place / "instructions"
        return ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={file}", *program]

    def _control(self, *words: str) -> None:
        subprocess.run(["callgrind_control", *words, str(self.pid)], check=True, stdout=subprocess.DEVNULL)

    def begin(self) -> None:
        self._control("-i", "on")

    def end(self) -> Path:
        self._control("-d")
        return self.place / "instructions.1"


class ProfiledOurs(_Profiled, Ours):
    pass


class ProfiledFloor(_Profiled, TwistedAndAutobahn):
    pass


class ProfiledRedisFloor(_Profiled, TwistedAndTxredisapi):
    pass


class InstrumentedOurs(_Instrumented, Ours):
    pass


class InstrumentedFloor(_Instrumented, TwistedAndAutobahn):
    pass


class InstrumentedRedisFloor(_Instrumented, TwistedAndTxredisapi):
    pass


class ProfiledWeb(_Profiled, TwistedWeb):
    pass


class InstrumentedWeb(_Instrumented, TwistedWeb):
    pass


#: The libraries alone, under either counter.
Floors = tuple[type[_Counted], type[_Counted]]


# -- the visits -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Visit:
    """What each client of a path does."""

    redis: bool
    channels: tuple[str, ...]
    missed: int = 0
    what: ClassVar[str] = "client"
    parts: ClassVar[Parts] = PARTS

    @property
    def floors(self) -> Floors:
        return (ProfiledRedisFloor, InstrumentedRedisFloor) if self.redis else (ProfiledFloor, InstrumentedFloor)

    def take(self, kind: type[_Counted], clients: int, read: Callable[[Path], Counted]) -> Counted:
        """Let so many come to a warm server; return what was counted meanwhile."""
        with ExitStack() as stack:
            stage = Stage(stack, QUICK)
            server = stage.server(kind, self.redis)
            assert isinstance(server, _Counted)
            positions: Positions = {}
            for channel in self.channels if self.missed else ():
                positions[channel] = server.position(server.send(channel))
                for _ in range(self.missed):
                    server.send(channel)
            first, others = stage.clients(server), stage.clients(server)
            first.connect(first.greet(range(500, 520), self.channels, positions))
            greeted = others.greet(range(1_000, 1_000 + clients), self.channels, positions)
            server.begin()
            others.connect(greeted)
            time.sleep(REST)
            return read(server.end())


@dataclass(frozen=True, slots=True)
class Publications:
    """Requests that publish into a history, over connections that are kept, one at a time on each."""

    redis: bool
    what: ClassVar[str] = "request"
    parts: ClassVar[Parts] = PARTS_OF_REQUESTS
    floors: ClassVar[Floors] = (ProfiledWeb, InstrumentedWeb)

    def take(self, kind: type[_Counted], requests: int, read: Callable[[Path], Counted]) -> Counted:
        """Let so many come to a warm server; return what was counted meanwhile."""
        with ExitStack() as stack:
            stage = Stage(stack, QUICK)
            server = stage.server(kind, self.redis)
            assert isinstance(server, _Counted)
            posts = stage.posts(server, CONNECTIONS)
            for count in (WARM, requests):
                first = time.monotonic_ns() // 1000
                posts.prepare(server.request(f"log:own-{n % CONNECTIONS}", f"{first + n:016d}") for n in range(count))
                if count == requests:
                    server.begin()
                posts.post()
            time.sleep(REST)
            return read(server.end())


class Reports:
    """What tasks report, each ten times, in batches, while their owners are connected."""

    EACH: Final = 10
    BATCH: Final = 100
    what: ClassVar[str] = "report"
    parts: ClassVar[Parts] = PARTS
    floors: ClassVar[None] = None

    def take(self, kind: type[_Counted], reports: int, read: Callable[[Path], Counted]) -> Counted:
        """Let so many come to a warm server, and be shown; return what was counted meanwhile."""
        tasks = reports // self.EACH
        with ExitStack() as stack:
            stage = Stage(stack, QUICK)
            server = stage.server(kind)
            assert isinstance(server, _Counted)
            owners = stage.clients(server)
            owners.connect(owners.greet(range(tasks), THREE))
            self._post(server, tasks, "task.create")
            self._post(server, tasks, "task.progress", percentage=1)
            server.begin()
            for n in range(self.EACH):
                self._post(server, tasks, "task.progress", percentage=2 + n)
            # Until the last ones are shown.
            time.sleep(4 * REST)
            return read(server.end())

    def _post(self, server: Peer, tasks: int, method: str, **given: object) -> None:
        for first in range(0, tasks, self.BATCH):
            numbers = range(first, min(first + self.BATCH, tasks))
            each = [{"method": method, "params": {"taskId": f"t{n}", "userId": f"u{n}", **given}} for n in numbers]
            server.http.post(server.batch_path, compact({"commands": each}), server.headers)


Work = Visit | Publications | Reports
VISITS: Mapping[str, Work] = {
    "sign-in": Visit(False, THREE),
    "sign-in-redis": Visit(True, THREE),
    "recovery": Visit(False, ("log:a",), 100),
    "recovery-redis": Visit(True, ("log:a",), 100),
    "presence": Visit(False, ("room:all",)),
    "publish": Publications(redis=False),
    "publish-redis": Publications(redis=True),
    "progress": Reports(),
}


# -- the tables -------------------------------------------------------------------------------------------------------


def table(
    title: str, ours: Calls, floor: Calls | None, times: int, visit: Visit | Publications | Reports
) -> Iterator[str]:
    """Yield the lines of a table: the calls of each part for a client, a request or a report, the most first."""
    parts, alone = shares(ours, visit.parts), shares(floor or {}, visit.parts)
    total = sum(parts.values())
    beside = f"; {visit.floors[0].name} alone: {alone.total() / times:.0f}" if visit.floors else ""
    yield f"{title}: {total / times:.0f} calls for a {visit.what}{beside}"
    for part, number in parts.most_common():
        beside = f"{alone[part] / times:.0f}" if alone[part] else "-"
        yield f"  {part:28}{number / times:7.0f}{number / total:7.0%}{beside:>7}"
    apart = shares(ours, {**DEFERREDS, **visit.parts})
    for part in DEFERREDS:
        number = apart[part]
        yield f"  of all: {part:20}{number / times:7.0f}{number / total:7.0%}"


def functions(ours: Calls, clients: int, many: int) -> Iterator[str]:
    """Yield the functions of ours and of libraries that are called the most."""
    for (file, line, name), (times, _) in sorted(ours.items(), key=lambda each: -each[1][0])[:many]:
        yield f"  {times / clients:8.1f}  {'/'.join(Path(file).parts[-3:])}:{line} {name}"


def main(words: list[str]) -> int:
    options = argparse.ArgumentParser(
        prog="python -m bench counts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("paths", nargs="*", metavar="PATH", help=f"of {', '.join(VISITS)} (default: all)")
    options.add_argument("--clients", type=int, default=100, help="or requests, or reports")
    options.add_argument("--instructions", action="store_true")
    options.add_argument("--functions", type=int, default=0, help="those that are called the most")
    given = options.parse_args(words)
    for name in given.paths:
        if name not in VISITS:
            options.error(f"no such path: {name} (there are {', '.join(VISITS)})")
    for name in given.paths or VISITS:
        visit, clients = VISITS[name], given.clients
        if given.instructions:
            ours = visit.take(InstrumentedOurs, clients, read_instructions) / clients / 1e6
            print(f"{name}: {ours:.3f} million instructions for a {visit.what}", end="")
            if visit.floors:
                least = visit.take(visit.floors[1], clients, read_instructions) / clients / 1e6
                print(f"; {visit.floors[1].name} alone: {least:.3f}", end="")
            print()
        else:
            calls = visit.take(ProfiledOurs, clients, read_calls)
            alone = visit.take(visit.floors[0], clients, read_calls) if visit.floors else None
            print("\n".join(table(name, calls, alone, clients, visit)))
            print("\n".join(functions(calls, clients, given.functions)))
        sys.stdout.flush()
    return 0
