"""Power that is lost under the embedded engine: what was not synced may be gone, in any part; what was answered is not.

    python -m tests.reliability.power [--seed N] [--cuts N] [--seconds N]

A server runs under load while strace records what it writes to its store, and when it syncs. For each of so many
moments of the record, the files are put together as a disk might have them that lost its power then: what was synced,
and of all else any subset, also single sectors of a write. SQLite has to find the store sound, with all that was
answered before. At last a server starts on one of them, and hands that out. Exit status 1 where something is missing.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness import Server, start, wait_until

DATABASE = "pushserver.db"
#: What the store is made of. The shared memory beside them is made anew where power was lost.
FILES = (DATABASE, f"{DATABASE}-wal")
#: What a disk writes as a whole, octets.
SECTOR = 512
USERS = 4
CONFIG = """
[inbox]
max_messages = 100000
max_task_messages = 100000
[rate_limits]
messages_per_second = 0
"""

#: Microseconds are left: `start call(fd<path>, …) = result <duration>`.
_CALL = re.compile(r"^(\d+\.\d+) (\w+)\(\d+<([^>]*)>(?:, )?(.*)\) += (\d+).*<(\d+\.\d+)>$")
_OCTET = re.compile(rb"\\x([0-9a-f]{2})")


@dataclass(frozen=True)
class Operation:
    """What was done to a file, and when it began and ended, s. A sync has no octets; a truncation has its length in
    ``offset``."""

    began: float
    ended: float
    kind: str
    file: str
    offset: int = 0
    octets: bytes = b""


def _unquoted(text: str) -> bytes:
    return _OCTET.sub(lambda found: bytes.fromhex(found[1].decode()), text.encode())


def parse(lines: Iterator[str]) -> Iterator[Operation]:
    """Yield what strace recorded of the files of a store (``-ttt -T -xx -y``), one thread's lines."""
    for line in lines:
        call = _CALL.match(line.rstrip("\n"))
        if call is None:
            continue
        began, name, path, rest, result, took = call.groups()
        file = _unquoted(path).decode().rpartition("/")[2]
        if file not in FILES:
            continue
        moments = (float(began), float(began) + float(took))
        if name == "pwrite64":
            octets, _, place = rest.rpartition('"')
            written = _unquoted(octets.lstrip('"'))[: int(result)]
            yield Operation(*moments, "write", file, int(place.rpartition(", ")[2]), written)
        elif name == "ftruncate":
            yield Operation(*moments, "truncate", file, int(rest))
        elif name in ("fdatasync", "fsync"):
            yield Operation(*moments, "sync", file)
        else:
            raise AssertionError(f"the store is written in a way that is not known here: {name}")


def after(files: dict[str, bytes], done: list[Operation], moment: float, chance: random.Random) -> dict[str, bytes]:
    """Return the files as a disk may have them that lost its power at this moment. ``done``: in order of beginning."""
    found = {}
    for name in FILES:
        content = bytearray(files.get(name, b""))
        of_file = [each for each in done if each.file == name and each.began <= moment]
        synced = max((each.began for each in of_file if each.kind == "sync" and each.ended <= moment), default=0.0)
        # Either almost all of what was not synced is there, or almost nothing, or some of it.
        share = chance.choice((0.05, 0.5, 0.95))
        for each in of_file:
            if each.kind == "sync" or (each.ended > synced and chance.random() > share):
                continue
            if each.kind == "truncate":
                content = content[: each.offset].ljust(each.offset, b"\0")
                continue
            torn = each.ended > synced and chance.random() < 0.3
            _write(content, each, chance if torn else None)
        found[name] = bytes(content)
    return found


def _write(content: bytearray, write: Operation, torn: random.Random | None) -> None:
    """Write, where it is torn some sectors alone."""
    end = write.offset + len(write.octets)
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    for at in range(0, len(write.octets), SECTOR):
        if torn is None or torn.random() < 0.5:
            part = write.octets[at : at + SECTOR]
            content[write.offset + at : write.offset + at + len(part)] = part


@dataclass(frozen=True)
class Answer:
    """A message that was answered: when, s, and where in whose inbox it is."""

    at: float
    user: str
    offset: int


