"""Virtual time, the processes in it, and chance.

One event runs at a time, and belongs to one process: its code sees that process' clocks. Time passes only between
events, from one to the next, so that waiting costs nothing. All chance of a run comes from its seed: latencies, the
product's random numbers, and the order in which sets of connections are gone through.
"""

from __future__ import annotations

import gc
import heapq
import random
import secrets
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from pushserver.server.connection import Connection

#: The wall time at which every run begins, ms.
BEGINNING = 1_800_000_000_000


class Event:
    """A call that is due at a moment."""

    __slots__ = ("args", "at", "call", "cancelled", "done", "kwargs", "process")

    def __init__(self, process: Process, at: float, call: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self.process = process
        self.at = at
        self.call = call
        self.args = args
        self.kwargs = kwargs
        self.cancelled = False
        self.done = False


class Process:
    """Something that runs: a node, Redis, a device. ``host`` is its address.

    Attributes:
        alive: false once it was killed: nothing of it runs any more, whatever was due.
        held: stopped like by SIGSTOP; what is due meanwhile runs when it goes on.
        skew: how far its wall clock is ahead of the world's, ms.
    """

    def __init__(self, world: World, name: str, host: str) -> None:
        self.world = world
        self.name = name
        self.host = host
        self.alive = True
        self.held = False
        self.skew = 0
        #: how often it was held, so that the end of one hold is not taken for that of a later one
        self._holds = 0
        self._due: list[Event] = []
        # Monotonic clocks have no common origin.
        self._origin = 1000.0 + world.chance.random() * 1000

    def wall(self) -> int:
        """Return its wall time, ms since the epoch."""
        return BEGINNING + int(self.world.now * 1000) + self.skew

    def monotonic(self) -> float:
        return self._origin + self.world.now

    def later(self, seconds: float, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Event:
        """Call in this process, ``seconds`` from now."""
        return self.world.schedule(Event(self, self.world.now + max(0.0, seconds), call, args, kwargs))

    def at(self, moment: float, call: Callable[..., Any], *args: Any) -> Event:
        """Call in this process at a moment of the world: what is asked for one moment comes in the order of asking."""
        return self.world.schedule(Event(self, max(self.world.now, moment), call, args, {}))

    def kill(self) -> None:
        self.alive = False
        self._due.clear()

    def hold(self) -> Callable[[], None]:
        """Stop it. Return what lets it go on, unless this hold is over by then, also where another one has begun."""
        self.held = True
        self._holds += 1
        number = self._holds

        def end() -> None:
            if self.held and self._holds == number:
                self.go_on()

        return end

    def go_on(self) -> None:
        self.held = False
        due, self._due = self._due, []
        for event in due:
            event.at = self.world.now
            self.world.schedule(event)

    def keep_due(self, event: Event) -> None:
        """Run this when the process goes on."""
        self._due.append(event)


class World:
    """Everything that happens in one run.

    Attributes:
        now: seconds since the beginning; the truth, which no process can see.
        chance: whatever is random outside the product.
        current: the process whose event runs.
        failed: takes what an event of a process raised; returns whether that is no fault of the simulator.
    """

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.chance = random.Random(f"world {seed}")
        self.seed = seed
        self.events = 0
        self._queue: list[tuple[float, int, Event]] = []
        self._number = 0
        self._outside = Process(self, "outside", "")
        self.current = self._outside
        self.failed: Callable[[Process, str], bool] | None = None
        #: what else takes the place of something while the world governs: where, its name, and what
        self.replaced: list[tuple[Any, str, Any]] = []

    def schedule(self, event: Event) -> Event:
        self._number += 1
        heapq.heappush(self._queue, (event.at, self._number, event))
        return event

    def at(self, seconds: float, call: Callable[..., Any], *args: Any) -> Event:
        """Call outside of every process at this moment."""
        return self.schedule(Event(self._outside, seconds, call, args, {}))

    def run(self, until: float) -> None:
        """Let everything happen that is due before this moment."""
        queue = self._queue
        while queue and queue[0][0] <= until:
            at, _, event = heapq.heappop(queue)
            if event.cancelled or at < event.at:
                # What was put off stands in the queue once more.
                continue
            process = event.process
            if not process.alive:
                continue
            self.now = max(self.now, at)
            if process.held:
                process.keep_due(event)
                continue
            event.done = True
            self.events += 1
            self.current = process
            try:
                event.call(*event.args, **event.kwargs)
            except Exception:
                # A reactor would log it, and go on.
                if self.failed is None or not self.failed(process, traceback.format_exc()):
                    raise
            self.current = self._outside
        self.now = max(self.now, until)

    @contextmanager
    def governed(self) -> Iterator[None]:
        """As long as this lasts, Python's clocks are those of the process that runs, and its chance is the seed's."""
        product = random.Random(f"product {self.seed}")
        state = random.getstate()
        random.seed(f"product {self.seed}")
        collecting = gc.isenabled()
        # What a killed process left would be closed at a moment that is not the world's to choose.
        gc.disable()
        try:
            with ExitStack() as stack:
                for owner, name, value in (*self._governed(product), *self.replaced):
                    stack.enter_context(mock.patch.object(owner, name, value))
                yield
        finally:
            random.setstate(state)
            if collecting:
                gc.enable()

    def _governed(self, product: random.Random) -> list[tuple[Any, str, Any]]:
        """Return what stands for the clocks and the chance of Python: where, its name, and what takes its place."""
        return [
            (time, "time", lambda: self.current.wall() / 1000),
            (time, "time_ns", lambda: self.current.wall() * 1_000_000),
            (time, "monotonic", lambda: self.current.monotonic()),
            (time, "perf_counter", lambda: self.current.monotonic()),
            (secrets, "_sysrand", product),
            # Autobahn's factory would seed it anew.
            (random, "seed", lambda *_: None),
            # A set of connections is gone through by their addresses in memory, which no seed chooses.
            (Connection, "__hash__", lambda connection: hash(connection.id)),
        ]
