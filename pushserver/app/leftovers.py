"""What an earlier process left behind, and what must not keep this one from starting: its pid file, its socket's lock.

Process ids come again, after a restart of the machine and at once in a container, where the server is number 1 each
time. So a number alone says nothing: what counts is whether that process is a server, or answers at the socket.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Final

from pushserver.config.values import endpoint_arguments

#: ``twistd``'s own name for the file, which nobody asked for.
DEFAULT_PID_FILE: Final = "twistd.pid"


def pid_file(path: str, in_foreground: bool) -> str:
    """Return the pid file that ``twistd`` shall use, "" for none, and remove what an earlier process left there.

    In the foreground somebody else looks after the process, and the file is used only where it was asked for. It is
    left alone where it names a server that lives: that one would lose it.
    """
    if not path or (in_foreground and path == DEFAULT_PID_FILE):
        return ""
    file = Path(path)
    try:
        number = int(file.read_text(encoding="ascii", errors="replace"))
    except (OSError, ValueError):
        # Nothing there, or nothing that a server wrote: in the second case it cannot be one's own.
        number = 0
    if not _is_server(number):
        file.unlink(missing_ok=True)
    return path


def _is_server(number: int) -> bool:
    """Return whether another process of that number lives, and is started as a server is."""
    if number <= 0 or number == os.getpid():
        return False
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"pushserver" in words


def clear_socket_lock(description: str) -> None:
    """Remove the lock of a ``unix:`` endpoint's socket, and the socket, where nobody listens on it any more."""
    positional, keywords = endpoint_arguments(description)
    if positional[:1] == ["haproxy"]:
        positional = positional[1:]
    if positional[:1] != ["unix"]:
        return
    path = positional[1] if len(positional) > 1 else keywords.get("address", "")
    lock = f"{path}.lock"
    if not os.path.islink(lock):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except FileNotFoundError:
            os.unlink(lock)
        except ConnectionRefusedError:
            # Without the lock Twisted would take the socket for somebody's who has none.
            os.unlink(path)
            os.unlink(lock)
        except OSError:
            # Somebody is there, if busy; or it cannot be told, and then listening says why.
            pass
