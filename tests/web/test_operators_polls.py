"""What one look of the operators' page takes of the line, where ten thousand are connected."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
from twisted.internet.threads import deferToThread

from pushserver.core.tokens import Identity
from pushserver.server.connection import Connection, Peer
from tests import inside

#: What docs/page.md promises of one look, with the heads of its answers.
LOOK = 50 * 1024
#: The longest that is kept of either, in what JSON makes the most of.
USER, AGENT = "u" * 193, '"' * 200
#: What the page asks for in each of its views.
LOOKS = {
    "overview": ("stats", "nodes"),
    "connections": ("operators/connections?limit=50&skip=9950&sort=user&order=asc&match=",),
    "channels": ("operators/channels?limit=50&skip=0&sort=channel&order=asc&match=",),
    "events": ("operators/dead?limit=50&skip=0",),
}


def crowd(server: inside.Inside, count: int) -> None:
    """Register so many connections, each with a user and a channel of its own."""
    hub = server.service.node.hub
    nothing: Any = SimpleNamespace(counted=10**9)
    for number in range(count):
        peer = Peer("2001:db8:1111:2222:3333:4444:5555:6666", AGENT, "pushserver.v1.json", 1_800_000_000_000)
        one = Connection(f"{number:032x}", nothing, nothing, nothing, nothing, peer, nothing)
        one.user_id = f"{USER}-{number:06}"
        one.identity = cast(Identity, nothing)
        one.errors = one.rtt = 10**6
        hub.connections[one.id] = one


def ask(port: int, path: str) -> bytes:
    """Everything that comes back, the head too."""
    head = f"GET /api/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nX-API-Key: {inside.API_KEY}\r\nConnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        line.sendall(head.encode())
        return b"".join(iter(lambda: line.recv(1 << 16), b""))


async def test_a_look_is_small_however_many_are_connected(tmp_path: Path) -> None:
    async with inside.running(tmp_path) as server:
        hub = server.service.node.hub
        crowd(server, 10_000)
        try:
            for view, paths in LOOKS.items():
                answers = [await deferToThread(ask, server.port, path) for path in paths]
                assert [answer[:15] for answer in answers] == [b"HTTP/1.1 200 OK"] * len(paths), answers
                assert 0 < sum(map(len, answers)) <= LOOK, view
                if view == "connections":
                    shown = msgspec.json.decode(answers[0].partition(b"\r\n\r\n")[2])
                    assert (len(shown["connections"]), shown["total"]) == (50, 10_000)
        finally:
            hub.connections.clear()
