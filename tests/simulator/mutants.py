"""Known mistakes, each put into a copy of the server: the simulator is trusted as far as it finds them.

    python -m tests.simulator.mutants [NAME ...] [--search] [--seeds N] [--seconds S]

For each mutant: its name, the seed that found it, and the rule that it broke. Exit status 1 where one was not found
within its seeds or its time, and where a change does not apply any more. The seeds begin with the one that found the
mutant last, as far as it is known (`FOUND`); with ``--search`` they begin with 1, and nothing is known.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

#: Seconds that a seed may take which began before the time was over: a mistake may keep it from ending.
LAST_SEED = 300.0

#: A change of a file of the package: what stands there once, and what takes its place.
Change = tuple[str, str, str]


@dataclass(frozen=True)
class Mutant:
    """A mistake, in so many changes."""

    name: str
    changes: tuple[Change, ...]
    #: whether it takes tasks that write to find it
    outputs: bool = False
    #: the fault, and the operation under way, of the plans that find it: what chance alone brings together too rarely
    aim: tuple[str, str] | None = None


def _mutant(name: str, file: str, old: str, new: str, *more: tuple[str, str]) -> Mutant:
    return Mutant(name, ((file, old, new), *((file, *each) for each in more)))


def _of_output(name: str, file: str, old: str, new: str) -> Mutant:
    return replace(_mutant(name, file, old, new), outputs=True)


_LUA = "engine/redis/lua/"

MUTANTS = (
    _mutant(
        "generation-not-moved",
        _LUA + "attach.lua",
        "if not generation or known[1] ~= ARGV[1] or older or loaded or back and generation == ARGV[4] then",
        "if not generation then",
    ),
    # The generation stays where the node that attaches first finds nothing amiss (docs/decisions/0081).
    _mutant(
        "generation-kept-by-count",
        _LUA + "attach.lua",
        "if not generation or known[1] ~= ARGV[1] or older or loaded or back and generation == ARGV[4] then",
        "if not generation or known[1] ~= ARGV[1] and ARGV[4] == '' or older or back and generation == ARGV[4] then",
    ),
    # Older data inside the same process is noticed by who knows of a write that it lacks (docs/decisions/0190).
    replace(
        _mutant(
            "process-not-marked",
            _LUA + "epoch.lua",
            "generation ~= ARGV[1] or loaded or writes <",
            "generation ~= ARGV[1] or writes <",
        ),
        aim=("redis_rollback", "publish"),
    ),
    _mutant(
        "generation-returned",
        "engine/redis/commands.py",
        "fresh = (_token(), ",
        'fresh = ("0123456789ab", ',
    ),
    _mutant(
        "cursor-off-by-one",
        _LUA + "inbox_read.lua",
        "or box.acked\nlocal answer",
        "or box.acked + 1\nlocal answer",
    ),
    _mutant(
        "second-device-forgotten",
        "server/backlog.py",
        "start_of_inbox(self._inbox, user_id, positions.get(own), PAGE, PAGE_OCTETS)",
        "start_of_inbox(self._inbox, user_id, None, PAGE, PAGE_OCTETS)",
    ),
    _mutant(
        "stream-begun-anew",
        "web/sse.py",
        "stream.open(positions_of(resume, [*channels, *own]), channels)",
        "stream.open(positions_of(resume, channels), channels)",
    ),
    _mutant(
        "positions-not-compared",
        "engine/redis/live.py",
        "                    feed.compare(position, patient)\n",
        "                    continue\n",
    ),
    _mutant(
        "fence-left-out",
        _LUA + "write.lua",
        "if ARGV[4] ~= '' and redis.call('GET', KEYS[3]) ~= ARGV[4] then",
        "if false then",
    ),
    _mutant(
        "idempotency-key-left-out",
        _LUA + "write.lua",
        "local first = redis.call('GET', KEYS[2])",
        "local first = nil",
    ),
    _mutant(
        "answered-before-kept",
        "engine/redis/inbox.py",
        '        reply = await self._commands.write(\n            "append",',
        '        reply = await self._hoped(\n            "append",',
        (
            "    async def _append(",
            "    async def _hoped(self, *parts: Any, **more: Any) -> list[Any]:\n"
            "        try:\n"
            "            return await self._commands.write(*parts, **more)\n"
            "        except errors.Unavailable:\n"
            '            return [1, b"hoped.for", b""]\n\n'
            "    async def _append(",
        ),
        ("from typing import TYPE_CHECKING", "from typing import TYPE_CHECKING, Any"),
    ),
    _mutant(
        "version-not-raised",
        _LUA + "attach.lua",
        "versions = (generation or ARGV[4] ~= '') and string.format('%d', above) or '1'",
        "versions = '1'",
    ),
    _mutant(
        "trim-untold",
        _LUA + "inbox.lua",
        "  if lost then\n    lose(box, offset)\n  end\n",
        "",
    ),
    _mutant(
        "loss-miscounted",
        _LUA + "inbox.lua",
        "      sum = sum + stretch[3]\n",
        "      sum = sum + 1\n",
    ),
    _mutant(
        "gap-delivered",
        "core/positions.py",
        "        if self._offset != (offset - 1 if before is None else before):\n            return Verdict.GAP\n",
        "",
    ),
    _mutant(
        "resync-untold",
        "engine/redis/feeds.py",
        "        self.feeds.listener.resync(self.channel, reached)\n",
        "",
    ),
    _mutant(
        "held-messages-forgotten",
        "server/channel.py",
        "        return [p for p in self._held if p.offset is None or p.offset > offset]\n",
        "        return []\n",
    ),
    _mutant(
        "past-before-present",
        "engine/redis/history.py",
        "        await self._feeds.reached(channel, page.newest)\n",
        "",
    ),
    _mutant(
        "ghost-in-a-room",
        _LUA + "expire.lua",
        "for _, member in ipairs(redis.call('SRANDMEMBER', KEYS[4], ARGV[3])) do",
        "redis.call('DEL', KEYS[4])\nfor _, member in ipairs({}) do",
    ),
    _mutant(
        "dead-node-kept",
        _LUA + "heartbeat.lua",
        "    answer[#answer + 1] = dead\n",
        "",
    ),
    _mutant(
        "presence-not-renewed",
        "engine/redis/cluster.py",
        "        self._stale = True\n        self.hurry()\n",
        "        self.hurry()\n",
        # Either alone is made good by the other.
        ("        await self._residents.compare()\n", ""),
    ),
    _mutant(
        "acknowledged-and-deleted",
        _LUA + "acknowledge.lua",
        "  box.acked = offset\n",
        "  box.acked = offset\n"
        "  while count(box) > 0 and record(box, 1) <= offset do\n    remove(box, 1, false)\n  end\n",
    ),
    _mutant(
        "read-and-not-counted",
        _LUA + "inbox_change.lua",
        "      box.unread[class] = box.unread[class] + (reads and -1 or 1)\n",
        "",
    ),
    _mutant(
        "mark-not-kept",
        _LUA + "inbox_change.lua",
        "      redis.call(reads and 'HSET' or 'HDEL', KEYS[2], unpack(written))\n",
        "",
    ),
    _mutant(
        "deleted-and-kept",
        _LUA + "inbox_change.lua",
        "      remove(box, find(box, tonumber(offset)), false)\n",
        "",
    ),
    _mutant(
        "gone-and-counted",
        _LUA + "inbox.lua",
        "  if unread then\n    box.unread[class] = box.unread[class] - 1\n  end\n",
        "",
    ),
    _mutant(
        "end-not-kept",
        _LUA + "task_replace.lua",
        "if ARGV[16] ~= '' then",
        "if false then",
    ),
    _mutant(
        "last-progress-dropped",
        "core/throttle.py",
        "        self._held = state\n        if self._pressing:",
        "        if self._pressing:",
    ),
    _mutant(
        "excluded-user-served",
        "core/publication.py",
        "(self.exclude_user is not None and self.exclude_user == user_id) or (",
        "(",
    ),
    _mutant(
        "entry-deleted-first",
        "engine/redis/ingest.py",
        "                error = await self._carry_out(entry_id, command)\n",
        '                done = [*self._keys, self._names.ingest, self._names.dead]\n'
        '                await self._patiently("ingest_end", done, entry_id, "", text)\n'
        "                error = await self._carry_out(entry_id, command)\n",
    ),
    _mutant(
        "heartbeats-by-the-wall-clock",
        "engine/redis/cluster.py",
        "        self._call = None\n        if self._under_way is not None:\n            self._again = True\n",
        "        self._call = None\n"
        "        if self._clock.now() < getattr(self, '_ticked_at', 0):\n"
        "            self._call = self._clock.later(1, self._tick)\n"
        "            return\n"
        "        self._ticked_at = self._clock.now()\n"
        "        if self._under_way is not None:\n            self._again = True\n",
    ),
    _mutant(
        "expiring-by-the-wall-clock",
        "server/clock.py",
        "        return self._settled.at(self.now(), self.milliseconds())\n",
        "        return self.now()\n",
    ),
    _mutant(
        "older-store-not-noticed",
        "engine/embedded/marks.py",
        "return mark in self.marks and (self.closed or file == self.file)",
        "return True",
    ),
    _mutant(
        "writes-not-compared",
        _LUA + "epoch.lua",
        "or loaded or writes < tonumber(table.remove(ARGV)) then",
        "or tonumber(table.remove(ARGV)) < 0 then",
    ),
    _mutant(
        "narrower-limits-hold",
        "engine/redis/shared_settings.py",
        "return max([own, *(each for each in others if type(each) is int and each < 2**53)])",
        "return own",
    ),
    _mutant(
        "version-of-before-the-move",
        _LUA + "epoch.lua",
        "return lowest and tonumber(version) < tonumber(lowest)",
        "return false",
    ),
    _of_output(
        "output-off-by-one",
        "core/output.py",
        "            count = len(body)\n",
        "            count = max(1, len(body) - 1)\n",
    ),
    _of_output(
        "output-merge-loses-tail",
        "core/output.py",
        "for each in publications if (content :=",
        "for each in publications[:-1] if (content :=",
    ),
    _of_output(
        "output-closed-early",
        "core/output.py",
        "NOTHING if content is None else content",
        "NOTHING if content is None or closes else content",
    ),
    _of_output(
        "output-producer-unchecked",
        _LUA + "output_append.lua",
        "if newest and epoch == newest and seq <= last then",
        "if false then",
    ),
)  # fmt: skip


#: The seed that found a mutant last, from 1 on. Plans change, and then another one does.
FOUND: dict[str, int] = {
    "process-not-marked": 13,
    "generation-not-moved": 6,
    "generation-kept-by-count": 38,
    "generation-returned": 4,
    "cursor-off-by-one": 2,
    "second-device-forgotten": 5,
    "stream-begun-anew": 8,
    "positions-not-compared": 11,
    "fence-left-out": 25,
    "version-not-raised": 59,
    "entry-deleted-first": 25,
    "heartbeats-by-the-wall-clock": 7,
    "expiring-by-the-wall-clock": 29,
    "older-store-not-noticed": 49,
    "writes-not-compared": 59,
    "narrower-limits-hold": 2,
    "version-of-before-the-move": 360,
}


class NotApplicable(Exception):
    """A change does not apply to the package as it stands."""


class NoVerdict(Exception):
    """A run ended in another way than with a verdict: that is no proof of the checker."""


def apply(mutant: Mutant, package: Path) -> None:
    """Put a mutant into a package. Raises `NotApplicable`."""
    for name, old, new in mutant.changes:
        file = package / name
        text = file.read_text() if file.exists() else ""
        if text.count(old) != 1:
            raise NotApplicable(f"{mutant.name}: {name} holds this {text.count(old)} times, not once: {old.strip()}")
        file.write_text(text.replace(old, new))


def hunt(
    mutant: Mutant, first: int, seeds: int, seconds: float, program: str = "tests.simulator"
) -> tuple[str, str] | None:
    """Return the seed that finds a mutant and the rule that it breaks; None where none does. ``program``: what tries
    seeds."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        ignored = shutil.ignore_patterns("__pycache__", "static", "dist")
        shutil.copytree(ROOT / "pushserver", place / "pushserver", ignore=ignored)
        for name in ("static", "dist"):
            if (ROOT / "pushserver" / "web" / name).exists():
                (place / "pushserver" / "web" / name).symlink_to(ROOT / "pushserver" / "web" / name)
        (place / "tests").symlink_to(ROOT / "tests")
        apply(mutant, place / "pushserver")
        command = [sys.executable, "-m", program, "--from", str(first), "--seeds", str(seeds)]
        command += ["--seconds", str(seconds), "--no-shrink", "--faults", "6"]
        command += ["--outputs"] * mutant.outputs
        command += ["--aim", *mutant.aim] if mutant.aim else []
        environment = os.environ | {"PYTHONPATH": folder}
        try:
            done = subprocess.run(
                command, cwd=place, env=environment, capture_output=True, text=True, timeout=seconds + LAST_SEED
            )
        except subprocess.TimeoutExpired:
            return None
    found = re.search(r"^seed (\d+): ([a-z-]+) at", done.stdout, re.MULTILINE)
    if found is not None:
        return found[1], found[2]
    if done.returncode != 0:
        raise NoVerdict(how_it_ended(done.returncode, done.stderr))
    return None