def record(place: Path, seconds: float) -> tuple[dict[str, bytes], list[Operation], list[Answer]]:
    """Have a server under load; return its files at the beginning, what was done to them, and what was answered."""
    server = start(place, config=CONFIG)
    tracer = None
    try:
        # What lies there before anything was asked is taken for synced.
        files = {name: (server.state_dir / name).read_bytes() for name in FILES}
        command = ["strace", "-ff", "-ttt", "-T", "-xx", "-y", "-s", "10000000", "-o", str(place / "trace")]
        command += ["-e", "trace=pwrite64,pwritev,ftruncate,fallocate,fdatasync,fsync", "-e", "signal=none"]
        tracer = subprocess.Popen([*command, "-p", str(server.pid)], stderr=(place / "strace").open("w"))
        wait_until(lambda: "attached" in (place / "strace").read_text(), 30, "strace is attached")
        answers = _load(server, seconds)
    finally:
        server.kill()
        if tracer is not None:
            tracer.wait(30)
    done: list[Operation] = []
    for trace in place.glob("trace.*"):
        with trace.open(errors="replace") as lines:
            done += parse(lines)
    return files, sorted(done, key=lambda each: each.began), sorted(answers, key=lambda each: each.at)


def _load(server: Server, seconds: float) -> list[Answer]:
    """Publish to each user, one message after another, for so long; return what was answered."""
    end = time.monotonic() + seconds
    answers: list[Answer] = []

    def publish(user: str) -> None:
        while time.monotonic() < end:
            said = server.api("POST", "/api/notify", {"userId": user, "data": {"text": "x" * 300}})
            assert said.status == 200, said
            answers.append(Answer(time.time(), user, said.body["results"][0]["offset"]))

    threads = [threading.Thread(target=publish, args=(f"u{n}",)) for n in range(USERS)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return answers


def missing(place: Path, files: dict[str, bytes], answers: list[Answer], moment: float) -> str:
    """Put files there, and return what is wrong with them: nothing where all is there that was answered before."""
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob(f"{DATABASE}*"):
        old.unlink()
    for name, content in files.items():
        (place / name).write_bytes(content)
    connection = sqlite3.connect(place / DATABASE)
    try:
        sound = connection.execute("PRAGMA integrity_check").fetchall()
        rows = connection.execute("SELECT user_id, offset FROM inbox JOIN inbox_user USING (user)").fetchall()
    except sqlite3.DatabaseError as problem:
        return f"the store cannot be read: {problem}"
    finally:
        connection.close()
    if sound != [("ok",)]:
        return f"the store is not sound: {sound[:3]}"
    kept = set(rows)
    gone = [(each.user, each.offset) for each in answers if each.at <= moment and (each.user, each.offset) not in kept]
    return f"{len(gone)} answered messages are missing: {gone[:3]}" if gone else ""


def served(place: Path, answers: list[Answer], moment: float) -> str:
    """Start a server on a store; return what it does not hand out."""
    server = start(place, config=CONFIG)
    try:
        kept = {
            (f"u{n}", each["offset"])
            for n in range(USERS)
            for each in server.api("GET", f"/api/inbox?userId=u{n}").body["messages"]
        }
    finally:
        server.stop()
    gone = [each for each in answers if each.at <= moment and (each.user, each.offset) not in kept]
    return f"a server does not hand out {gone[:3]}" if gone else ""


def play(place: Path, seed: int, cuts: int, seconds: float) -> dict[str, Any]:
    """Record a server, and lose its power so many times; return the books."""
    chance = random.Random(seed)
    recorded, scratch = place / "recorded", place / "scratch"
    recorded.mkdir()
    files, done, answers = record(recorded, seconds)
    broken: list[str] = []
    for number in range(cuts):
        # As often as not right after an answer.
        last = chance.choice(answers).at if number % 2 else chance.uniform(answers[0].at, answers[-1].at)
        wrong = missing(scratch / "state", after(files, done, last, chance), answers, last)
        broken += [f"power lost {last - answers[0].at:.4f} s after the first answer: {wrong}"] * bool(wrong)
    if not broken:
        # What lay beside the store is of the server that lost its power.
        beside = shutil.ignore_patterns(f"{DATABASE}*")
        shutil.copytree(recorded / "state", scratch / "state", ignore=beside, dirs_exist_ok=True)
        wrong = served(scratch, answers, last)
        broken += [wrong] * bool(wrong)
    return {
        "messages answered": len(answers),
        "writes": sum(each.kind == "write" for each in done),
        "syncs": sum(each.kind == "sync" for each in done),
        "power lost": cuts,
        "broken": broken,
    }


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.power", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--cuts", type=int, default=200, help="how often power is lost")
    parser.add_argument("--seconds", type=float, default=5, help="how long the server is under load")
    options = parser.parse_args(words)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="power-") as place:
        books = play(Path(place), options.seed, options.cuts, options.seconds)
    for name, value in books.items():
        print(f"{name}: {value}")
    return 1 if books["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
