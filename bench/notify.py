"""What a notification costs where the backend is told of those that nobody reads, beside where it is told nothing."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from bench import figures
from bench.figures import running
from bench.measure import Progress, Table, Target, in_turns
from bench.servers import PushServer, redis_process

#: Who is notified, one after another, and how many notifications one round has: so that five rounds fill no inbox.
USERS = 100
TIMES = 1_000

Run = tuple[str, Callable[[], float]]


class UnreadServer(PushServer):
    """The whole server, which makes events of what nobody reads."""

    settings = '[events]\ntypes = ["inbox.unread"]\n'


def _measured(progress: Progress, rounds: int, name: str, how: str, at_once: int) -> Table:
    table = Table(
        name,
        f"Notifications to {USERS} users, {how}, with inbox.unread and without events",
        "µs of CPU for a notification, of the server and its Redis",
        targets=[
            Target(1.3, "embedded", row="embedded, inbox.unread"),
            Target(1.3, "Redis", row="Redis, inbox.unread"),
        ],
        notes=["no event falls due in a round: that would be five minutes after its notification"],
    )
    with ExitStack() as stack:
        runs: list[Run] = []
        for engine in ("embedded", "Redis"):
            for row, kind in ((engine, PushServer), (f"{engine}, inbox.unread", UnreadServer)):
                progress.show(f"{table.name}: starting {row}")
                url, others = "", list[int]()
                if engine == "Redis":
                    port, pid = stack.enter_context(redis_process())
                    url, others = f"redis://127.0.0.1:{port}/0", [pid]
                server, load = stack.enter_context(running(kind, USERS, redis=url))
                take = partial(figures.notify, server, load, users=USERS, at_once=at_once, others=others)
                take(USERS // at_once)
                runs.append((row, partial(take, TIMES // at_once)))
        in_turns(rounds, progress, table, runs)
    return table


def notify(progress: Progress, rounds: int) -> list[Table]:
    return [
        _measured(progress, rounds, "notify", "one after another", 1),
        _measured(progress, rounds, "notify-bursts", "ten in one request", 10),
    ]
