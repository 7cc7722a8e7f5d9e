"""The way between clients and a server, and how it fails."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.matrix.line import Line

UPGRADE = b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n"


@pytest.fixture
def line() -> Iterator[Line]:
    """A line to a server that says everything twice."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        try:
            while data := connection.recv(1_000):
                connection.sendall(data * 2)
        except OSError:
            pass
        connection.close()

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    line = Line(listener.getsockname()[1])
    yield line
    line.close()
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


def connect(line: Line) -> socket.socket:
    return socket.create_connection(("127.0.0.1", line.port), timeout=60)


def said(connection: socket.socket, count: int) -> bytes:
    """So many octets, or what came before the end."""
    octets = b""
    while len(octets) < count and (data := connection.recv(count - len(octets))):
        octets += data
    return octets


def test_it_passes_on_until_it_is_cut_and_again_when_it_is_mended(line: Line) -> None:
    with connect(line) as connection:
        connection.sendall(b"ab")
        assert said(connection, 4) == b"abab"
        line.cut()
        assert said(connection, 1) == b""
    with connect(line) as connection:
        assert said(connection, 1) == b""
    line.mend()
    with connect(line) as connection:
        connection.sendall(b"c")
        assert said(connection, 2) == b"cc"


def test_a_connection_that_is_forgotten_hears_nothing_not_even_an_end(line: Line) -> None:
    with connect(line) as forgotten, connect(line) as other:
        for connection in (forgotten, other):
            connection.sendall(b"a")
            assert said(connection, 2) == b"aa"
        line.forget()
        with connect(line) as later:
            later.sendall(b"b")
            assert said(later, 2) == b"bb"
        forgotten.sendall(b"c")
        forgotten.settimeout(0.1)
        with pytest.raises(TimeoutError):
            forgotten.recv(1)


def test_of_a_dead_websocket_the_handshake_alone_gets_through(line: Line) -> None:
    line.deaden()
    with connect(line) as plain:
        plain.sendall(b"a")
        assert said(plain, 2) == b"aa"
    with connect(line) as dead:
        dead.sendall(UPGRADE)
        # What the other side says behind its head is lost.
        assert said(dead, len(UPGRADE)) == UPGRADE
        dead.sendall(b"b")
        dead.settimeout(0.1)
        with pytest.raises(TimeoutError):
            dead.recv(1)
