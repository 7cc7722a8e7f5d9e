"""What systemd is told of this process (sd_notify(3)): ready, reloading, stopping, and that it does not hang.

Outside systemd there is no ``NOTIFY_SOCKET``, and nothing is said. A unit with ``Type=notify`` waits for READY=1; one
with ``WatchdogSec=`` restarts a process of which no WATCHDOG=1 has come for so long.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

from twisted.logger import Logger

from pushserver.server.clock import Clock, Recurring

#: Signs of life within the time that systemd waits for one.
SIGNS: Final = 3
#: Seconds until what systemd had no room for is sent again.
AGAIN: Final = 0.1

_log = Logger()


def notify(state: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd a state, such as ``STOPPING=1``; return whether it was taken."""
    try:
        return _send(state, environment)
    except OSError as problem:
        _warn(state, problem)
        return False


def announce_ready(clock: Clock, environment: Mapping[str, str] = os.environ) -> None:
    """Tell systemd ``READY=1``, again and again while it has no room for it: what is never ready, it would kill."""
    try:
        _send("READY=1", environment)
    except BlockingIOError:
        clock.later(AGAIN, announce_ready, clock, environment)
    except OSError as problem:
        _warn("READY=1", problem)


def _send(state: str, environment: Mapping[str, str]) -> bool:
    """Return whether there is anybody to send it to. Raises OSError where that one does not take it."""
    address = environment.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return False
    # A name that begins with @ is one of the abstract kind.
    path = "\0" + address[1:] if address[0] == "@" else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), path)
    return True


def _warn(state: str, problem: OSError) -> None:
    _log.warn("systemd cannot be told {state}: {problem}", state=state.partition("=")[0], problem=str(problem))


def watchdog(clock: Clock, environment: Mapping[str, str] = os.environ) -> Recurring | None:
    """Give signs of life from now on, as often as systemd wants them; return None where it wants none."""
    wanted = environment.get("WATCHDOG_USEC", "")
    whose = environment.get("WATCHDOG_PID", "")
    if not wanted.isdigit() or not int(wanted) or (whose and whose != str(os.getpid())):
        return None
    return clock.every(int(wanted) / 1_000_000 / SIGNS, lambda: _sign(environment), _log, "telling systemd")


def _sign(environment: Mapping[str, str]) -> None:
    notify("WATCHDOG=1", environment)
