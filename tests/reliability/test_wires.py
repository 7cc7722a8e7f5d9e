"""The way to Redis of the fault run: what becomes of single connections on it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from tests.harness import wait_until
from tests.reliability.wires import FROM_REDIS, TO_REDIS, Wires


@pytest.fixture
def echo() -> Iterator[tuple[int, list[bytes]]]:
    """Something that says what it is told: its port, and what that was."""
    listener, received = socket.create_server(("127.0.0.1", 0)), []

    def converse(peer: socket.socket) -> None:
        with peer:
            try:
                while octets := peer.recv(100):
                    received.append(octets)
                    peer.sendall(octets)
            except ConnectionError:
                return

    def accept() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(peer,)).start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    yield listener.getsockname()[1], received
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    accepting.join()


@pytest.fixture
def wires(echo: tuple[int, list[bytes]]) -> Iterator[Wires]:
    wires = Wires(echo[0])
    yield wires
    wires.stop()


def connected(wires: Wires, first: bytes = b"PING") -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", wires.port), timeout=60)
    assert said(peer, first) == first
    return peer


def said(peer: socket.socket, octets: bytes) -> bytes:
    """Say something; return what is answered, of its length or up to the end."""
    peer.sendall(octets)
    found = b""
    try:
        while len(found) < len(octets) and (more := peer.recv(100)):
            found += more
    except ConnectionError:
        pass
    return found


def beside(call: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=call)
    thread.start()
    return thread


@pytest.mark.parametrize(("direction", "arrives"), [(TO_REDIS, False), (FROM_REDIS, True)])
def test_nothing_arrives_in_one_direction_until_the_end(
    wires: Wires, echo: tuple[int, list[bytes]], direction: str, arrives: bool
) -> None:
    with connected(wires) as peer:
        cut = beside(lambda: wires.cut_one_way(direction, 0.5))
        wait_until(lambda: wires.hurt, 60, "the connection is cut")
        assert said(peer, b"GET a") == b""
        cut.join()
    assert (b"GET a" in echo[1]) is arrives
    with connected(wires):
        # Others are as before.
        assert wires.hurt == 1


def test_a_connection_ends_in_the_midst_of_a_reply(wires: Wires) -> None:
    with connected(wires) as peer:
        wires.end_in_reply()
        assert said(peer, b"12345678") == b"1234"


def test_what_subscribes_is_hurt_alone(wires: Wires) -> None:
    with connected(wires, b"SUBSCRIBE a") as subscriber, connected(wires) as peer:
        late = beside(lambda: wires.hold(0.3, True))
        late.join()
        assert wires.hurt == 1
        assert said(subscriber, b"x") == b"x"
        wires.cut_one_way(FROM_REDIS, 0.0, subscribes=True)
        assert said(subscriber, b"x") == b""
        assert said(peer, b"y") == b"y"
