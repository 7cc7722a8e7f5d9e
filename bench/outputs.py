"""What tasks write while they work: how soon readers have it, and what one output costs with many readers."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from itertools import count
from typing import Any

from bench.figures import one_a_turn, running
from bench.measure import Progress, Table, Target, cpu, in_turns
from bench.servers import Http, Load, PushServer, Server, redis_server

#: Outputs that are written at once, each with a reader; what comes to each of them in a second, and for how long.
OUTPUTS = 300
TOKENS = 30
SECONDS = 5.0
#: Writers: each has its part of the outputs and, like a worker of the publisher, sends what is due in one request.
WRITERS = 10
#: Outputs that begin while those are written.
BEGINNINGS = 50
#: Readers of one output, and appends of one round.
READERS = 1_000
APPENDS = 400

#: Before the time of a token, in what readers are pushed.
MARK = "at="

Run = tuple[str, Callable[[], float]]


class Unmerged(PushServer):
    """The whole server, its store on a memory disk; each append is pushed by itself, so that none waits for another."""

    settings = '[tasks]\noutput_interval = "0s"\n'

    def __init__(self, **options: Any) -> None:
        self._memory = tempfile.TemporaryDirectory(prefix="bench-", dir="/dev/shm")
        super().__init__(**options)

    def command(self) -> list[str]:
        # Of an option that comes twice the last counts.
        return [*super().command(), "--state-dir", self._memory.name]

    def stop(self) -> None:
        super().stop()
        self._memory.cleanup()


class Merged(Unmerged):
    """The same with the window of 40 ms, as it is unless said otherwise."""

    settings = ""


#: The servers of the paced runs: their rows, what they are, and whether they are over Redis.
KINDS: tuple[tuple[str, type[Unmerged], bool], ...] = (
    ("embedded", Unmerged, False),
    ("Redis", Unmerged, True),
    ("embedded, in a window of 40 ms", Merged, False),
    ("Redis, in a window of 40 ms", Merged, True),
)


class Readers(Load):
    """Each connection follows the output of its own user's task."""

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.ask(f"mark {MARK.encode().hex()}")

    def owner(self, user: str) -> str:
        """Return the user that a connection signs in as; the task has that name too."""
        return user

    def first_frames(self, user: str, channels: Sequence[str]) -> tuple[bytes, bytes]:
        owner = self.owner(user)
        return self._server.upgrade(), self._server.greeting(owner, [f"output:main/{owner}"])

    def check(self, each: int) -> None:
        """Raise RuntimeError where a connection has not received so many tokens, each once and in order."""
        least, most, disordered, _ = map(int, self.ask("counts")[1:])
        if (least, most, disordered) != (each, each, 0):
            raise RuntimeError(f"readers received {least} to {most} tokens, not {each}; {disordered} out of order")


class ReadersOfOne(Readers):
    """All follow one output, which is the first one's."""

    def owner(self, user: str) -> str:
        return "u0"


def _perform(server: PushServer, http: Http, method: str, params: Sequence[dict[str, Any]]) -> None:
    """Have the server perform a method so many times, in one request. Raises RuntimeError where it refuses one."""
    commands = [{"method": method, "params": each} for each in params]
    answer = http.post(server.batch_path, json.dumps({"commands": commands}).encode(), server.headers)
    for reply in json.loads(answer)["replies"]:
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']}")


def begin(server: PushServer, first: int, tasks: int) -> None:
    """Create tasks, named as those who read them are."""
    names = [f"u{number}" for number in range(first, first + tasks)]
    _perform(server, server.http, "task.create", [{"taskId": name, "userId": name} for name in names])


def append(server: PushServer, http: Http, tasks: Sequence[str], at: float) -> None:
    """Append a token to the output of each task, as written at this moment of the monotonic clock."""
    text = f"{MARK}{int(at * 1e6):016d} "
    _perform(server, http, "task.output", [{"taskId": task, "text": text} for task in tasks])


def _write(server: PushServer, tasks: Sequence[str], began: float, times: int) -> None:
    """A worker: a token comes to all of its outputs at fixed times; who is late does not move what follows."""
    http = Http(server.port)
    try:
        for number in range(times):
            due = began + number / TOKENS
            time.sleep(max(0.0, due - time.monotonic()))
            append(server, http, tasks, due)
    finally:
        http.close()