def how_it_ended(status: int, errors: str) -> str:
    """Return in one line what a run said last: the exception, in which seed, and where; or the status alone."""
    lines = errors.strip().splitlines()
    places = [line.strip() for line in lines if line.startswith("  File ")]
    # What is not indented behind the last traceback is the exception and its notes.
    last = lines[-1:]
    for line in reversed(lines[:-1]):
        if line.startswith((" ", "Traceback")):
            break
        last.insert(0, line)
    return ", ".join([f"status {status}", *last, *places[-1:]])


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulator.mutants")
    parser.add_argument("names", nargs="*", help="these mutants alone")
    parser.add_argument("--search", action="store_true", help="begin with seed 1, whatever found a mutant before")
    parser.add_argument("--from", dest="first", type=int, help="the first seed")
    parser.add_argument("--seeds", type=int, default=2_000, help="within so many a mutant must be found")
    parser.add_argument("--seconds", type=float, default=1_800.0, help="and within so long")
    options = parser.parse_args(words)
    missed = 0
    print(f"{'mutant':28} {'seed':>8}  {'rule':16} seconds")
    for mutant in MUTANTS:
        if options.names and mutant.name not in options.names:
            continue
        began = time.monotonic()
        try:
            first = options.first or (1 if options.search else FOUND.get(mutant.name, 1))
            found = hunt(mutant, first, options.seeds, options.seconds)
        except (NotApplicable, NoVerdict) as problem:
            what = "does not apply" if isinstance(problem, NotApplicable) else "no verdict"
            print(f"{mutant.name:28} {'-':>8}  {what}: {problem}", flush=True)
            missed += 1
            continue
        seed, rule = found or ("-", "not found")
        missed += found is None
        print(f"{mutant.name:28} {seed:>8}  {rule:16} {time.monotonic() - began:7.1f}", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
