"""``make attack`` or ``python -m tests.attack``: servers, attacks in their order, and the table.

    python -m tests.attack [--seed N] [--transport T ...] [--engine E ...] [--row PART ...] [--write COLUMN]
    python -m tests.attack --commit 99de839 --write "version 1"

One address without token or key does its worst with up to twice `max_connections` sockets; then one user, signed in
without any permission, with `max_connections_per_user`. Meanwhile somebody else, from another address, signs in,
pings, and reads what a task of theirs writes. Then 64 KiB of each of many texts go through every door, one socket at a
time. One line for each row: what was sent, how the other one fared, memory, how the store grew, when the last socket
was gone, and the verdict. ``--write`` puts the worst of each row into the column of that name (``now``, say) of the
table in docs/security.md. ``--commit`` attacks an earlier state of this project, built for itself. Exit status 1 where
a row fails. Loopback alone, under 20 minutes; ends what it starts.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import sqlite3
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from tests.attack.attackers import Attacker, Vigil, Way
from tests.attack.honest import HONEST, Honest, require
from tests.attack.measures import memory, p99, processor
from tests.attack.results import TWICE, Growth, Result, TextResult, worst, worst_text
from tests.attack.rows import APPEND, FULL, KEPT, LONG, OUTPUT_SIZE, OUTPUTS, PLACES, ROWS, Row, room
from tests.attack.texts import SIZE, TEXTS, TIMES, Text, Visit
from tests.certificates import certificates
from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start
from tests.tables import write_column
from tools.ports import free_port
from tools.trees import build

#: The heading of the table in docs/security.md.
TITLE: Final = "Attacks"

#: Seconds that strangers go on with each attack, and a user: what the store grows by is a rate and a first burst.
STRANGERS_TIME: Final = 2.0
USERS_TIME: Final = 4.5
#: How often a text is tried until it grows no more than it may: what else the server does meanwhile, a collection or a
#: timer, comes by chance, and does not come each time.
TRIES: Final = 5
#: Sockets of a user that stay when a row is over, to be seen off.
LEFT: Final = 3
TRANSPORTS: Final = ("tcp", "ssl", "unix", "haproxy:tcp")
ENGINES: Final = ("embedded", "redis")
#: What the server has beside the usual; the first is unknown to one without a door for SDKs of Centrifugo.
DOOR: Final = '[centrifuge]\nenabled = true\napi_path = "/centrifugo/api"\n'
CONFIG: Final = f"[server]\nmax_connections = {PLACES}\n"


#: Asks Redis how many bytes all keys take.
SIZES: Final = (
    "local all = 0 for _, key in ipairs(redis.call('KEYS', '*')) do"
    " all = all + (redis.call('MEMORY', 'USAGE', key, 'SAMPLES', 0) or 0) end return all"
)


class Store(NamedTuple):
    """What a server keeps: octets, and channels that have or had messages."""

    octets: Callable[[], int]
    channels: Callable[[], int]


class AttackedServer(NamedTuple):
    """A server that listens on tcp for the other one, and on a transport for the attacker."""

    server: Server
    way: Way
    store: Store
    redis: RedisServer | None


def _files(folder: Path) -> Store:
    def octets() -> int:
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def channels() -> int:
        with sqlite3.connect(f"file:{folder}/pushserver.db?mode=ro", uri=True) as database:
            (found,) = database.execute("SELECT count(*) FROM channel").fetchone()
        database.close()
        return int(found)

    return Store(octets, channels)


def _keys(redis: RedisServer) -> Store:
    def octets() -> int:
        # Not Redis' own figures, which count what is on its way to clients, and the channels that a node listens to.
        return int(redis.command("EVAL", SIZES, "0").strip()[1:])

    def channels() -> int:
        return int(redis.command("EVAL", "return #redis.call('KEYS', 'push:history:*')", "0").strip()[1:])

    return Store(octets, channels)


@contextmanager
def target(place: Path, transport: str, engine: str, bin: Path | None, sdk: bool) -> Iterator[AttackedServer]:
    """Such a server; ``bin``: the programs of another installation; ``sdk``: with the door for SDKs."""
    port, other = free_port(), free_port()
    context: ssl.SSLContext | None = None
    address: Any = ("127.0.0.1", other)
    description = f"{transport}:{other}:interface=127.0.0.1"
    if transport == "ssl":
        files = certificates(place / "pki")
        description += f":privateKey={files['key']}:certKey={files['cert']}"
        context = ssl.create_default_context(cafile=str(files["ca"]))
        context.check_hostname = False
    elif transport == "unix":
        address = str(place / "push.sock")
        description = f"unix:{address}"
    options = ["--listen", f"tcp:{port}:interface=127.0.0.1", "--listen", description]
    with ExitStack() as stack:
        redis: RedisServer | None = None
        if engine == "redis":
            redis = RedisServer(place / "redis").start()
            stack.callback(redis.kill)
            options += ["--redis", redis.url]
        config = CONFIG + DOOR * sdk
        server = start(place, *options, config=config, port=port, bin=bin)
        stack.callback(server.kill)
        store = _files(place / "state") if redis is None else _keys(redis)
        yield AttackedServer(server, Way(transport, address, context), store, redis)


def fill(server: Server) -> dict[str, str]:
    """Fill the first rooms; return the epoch of each by its name."""
    rooms = [room(number) for number in range(FULL)]
    for _ in range(KEPT):
        answer = server.api(
            "POST", "/api/broadcast", {"channels": rooms, "data": "x" * LONG}, source=HONEST, timeout=60
        )
        assert answer.status == 200, answer
    epochs: dict[str, str] = {}
    for name in rooms:
        epochs[name] = server.api("GET", f"/api/history?channel={name}&limit=1", source=HONEST).body["epoch"]
    return epochs


class Attack:
    """All rows in turn against one server, which stays until every socket is gone."""

    def __init__(
        self, stack: ExitStack, transport: str, engine: str, seed: int, bin: Path | None = None, sdk: bool = True
    ) -> None:
        self._begin = partial(self._open, transport, engine, bin, sdk)
        self._transport = transport
        self._engine = engine
        self._seed = seed
        self._users = 0
        self._writes = bin is None
        self._running = stack.enter_context(ExitStack())
        self._begin()
        self._vigil = Vigil()
        self._vigil.start()
        stack.callback(self._vigil.end)
        self.results: list[Result] = []
        self.texts: list[TextResult] = []

    def _open(self, transport: str, engine: str, bin: Path | None, sdk: bool) -> None:
        folder = Path(self._running.enter_context(tempfile.TemporaryDirectory(prefix="attack-")))
        self._place = self._running.enter_context(target(folder, transport, engine, bin, sdk))
        self._epochs = fill(self._place.server)
        # An earlier state may know nothing of outputs.
        self._honest = Honest(self._place.server, writes=bin is None)
        self._running.callback(self._honest.end)

    def _user(self) -> str:
        """Return a token of a user without permissions, another one each time."""
        self._users += 1
        return self._place.server.token(f"mallory-{self._users}")

    def calm(self) -> str:
        """Let the other one ping alone for a second; return how that went."""
        self._honest.fared()
        time.sleep(1)
        fared = self._honest.fared()
        return (
            f"       {self._transport:<11} {self._engine:<8} before: sign-in {fared.sign_in * 1000:.0f} ms,"
            f" ping p99 {p99(fared.waits) * 1000:.0f} ms"
        )

    def carry_out(self, row: Row, scale: float = 1.0, seconds: float | None = None) -> Result:
        """Carry out a row, with a part of its sockets and for so long. When its sockets are gone is not known yet."""
        place, honest = self._place, self._honest
        user = f"mallory-{self._users + 1}"
        if row.task and self._writes:
            self._fill(row.task, user)
        attacker = Attacker(place.way, self._user(), self._epochs, self._seed + len(self.results))
        honest.fared()
        before = peak = memory(place.server.pid)

        def watch() -> None:
            nonlocal peak
            peak = max(peak, memory(place.server.pid))

        first = attacker.first(row)
        for n in range(max(1, int(row.sockets * scale))):
            attacker.open(first)
            if n % 50 == 0:
                watch()
        octets, channels, began = place.store.octets(), place.store.channels(), time.monotonic()
        attacker.go_on(row, seconds or (USERS_TIME if row.user else STRANGERS_TIME), watch)
        growth = Growth(place.store.octets() - octets, place.store.channels() - channels, time.monotonic() - began)
        # Counted before the last of them may be gone, and the vigil closes all.
        sent = len(attacker.sockets)
        self._vigil.add(attacker, time.monotonic())
        fared = honest.fared()
        result = Result(
            row, self._transport, self._engine, sent, fared.sign_in, fared.output,
            statistics.median(fared.waits or [float("inf")]), p99(fared.waits), peak - before, growth, None,
            fared.broken,
        )  # fmt: skip
        if row.user:
            # The next one finds few of this user's.
            attacker.keep(LEFT)
        problem = self._revive()
        if problem:
            result = result._replace(broken=problem)
        self.results.append(result)
        return result

    def _fill(self, task: str, user: str) -> None:
        """Make a task with outputs that hold all that is kept of them."""
        server = self._place.server
        require(server, "/api/tasks", {"taskId": task, "userId": user})
        for name in OUTPUTS:
            for _ in range(OUTPUT_SIZE // APPEND):
                require(server, f"/api/tasks/{task}/output", {"name": name, "text": "x" * APPEND})

    def _revive(self) -> str:
        """Where the server serves nobody any more, kill it and start another one; return what was wrong with it."""
        try:
            self._honest.wait_from(time.monotonic())
        except ConnectionError as problem:
            self._vigil.give_up()
            self._running.close()
            self._begin()
            return f"serves nobody: {problem}"
        return ""

    def send_text(self, text: Text, times: int = TIMES) -> TextResult:
        """Send a text, each time on a socket of its own; return how long another one waits for it."""
        broken = ""
        half, whole, waits = 0.0, 0.0, list[float]()
        self._honest.rest()
        try:
            for _ in range(TRIES):
                half, _ = self._send_text(text, SIZE // 2, times)
                whole, waits = self._send_text(text, SIZE, times)
                if whole <= TWICE * half:
                    break
        except OSError as problem:
            broken = f"{type(problem).__name__} {problem}".strip()
        if not self._revive():
            self._honest.work()
        result = TextResult(text, self._transport, self._engine, waits, half, whole, broken)
        self.texts.append(result)
        return result

    def _send_text(self, text: Text, size: int, times: int) -> tuple[float, list[float]]:
        """Return the seconds of the processor that each takes, and those that the other one waits."""
        place, used, waits = self._place, 0.0, list[float]()
        for _ in range(times):
            visit = Visit(place.way, self._user(), place.server.api_key, place.redis)
            try:
                said = text.prepare(visit, size)
                before, moment = processor(place.server.pid), time.monotonic()
                said()
                waits.append(self._honest.wait_from(moment))
                used += processor(place.server.pid) - before
            finally:
                visit.end()
        return used / times, waits

    def wait(self) -> None:
        """Wait until every socket of every row is gone, and note when that was, s after its last word."""
        while not self._vigil.done:
            time.sleep(0.5)
        self.results = [result._replace(gone=self._vigil.gone[number]) for number, result in enumerate(self.results)]


def at_low_priority(work: Callable[[], object]) -> None:
    """Run this in a thread that leaves the processor to others: the attackers are elsewhere, in earnest."""

    def run() -> None:
        # On Linux this thread's alone.
        os.nice(10)
        work()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


class Plan(NamedTuple):
    """What is tried, against which programs (None: those of this tree); ``sdk``: whether these know that door."""

    rows: Sequence[Row]
    texts: Sequence[Text]
    seed: int
    bin: Path | None
    sdk: bool

    def texts_over(self, transport: str, engine: str) -> Iterator[Text]:
        """Yield the texts that there is a way for."""
        for text in self.texts:
            if (not text.transports or transport in text.transports) and (not text.redis or engine == "redis"):
                yield text


def run(engines: Sequence[str], transports: Sequence[str], plan: Plan) -> tuple[list[Result], list[TextResult]]:
    """Attack every transport of every engine; print what comes of it. While the sockets of one server go, the next one
    is attacked."""
    results: list[Result] = []
    texts: list[TextResult] = []

    def finish(attack: Attack, stack: ExitStack) -> None:
        with stack:
            attack.wait()

    threads: list[tuple[Attack, threading.Thread]] = []
    for engine in engines:
        for transport in transports:
            with ExitStack() as stack:
                attack = Attack(stack, transport, engine, plan.seed, plan.bin, plan.sdk)
                print(attack.calm(), flush=True)
                for row in plan.rows:
                    at_low_priority(partial(attack.carry_out, row))
                for text in plan.texts_over(transport, engine):
                    at_low_priority(partial(attack.send_text, text))
                thread = threading.Thread(target=finish, args=(attack, stack.pop_all()))
            thread.start()
            threads.append((attack, thread))
    for attack, thread in threads:
        thread.join()
        for result in (*attack.results, *attack.texts):
            print(result.line(), flush=True)
        results += attack.results
        texts += attack.texts
    return results, texts


def _knows_door(bin: Path) -> bool:
    """Return whether another installation has the door for SDKs."""
    with tempfile.TemporaryDirectory(prefix="attack-") as place:
        path = Path(place, "pushserver.toml")
        path.write_text(f'[auth]\nsecret = "{"x" * 32}"\n{DOOR}')
        environment = {**os.environ, "PYTHONPATH": ""}
        done = subprocess.run(
            [bin / "pushctl", "check-config", path], env=environment, capture_output=True, check=False
        )
    return done.returncode == 0


def name_of(one: Row | Text) -> str:
    """Return what a row of the table is called."""
    return one.name if isinstance(one, Row) else f"64 KiB: {one.name}"


def names() -> set[str]:
    """Return all rows of the table."""
    return {name_of(one) for one in (*ROWS, *TEXTS)}


def cells(results: Sequence[Result], texts: Sequence[TextResult]) -> dict[str, str]:
    """Return the column of the table: for each row and text the worst of all transports and engines."""
    rows = {one.row.name: [other for other in results if other.row is one.row] for one in results}
    said = {name_of(one.text): [other for other in texts if other.text is one.text] for one in texts}
    return {name: worst(same) for name, same in rows.items()} | {name: worst_text(same) for name, same in said.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.attack", description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--transport", choices=TRANSPORTS, action="append")
    parser.add_argument("--engine", choices=ENGINES, action="append")
    parser.add_argument("--row", action="append", help="only rows and texts whose name holds this")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--bin", type=Path, metavar="FOLDER", help="attack the programs of another installation")
    other.add_argument("--commit", help="attack this state of the project, which is built for itself")
    parser.add_argument("--write", metavar="COLUMN", help="into which column of the table in docs/security.md")
    options = parser.parse_args()
    print(f"seed {options.seed}", flush=True)
    # Sockets of several servers are open at a time, on both sides.
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if shutil.which("redis-server") is None and options.engine is None:
        print("redis-server is missing: only the embedded engine is tried", flush=True)
        options.engine = ["embedded"]
    bin = build(options.commit).twistd.parent if options.commit else options.bin
    sdk = bin is None or _knows_door(bin)

    def wanted(one: Row | Text) -> bool:
        return (sdk or not one.sdk) and (not options.row or any(part in name_of(one) for part in options.row))

    plan = Plan([*filter(wanted, ROWS)], [*filter(wanted, TEXTS)], options.seed, bin, sdk)
    results, texts = run(options.engine or ENGINES, options.transport or TRANSPORTS, plan)
    failed = sum(not result.holds for result in (*results, *texts))
    if options.write:
        write_column(ROOT / "docs" / "security.md", TITLE, options.write, cells(results, texts))
    print(f"{failed} failed" if failed else "all hold", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
