"""What is measured of one server, one step after another. Whatever goes wrong ends the run: there are no figures then.

    empty -> sign in -> broadcasts -> idle -> publications over Redis -> a worker is killed, all come back -> broadcasts

Wrong, NotAvailable, RuntimeError and OSError say what went wrong, in one line.
"""

from __future__ import annotations

import os
import signal
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from bench.figures import SETTLED, warm
from bench.measure import Progress, percentile
from bench.scale.crowd import FEW, FEW_OF_WORKER, ONE, Crowd
from bench.scale.limits import Plan
from bench.scale.server import Redis, WorkersServer, kernel_memory
from bench.scoreboard.clients import Wrong, allow_descriptors
from bench.scoreboard.quiet import Processes, Watch
from bench.servers import Load, redis_process

#: Connections that come and go before anything is measured.
WARMING: Final = 200
#: Seconds in which a worker must be ready again, and all must be back: the last windows of those that failed are wide.
READY_AGAIN: Final = 60
BACK: Final = 300
#: Seconds in which every worker must have said how many connections it has.
ASKED_AGAIN: Final = 30
#: Messages of one request, where many are published.
BATCH: Final = 50

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long and how often: seconds of idleness, broadcasts before and after the kill, publications over Redis."""

    idle: float
    broadcasts: int
    publications: int
    window: int


class Run:
    """One server with its clients. ``figures`` holds what was measured so far."""

    def __init__(self, plan: Plan, sizes: Sizes, progress: Progress, stack: ExitStack) -> None:
        """Start everything; it ends with the stack."""
        self._plan = plan
        self._sizes = sizes
        self._progress = progress
        self._step = ""
        self.figures: Figures = {}
        #: the part of a core that something else used in each step
        self.others: dict[str, float] = {}
        allow_descriptors(max(plan.per_client))
        self._begin("starting")
        port, pid = stack.enter_context(redis_process())
        self._redis = Redis(port, pid)
        stack.callback(self._redis.close)
        self._server = WorkersServer(f"redis://127.0.0.1:{port}/0", plan.connections, plan.workers, plan.files)
        stack.callback(self._server.stop)
        self._workers = self._server.living_workers()
        self._crowd = Crowd(self._server, plan, FEW_OF_WORKER * plan.workers, self._look)
        stack.callback(self._crowd.close)
        self._ours = Processes({self._server.pid}, {pid, *self._crowd.pids})

    def _begin(self, step: str) -> None:
        self._step = step
        self._progress.show(step)

    def _look(self, but: int | None = None) -> None:
        """Raise Wrong where the workers are not those that were there; ``but``: the number of one that may be away."""
        living = self._server.living_workers()
        for number, pid in self._workers.items():
            if number != but and living.get(number) != pid:
                said = self._server.ended()
                raise Wrong(f"worker {number} ended while {self._step}{f': {said}' if said else ''}")

    def _watch(self) -> Watch:
        return Watch(self._ours, self._server.pid, self._crowd.pids, self._redis.pid)

    def _note(self, name: str, watch: Watch) -> None:
        """Keep the most that something else used in a step, or in one of its repetitions."""
        self.others[name] = max(self.others.get(name, 0.0), watch.other)

    # -- steps --------------------------------------------------------------------------------------------------------

    def take(self) -> Figures:
        """Take all steps; return the figures."""
        self._sign_in()
        self._broadcasts("broadcast")
        self._idle()
        self._publications()
        self._kill()
        self._broadcasts("again")
        return self.figures

    def _sign_in(self) -> None:
        connections = self._plan.connections
        self._begin("a first few come and go")
        warm(self._server, min(WARMING, connections), Load)
        self._empty()
        self._begin("making the tokens")
        paths = self._crowd.prepare()
        time.sleep(SETTLED)
        server, kernel, redis = self._server.proportional(), kernel_memory(), self._redis.used_memory()
        self._begin(f"{connections} sign in")
        with self._watch() as watch:
            self.figures["sign_in_seconds"] = self._crowd.open(paths, self._sizes.window)
        self._note("sign-in", watch)
        self.figures["sign_in_us"] = watch.server / connections * 1e6
        self.figures["redis_sign_in_us"] = watch.redis / connections * 1e6
        time.sleep(SETTLED)
        self.figures["server_base_mib"] = server / 1024
        self.figures["server_kib"] = (self._server.proportional() - server) / connections
        self.figures["redis_bytes"] = (self._redis.used_memory() - redis) / connections
        now = kernel_memory()
        # Less than before: something else gave memory back meanwhile, and nothing is known.
        if kernel is not None and now is not None and now > kernel:
            self.figures["kernel_kib"] = (now - kernel) / connections
        self._spread("signed_in")

    def _empty(self) -> None:
        """What the server and Redis do while nobody is connected: it grows with the workers alone."""
        self._begin(f"empty for {self._sizes.idle / 3:g} s")
        with self._watch() as watch:
            time.sleep(self._sizes.idle / 3)
        self._note("empty", watch)
        self.figures["empty_cpu"] = watch.server / watch.seconds
        self.figures["empty_redis_cpu"] = watch.redis / watch.seconds

    def _spread(self, when: str) -> dict[int, int]:
        """Return how many connections each worker has. Raises Wrong where they are not all that there are."""
        end = time.monotonic() + ASKED_AGAIN
        # One that is busy does not answer in time, and is asked again.
        while set(each := self._server.connections()) != set(self._workers) and time.monotonic() < end:
            self._look()
        if set(each) != set(self._workers) or sum(each.values()) != self._plan.connections:
            raise Wrong(f"the workers have {sum(each.values())} of {self._plan.connections} connections: {each}")
        self.figures[f"{when}_least"], self.figures[f"{when}_most"] = min(each.values()), max(each.values())
        return each

    def _broadcasts(self, name: str) -> None:
        """Publish to everybody, several times; each has each message once."""
        middles, lasts, costs, clients = [], [], [], []
        for number in range(self._sizes.broadcasts):
            self._begin(f"broadcast {number + 1} of {self._sizes.broadcasts}")
            if number:
                # What had come once has not come again since.
                self._crowd.check(1)
            self._crowd.reset()
            with self._watch() as watch:
                self._server.publish()
                self._crowd.wait_for_one()
            self._note(name, watch)
            middle, last = self._crowd.latest()
            middles.append(middle)
            lasts.append(last)
            costs.append(watch.server / self._plan.connections * 1e6)
            clients.append(watch.load)
            self._crowd.check(1)
        self.figures[f"{name}_half_ms"] = statistics.median(middles)
        self.figures[f"{name}_last_ms"] = statistics.median(lasts)
        self.figures[f"{name}_last_ms_worst"] = max(lasts)
        self.figures[f"{name}_us"] = statistics.median(costs)
        self.figures[f"{name}_client_load"] = statistics.median(clients)
        time.sleep(SETTLED)
        self._crowd.check(1)
        self._look()
        self._crowd.check_open()

    def _idle(self) -> None:
        self._begin(f"idle for {self._sizes.idle:g} s")
        pings = self._crowd.pings()
        with self._watch() as watch:
            end = time.monotonic() + self._sizes.idle
            while (left := end - time.monotonic()) > 0:
                time.sleep(min(1.0, left))
                self._look()
        self._note("idle", watch)
        self.figures["idle_cpu"] = watch.server / watch.seconds
        self.figures["idle_redis_cpu"] = watch.redis / watch.seconds
        self.figures["idle_pings"] = (self._crowd.pings() - pings) / watch.seconds
        self._crowd.check_open()
        # Nobody has had the last broadcast once more since.
        self._crowd.check(1)

    def _publications(self) -> None:
        """What Redis pays for a message of a channel that one worker follows, and of one that all follow."""
        workers = self._plan.workers
        for channel, wanted in ((ONE, 1), (FEW, workers)):
            nodes = self._redis.subscribers(channel)
            if nodes != wanted:
                raise Wrong(f"{nodes} of {wanted} workers follow {channel}")
        for name, channel in (("one", ONE), ("all", FEW)):
            self._begin(f"{self._sizes.publications} messages to {channel}")
            with self._watch() as watch:
                for _ in range(self._sizes.publications // BATCH):
                    self._server.publish_many(channel, BATCH)
            self._note("publications", watch)
            # What Redis does for idle nodes meanwhile is not these messages' affair.
            used = max(0.0, watch.redis - self.figures["idle_redis_cpu"] * watch.seconds)
            messages = self._sizes.publications // BATCH * BATCH
            self.figures[f"redis_publish_{name}_us"] = used / messages * 1e6
            self.figures[f"publish_{name}_seconds"] = watch.seconds / messages
        self._look()
        self._crowd.check_open()

    def _kill(self) -> None:
        victim = max(self._workers)
        self._begin(f"worker {victim} is killed, and its clients come back")
        held = self._spread("before")[victim]
        self._crowd.come_back(seed=victim)
        before = self._server.cpu_by_process()
        written = self._server.log.stat().st_size
        killed = time.monotonic()
        os.kill(self._workers[victim], signal.SIGKILL)
        self.figures["worker_back_seconds"] = self._ready_again(victim, written) - killed
        returned = self._crowd.wait_for_all(BACK, lambda: self._look(but=victim))
        self._look(but=victim)
        after = self._server.cpu_by_process()
        new = self._server.living_workers().get(victim)
        if new is None or new == self._workers[victim]:
            raise Wrong(f"worker {victim} is not there again")
        self._workers[victim] = new
        # Whoever was ended was the killed worker's, or should not have been.
        disturbed = returned.lost - held
        if disturbed:
            raise Wrong(f"{returned.lost} connections were ended, and the killed worker had {held}")
        self.figures["killed_connections"] = held
        self.figures["others_disturbed"] = disturbed
        self.figures["failed_returns"] = returned.failed
        self.figures["all_back_seconds"] = returned.last - killed
        self.figures["away_median_seconds"] = statistics.median(returned.away)
        self.figures["away_p99_seconds"] = percentile(returned.away, 0.99)
        used = sum(seconds - before.get(pid, 0.0) for pid, seconds in after.items())
        self.figures["return_us"] = used / held * 1e6
        self._server.connect_anew()
        self._spread("after")

    def _ready_again(self, number: int, written: int) -> float:
        """Return when a worker that was killed is ready again, as the log says from its octet ``written`` on."""
        end = time.monotonic() + READY_AGAIN
        with open(self._server.log) as log:
            log.seek(written)
            said = ""
            while f"worker {number} is ready" not in said:
                said += log.read()
                if time.monotonic() > end:
                    raise Wrong(f"worker {number} was not ready again within {READY_AGAIN} s")
                time.sleep(0.002)
        return time.monotonic()
