"""The clients of a run: several processes in C that work at the same time, each with a part of the connections."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.scale.limits import Plan
from bench.scoreboard.clients import Counts, Wrong
from bench.servers import CHANNEL, Load, NotAvailable, Server
from pushserver.client.backoff import Retry

#: Channels that only the first few connections follow: one connection alone, and enough for each worker to have some.
ONE: Final = "public:one"
FEW: Final = "public:few"
FEW_OF_WORKER: Final = 16

#: Milliseconds between two looks at whether all is well, while something is waited for.
LOOK: Final = 500


@dataclass(frozen=True, slots=True)
class Returned:
    """Who came back: how many are open, how often one was lost, and how often a return failed.

    ``last``: when the last one came, on the monotonic clock; ``away``: seconds that each was away.
    """

    opened: int
    lost: int
    failed: int
    last: float
    away: tuple[float, ...]


class Crowd:
    """All connections of a plan. ``few`` of them follow FEW; ``look`` raises where something has gone wrong."""

    def __init__(self, server: Server, plan: Plan, few: int, look: Callable[[], None]) -> None:
        self.connections = plan.connections
        self._per_client = plan.per_client
        self._look = look
        #: how often one was ended and was to come back; None: nobody comes back yet
        self._lost: int | None = None
        #: how many connections follow FEW
        self.few = min(few, plan.per_client[0])
        self.clients: list[Load] = []
        try:
            for _ in plan.per_client:
                self.clients.append(Load(server))
            self._ask(f"from {plan.addresses}")
        except BaseException:
            self.close()
            raise

    @property
    def pids(self) -> list[int]:
        return [client.pid for client in self.clients]

    def close(self) -> None:
        for client in self.clients:
            client.close()

    def _ask(self, command: str) -> list[list[str]]:
        for client in self.clients:
            client.send(command)
        return [client.answer() for client in self.clients]

    # -- signing in ---------------------------------------------------------------------------------------------------

    def _channels(self, n: int) -> list[str]:
        """Return what user ``n`` follows."""
        return [CHANNEL, *([FEW] if n < self.few else []), *([ONE] if n == 0 else [])]

    def prepare(self) -> list[Path]:
        """Write what each connection will say: a token of its own, and its channels."""
        first, paths = 0, []
        for client, count in zip(self.clients, self._per_client, strict=True):
            paths.append(client.prepare(count, channels=self._channels, first=first))
            first += count
        return paths

    def open(self, paths: Sequence[Path], window: int) -> float:
        """Let all sign in, ``window`` at a time in each process; return the seconds until the last is ready.

        Raises NotAvailable where one does not become ready.
        """
        for client, path, count in zip(self.clients, paths, self._per_client, strict=True):
            marker, times = client.ready
            client.send(f"open {path} {count} {window} {marker} {times}")
        try:
            answers = [client.answer() for client in self.clients]
        except RuntimeError:
            # Where a worker has ended, that is why a client could not go on.
            self._look()
            raise
        self._look()
        ready = sum(int(answer[1]) for answer in answers)
        if ready != self.connections:
            raise NotAvailable(f"{ready} of {self.connections} connections became ready{self._reason()}")
        return max(float(answer[2]) for answer in answers)

    def _reason(self) -> str:
        """Return how the first one ended that was not to end."""
        reasons = [" ".join(answer[3:]) for answer in self._ask("lost") if len(answer) > 3]
        return f"; {reasons[0]}" if reasons else ""

    # -- what comes ---------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        self._ask("reset")

    def wait(self, messages: Sequence[int], timeout: float = 60) -> None:
        """Wait until the processes have so many messages since the reset. Raises Wrong where they do not come."""
        end = time.monotonic() + timeout
        for client, wanted in zip(self.clients, messages, strict=True):
            while (got := int(client.ask(f"await {wanted} {LOOK}")[1])) < wanted:
                self._look()
                self.check_open()
                if time.monotonic() > end:
                    raise Wrong(f"{got} of {wanted} messages came to one of the clients in {timeout:g} s")

    def wait_for_one(self) -> None:
        """Wait until everybody has one message."""
        self.wait(self._per_client)

    def check(self, each: int) -> None:
        """Raise Wrong where a connection has not so many messages since the reset."""
        for client in self.clients:
            counts = Counts(*map(int, client.ask("counts")[1:]))
            if (counts.least, counts.most) != (each, each):
                raise Wrong(f"connections received {counts.least} to {counts.most} messages, not {each} each")
            if counts.disordered:
                raise Wrong(f"{counts.disordered} messages came out of order or twice")

    def latest(self) -> tuple[float, float]:
        """Return milliseconds from the publication until half of them have it, about, and until the last has it."""
        answers = [list(map(int, answer[1:])) for answer in self._ask("latencies")]
        middles = sorted(answer[1] for answer in answers)
        return middles[len(middles) // 2] / 1000, max(answer[3] for answer in answers) / 1000

    def check_open(self) -> None:
        """Raise Wrong where the server has ended a connection, beside those that came back."""
        ended = sum(int(answer[1]) for answer in self._ask("lost"))
        if self._lost is not None:
            ended += self._count_lost() - self._lost
        if ended:
            raise Wrong(f"{ended} of {self.connections} connections were ended{self._reason()}")

    def pings(self) -> int:
        """Return how many pings the connections have answered."""
        return sum(int(answer[2]) for answer in self._ask("lost"))

    # -- coming back --------------------------------------------------------------------------------------------------

    def come_back(self, seed: int) -> None:
        """From now on, who is ended comes back when the protocol's clients would."""
        retry = Retry()
        windows = f"{retry.first} {retry.next} {retry.factor} {retry.cap}"
        for number, client in enumerate(self.clients):
            client.ask(f"back {windows} {seed + number}")

    def _count_lost(self) -> int:
        """Return how often one that was ready was ended since then."""
        return sum(int(answer[2]) for answer in self._ask("returned 0"))

    def wait_for_all(self, timeout: float, look: Callable[[], None]) -> Returned:
        """Wait until everybody is back; ``look`` as before. Raises Wrong where that takes too long."""
        end = time.monotonic() + timeout
        while True:
            answers = [answer[1:] for answer in self._ask(f"returned {LOOK}")]
            opened, lost, failed = (sum(int(answer[n]) for answer in answers) for n in range(3))
            if opened == self.connections:
                break
            look()
            if time.monotonic() > end:
                raise Wrong(f"{opened} of {self.connections} connections are open {timeout:g} s after the kill")
        self._lost = lost
        times = [int(word) / 1e6 for answer in self._ask("away") for word in answer[1:]]
        return Returned(opened, lost, failed, max(float(answer[3]) for answer in answers), tuple(sorted(times)))
