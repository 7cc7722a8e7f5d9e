"""Places for strangers: by address and in all, and always the oldest of who has most that goes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, closing
from http.client import HTTPConnection
from socket import create_connection

import pytest

from pushserver.web.places import FEWEST, Bodies, Places, place_of, plain_address
from tests.harness import Server
from tests.rawsocket import RawSocket


class Socket:
    def __init__(self) -> None:
        self.aborted = False

    def abortConnection(self) -> None:
        self.aborted = True


def test_an_address_has_so_many_and_loses_its_oldest() -> None:
    places = Places(3, 0)
    sockets = [Socket() for _ in range(5)]
    other = Socket()
    places.register(other, "192.0.2.2")
    for socket in sockets:
        places.register(socket, "192.0.2.1")
    assert [socket.aborted for socket in sockets] == [True, True, False, False, False]
    assert not other.aborted
    assert (len(places), places.lost) == (4, 2)


def test_over_the_limit_in_all_the_address_with_most_loses() -> None:
    places = Places(0, 20)
    many = [Socket() for _ in range(19)]
    for socket in many:
        places.register(socket, "192.0.2.1")
    few = [Socket() for _ in range(4)]
    for number, socket in enumerate(few):
        places.register(socket, f"198.51.100.{number}")
    assert [socket.aborted for socket in many].index(False) == 3
    assert not any(socket.aborted for socket in few)


def test_who_leaves_or_moves_makes_room() -> None:
    places = Places(2, 0)
    first, second, third = Socket(), Socket(), Socket()
    places.register(first, "10.0.0.1")
    places.register(second, "10.0.0.1")
    places.register(first, "192.0.2.9")
    places.register(third, "10.0.0.1")
    places.leave(third)
    places.leave(third)
    places.register(third, "10.0.0.1")
    assert not any(socket.aborted for socket in (first, second, third))
    for socket in (first, second, third):
        places.leave(socket)
    assert (len(places), places._places, places._of) == (0, {}, {})


def test_a_network_of_ipv6_is_one_place_and_a_unix_socket_is_everybodys() -> None:
    assert place_of("2001:db8::1") == place_of("2001:db8::ffff:2") != place_of("2001:db8:0:1::1")
    assert place_of("192.0.2.1") == "192.0.2.1"
    places = Places(1, 0)
    sockets = [Socket() for _ in range(10)]
    for socket in sockets:
        places.register(socket, "unix")
    assert not any(socket.aborted for socket in sockets)


def test_a_small_server_has_places_too() -> None:
    places = Places(0, 1)
    sockets = [Socket() for _ in range(FEWEST)]
    for socket in sockets:
        places.register(socket, "192.0.2.1")
    assert not any(socket.aborted for socket in sockets)


def test_addresses_are_compared_in_their_plain_form() -> None:
    for written in ("::ffff:192.0.2.7", "::FFFF:c000:207", "0:0:0:0:0:ffff:192.0.2.7", "192.0.2.7"):
        assert plain_address(written) == "192.0.2.7"
    for other in ("2001:db8::1", "::1", "unix", "nonsense:"):
        assert plain_address(other) == other


def test_bodies_are_counted_in_all() -> None:
    bodies = Bodies(10)
    assert bodies.take(6)
    assert not bodies.take(5)
    bodies.give(6)
    assert bodies.take(10)


CONFIG = """
[server]
max_pending_per_address = 3
"""


def test_who_signed_in_takes_no_strangers_place(start_server: Callable[..., Server]) -> None:
    server = start_server(config=CONFIG)
    with closing(HTTPConnection("127.0.0.1", server.port, timeout=60)) as idle, ExitStack() as stack:

        def status() -> int:
            idle.request("GET", "/healthz")
            response = idle.getresponse()
            response.read()
            return response.status

        # Its first request came, without a key: a stranger's socket, and the oldest of its address.
        assert status() == 200
        for _ in range(4):
            user = stack.enter_context(RawSocket(server.port))
            assert user.upgrade().status == 101
            user.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
        assert status() == 200
        strangers = [stack.enter_context(create_connection(("127.0.0.1", server.port), 15)) for _ in range(3)]
        assert len(strangers) == 3
        # Not asked again: the request could be read before the last of these is accepted.
        with pytest.raises(ConnectionResetError):
            idle.sock.recv(1)
