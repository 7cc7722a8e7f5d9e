"""Ports for what tests and measurements start: each is held from the question to the use, so that nobody else gets it.

A held port is bound and does not listen: a connection to it is refused, and a server that sets ``SO_REUSEADDR``, as
Twisted, Redis, nginx, Node and what is written in Go or Rust do, may listen on it.
"""

from __future__ import annotations

import socket

#: The sockets that hold this process' ports; they go with the process.
_held: list[socket.socket] = []


def free_port(host: str = "127.0.0.1") -> int:
    """Return a TCP port of this host that is nobody's, and stays this process' until it ends.

    ``0.0.0.0``: for a program that listens on all addresses, where a connection of any of them stands in the way.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, 0))
    _held.append(holder)
    port: int = holder.getsockname()[1]
    return port
