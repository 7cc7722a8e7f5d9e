"""What the process asks of Python, of the reactor and of the system, once, before it begins.

Time: Twisted's reactor counts by the wall clock, so that a step of it (NTP, an operator) would hold up, or hurry, every
call that is scheduled. `count_monotonic` lets it count by a clock that nobody sets.

Memory: a connection's objects leave by their reference counts when it ends; only one that is cut off in the midst of
something leaves a cycle, in a traceback. The collector looks for cycles among everything that lives: with 10,000
connections it stands still for 60 ms at a time, and finds nothing. So what the program itself is made of is not looked
at again, and the rest seldom.
"""

from __future__ import annotations

import gc
import resource
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Final

from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore, IReactorProcess, IReactorSocket

from pushserver.engine.registry import EngineReactor

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime


class ProcessReactor(EngineReactor, IReactorCore, IReactorProcess, IReactorSocket):
    """What a process of the server needs of the reactor."""


#: New objects that are left over before the youngest are looked at, so many of these looks before the older ones are,
#: and so many of those before all are. A burst of some thousand messages is over before the first.
THRESHOLDS: Final = (10_000, 20, 50)


def freeze_gc() -> None:
    """To be called once, when the process has imported and made what it will keep."""
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def count_monotonic(reactor: IReactorTime) -> None:
    """Let the reactor count by the monotonic clock: ``reactor.seconds()`` is for durations alone from now on.

    To be called before anything is scheduled; raises RuntimeError where something is, since its time would be compared
    with another clock's. Calling it again changes nothing.
    """
    if reactor.seconds is time.monotonic:
        return
    scheduled = reactor.getDelayedCalls()
    if scheduled:
        raise RuntimeError(f"the reactor counts by the wall clock already: {scheduled[0]}")
    reactor.seconds = time.monotonic  # type: ignore[method-assign]


def end_once(reactor: ProcessReactor) -> None:
    """Let a second SIGTERM change nothing, and, once the end has begun, a second Ctrl-C end it at once.

    Twisted would log a failure for the first, which may come before the reactor has heard of the one before it.
    """
    stop = reactor.stop

    def stop_once() -> None:
        try:
            stop()
        except ReactorNotRunning:
            pass  # It ends already.

    def ending() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    reactor.stop = stop_once  # type: ignore[method-assign]
    reactor.addSystemEventTrigger("before", "shutdown", ending)


def open_files() -> int:
    """Return how many files, sockets among them, this process may have open; 0: no limit."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if most == resource.RLIM_INFINITY else most


def address_limit_warning(pending_per_address: int, files: int) -> str:
    """Return what is to be said of `server.max_pending_per_address` in a process of so many files (0: no limit), or "".

    Where one address may have as many sockets as the process files, nobody else gets in.
    """
    if not pending_per_address:
        return "server.max_pending_per_address is 0: one address may have any number of sockets without a token"
    if files and pending_per_address >= files:
        return (
            f"server.max_pending_per_address is {pending_per_address}, and this process may open {files} files:"
            " one address can keep everybody else out; make it less, or the limit of open files more"
        )
    return ""


def on_signal(reactor: ProcessReactor, number: int, call: Callable[[], object]) -> None:
    """Call this in the reactor's turn on each signal of that number, from now on."""

    def received(_: int, __: FrameType | None) -> None:
        reactor.callFromThread(call)

    signal.signal(number, received)