def _paced(server: PushServer, load: Readers, firsts: Table, name: str, numbers: Iterator[int]) -> float:
    """p99 of the time from a token to its reader, ms; the median of first tokens goes into the other table."""
    first, times = OUTPUTS + next(numbers) * BEGINNINGS, int(TOKENS * SECONDS)
    begin(server, first, BEGINNINGS)
    beginnings = Readers(server)
    try:
        beginnings.open(BEGINNINGS, path=beginnings.prepare(BEGINNINGS, first=first))
        load.reset()
        beginnings.reset()
        began = time.monotonic() + 0.1
        with ThreadPoolExecutor(WRITERS) as pool:
            writing = [
                pool.submit(
                    partial(_write, server, [f"u{n}" for n in range(writer, OUTPUTS, WRITERS)]),
                    began + writer / WRITERS / TOKENS,
                    times,
                )
                for writer in range(WRITERS)
            ]
            for number in range(BEGINNINGS):
                time.sleep(max(0.0, began + SECONDS * (number + 0.5) / BEGINNINGS - time.monotonic()))
                append(server, server.http, [f"u{first + number}"], time.monotonic())
            for each in writing:
                each.result()
        load.wait(OUTPUTS * times)
        load.check(times)
        beginnings.wait(BEGINNINGS)
        firsts.row(name).values.append(beginnings.latencies()[1] / 1000)
        return load.latencies()[2] / 1000
    finally:
        beginnings.close()


def _tokens(progress: Progress, rounds: int) -> list[Table]:
    title = f"{OUTPUTS} outputs with {TOKENS} tokens a second and a reader each"
    table = Table(
        "outputs-tokens",
        f"{title}, from the append to its reader: 99th percentile",
        "ms",
        targets=[Target(25.0 if kind is Unmerged else 65.0, row=name) for name, kind, _ in KINDS],
        notes=[
            "without the window no token waits for another, and more is pushed: what a token takes beside the window",
            f"{WRITERS} workers append, each all that is due in one request; a token's time begins when it is due",
        ],
    )
    firsts = Table(
        "outputs-first",
        f"{title}: the first token of outputs that begin meanwhile, to its reader: median",
        "ms",
        targets=[Target(5.0, row=name) for name, _, _ in KINDS],
    )
    with ExitStack() as stack:
        runs: list[Run] = []
        for name, kind, over_redis in KINDS:
            progress.show(f"{table.name}: starting {name}")
            redis = f"redis://127.0.0.1:{stack.enter_context(redis_server())}/0" if over_redis else ""
            server = kind(redis=redis)
            stack.callback(server.stop)
            load = Readers(server)
            stack.callback(load.close)
            begin(server, 0, OUTPUTS)
            load.open(OUTPUTS)
            runs.append((name, partial(_paced, server, load, firsts, name, count())))
        in_turns(rounds, progress, table, runs)
    return [table, firsts]


def _readers(progress: Progress, rounds: int) -> Table:
    table = Table(
        "outputs-readers",
        f"One output, {READERS} readers, one append a turn, beside one publication a turn",
        "µs of CPU for a delivery",
        targets=[Target(1.1, "fan-out", row="output")],
    )

    def appends(server: PushServer, load: Readers) -> float:
        load.reset()
        before = cpu(server.pid)
        for _ in range(APPENDS):
            append(server, server.http, ["u0"], time.monotonic())
            load.wait(READERS)
        used = cpu(server.pid) - before
        load.check(APPENDS)
        return used / APPENDS / READERS * 1e6

    with ExitStack() as stack:
        progress.show(f"{table.name}: connecting")
        plain, followers = stack.enter_context(running(Unmerged, READERS))
        server = Unmerged()
        stack.callback(server.stop)
        load = ReadersOfOne(server)
        stack.callback(load.close)
        begin(server, 0, 1)
        load.open(READERS)
        runs: list[Run] = [
            ("fan-out", partial(one_a_turn, plain, followers, APPENDS, READERS)),
            ("output", partial(appends, server, load)),
        ]
        in_turns(rounds, progress, table, runs)
    return table


def outputs(progress: Progress, rounds: int) -> list[Table]:
    return [*_tokens(progress, rounds), _readers(progress, rounds)]
