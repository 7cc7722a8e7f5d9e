"""A store of an older version, written under load and opened by this tree: killed half-way, and then for good.

The same clients and publishers go on over the change, so that the books of `audit` say what the new server still has.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tests.harness import ROOT, Server, free_port, start
from tests.reliability.audit import CONFIG, LIMIT_OF_TASKS, Api, Books, Client, check, notify, run_tasks, write_history

USERS = [f"u{n}" for n in range(4)]

#: Statements of opening and migrating a store before which the process is killed, at most.
STATEMENTS = 100

#: For each line, the number of a statement and a directory: opens the store there as the server does, in a process of
#: its own that kills itself before that statement, and says how the process ended.
OPENER = """
import os, signal, sys
from pathlib import Path
from pushserver.engine.embedded.database import Database

def open_store(left, place):
    def count(statement):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    signal.alarm(60)
    database = Database(Path(place))
    database.connection.set_trace_callback(count)
    database.open()

for line in sys.stdin:
    number, place = line.rstrip().split(" ", 1)
    child = os.fork()
    if child == 0:
        open_store(int(number), place)
        sys.exit()
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Broken(Exception):
    """A store that did not come through; the message is one line."""


def _format(state: Path) -> tuple[int, list[tuple[str, str]]]:
    """Return the number of the format of a store, and its tables. What a killed server left in its log stays there."""
    uri = f"{(state / 'pushserver.db').absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        tables = connection.execute("SELECT name, sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name").fetchall()
    return version, tables


def kill_half_way(place: Path, scratch: Path) -> int:
    """Migrate copies of a store, each killed before another statement; return how many were killed.

    What is left each time must be whole: of the old format, the new one, or one between. Raises `Broken`.
    """
    old = _format(place / "state")
    left: list[tuple[int, list[tuple[str, str]]]] = []
    with _opener() as open_store:
        for number in range(1, STATEMENTS + 1):
            copy = scratch / f"copy{number}"
            shutil.copytree(place / "state", copy / "state")
            status = open_store(copy / "state", number)
            left.append(_format(copy / "state"))
            shutil.rmtree(copy)
            if status == 0:
                new = left[-1]
                break
            if status != -signal.SIGKILL:
                raise Broken(f"opening the store ended with status {status} before statement {number}")
        else:
            raise Broken(f"opening the store has more than {STATEMENTS} statements")
    whole = dict((old, new))
    for number, (version, tables) in enumerate(left, 1):
        # Of the formats between, each is a step of its own: all copies that stand there must look alike.
        if whole.setdefault(version, tables) != tables:
            raise Broken(f"killed before statement {number}, the store is not whole in any version")
    return len(left) - 1


@contextmanager
def _opener() -> Iterator[Callable[[Path, int], int]]:
    """What opens a store in a process that is killed before a statement; it returns how that process ended."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", OPENER]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, told = process.stdin, process.stdout

        def open_store(state: Path, number: int) -> int:
            asked.write(f"{number} {state}\n")
            asked.flush()
            answer = told.readline()
            if not answer:
                raise Broken(f"what opens the store ended with status {process.wait()}")
            return int(answer)

        yield open_store


async def migrate(place: Path, scratch: Path, seed: int, seconds: float, old: Path) -> tuple[Books, dict[str, int]]:
    """Let the server in ``old``, a folder of programs, write a store for so long; then this tree takes it over.

    Return the books, and what was done to the store. Raises `Broken`, and AssertionError where the books do not agree.
    """
    chance, port = random.Random(seed), free_port()

    def begin(bin: Path | None) -> Server:
        config = CONFIG if bin is None else CONFIG.replace(LIMIT_OF_TASKS, "")
        return start(place, config=config, port=port, secret="s" * 40, api_key="k" * 20, bin=bin)

    server = await asyncio.to_thread(begin, old)
    books, stop = Books(), asyncio.Event()
    done: dict[str, int] = {}
    api = Api(lambda: server, books.history)
    clients = [asyncio.create_task(Client(lambda: server, books, user).run()) for user in USERS]
    publishers: list[asyncio.Task[None]] = []
    try:
        # Everybody follows from the start, so that all of the history is theirs.
        async with asyncio.timeout(30):
            while len(books.history_arrived) < len(USERS):
                await asyncio.sleep(0.01)
        publishers += [asyncio.create_task(notify(api, books, user, stop)) for user in USERS]
        publishers += [asyncio.create_task(write_history(api, books, name, stop)) for name in ("a", "b")]
        publishers += [asyncio.create_task(run_tasks(api, books, user, stop)) for user in USERS[:2]]
        await asyncio.sleep(seconds)
        server.kill()
        written, _ = _format(server.state_dir)
        done["statements before which it was killed"] = await asyncio.to_thread(kill_half_way, place, scratch)
        done["starts that were killed"] = await asyncio.to_thread(_kill_starts, place, port, chance)
        if _format(server.state_dir)[0] == written:
            # Nothing was migrated yet, or nothing has to be: the old one goes on.
            server = await asyncio.to_thread(begin, old)
            await asyncio.sleep(seconds / 4)
            server.kill()
            done["returns to the old server"] = 1
        server = await asyncio.to_thread(begin, None)
        await asyncio.sleep(seconds)
        await asyncio.to_thread(server.terminate)
        migrated, _ = _format(server.state_dir)
        done["old format"], done["new format"] = written, migrated
        if migrated != written:
            await asyncio.to_thread(_refused, place, port, old)
        else:
            server = await asyncio.to_thread(begin, old)
            await asyncio.sleep(seconds / 4)
            server.kill()
        server = await asyncio.to_thread(begin, None)
        stop.set()
        await _agree(books, publishers)
    finally:
        for task in (*clients, *publishers):
            task.cancel()
        await asyncio.gather(*clients, *publishers, return_exceptions=True)
        server.stop()
    check(books, {})
    return books, done


def _kill_starts(place: Path, port: int, chance: random.Random) -> int:
    """Start this tree's server on the store a few times, each killed at a random moment of its start."""
    for _ in range(3):
        server = start(place, config=CONFIG, port=port, secret="s" * 40, api_key="k" * 20, ready=False)
        try:
            server.process.wait(chance.uniform(0.3, 1.0))
        except subprocess.TimeoutExpired:
            server.kill()
        else:
            raise Broken(f"the new server does not start on the store: {server.log[-300:]}")
    return 3


def _refused(place: Path, port: int, old: Path) -> None:
    """The old server refuses the migrated store: exit status 1, and a line that says why."""
    config = CONFIG.replace(LIMIT_OF_TASKS, "")
    server = start(place, config=config, port=port, secret="s" * 40, api_key="k" * 20, ready=False, bin=old)
    try:
        status = server.wait()
    except subprocess.TimeoutExpired:
        raise Broken("the old server runs on a store of a newer format") from None
    finally:
        server.stop()
    if status != 1 or "of a newer pushserver" not in server.log:
        raise Broken(f"the old server ends with status {status} on a store of a newer format: {server.log[-300:]}")


async def _agree(books: Books, publishers: list[asyncio.Task[None]]) -> None:
    """Wait until the books agree, or do not for half a minute."""
    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*publishers)
            while not _agrees(books):
                await asyncio.sleep(0.1)
    except TimeoutError:
        pass  # `check` says what did not come


def _agrees(books: Books) -> bool:
    try:
        check(books, {})
    except AssertionError:
        return False
    return True
