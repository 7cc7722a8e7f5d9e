"""A reserved port is nobody else's, and still free for the server that it was reserved for."""

from __future__ import annotations

import socket

import pytest

from tools.ports import free_port


def test_a_reserved_port_refuses_until_its_server_listens_and_after() -> None:
    port = free_port()
    for _ in range(2):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port)).close()
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            server.bind(("127.0.0.1", port))
            server.listen()
            socket.create_connection(("127.0.0.1", port)).close()


def test_nobody_is_given_a_reserved_port() -> None:
    mine = {free_port() for _ in range(200)}
    assert len(mine) == 200
    others = []
    for reuse in (0, 1) * 200:
        other = socket.socket()
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
        other.bind(("127.0.0.1", 0))
        others.append(other)
    assert mine.isdisjoint(other.getsockname()[1] for other in others)
    for other in others:
        other.close()
