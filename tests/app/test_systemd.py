"""What systemd is told, by its protocol and without it: a socket, and the environment."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from twisted.internet import task

from pushserver.app.systemd import AGAIN, SIGNS, announce_ready, notify, watchdog
from pushserver.server.clock import Clock
from tests.harness import Server


class Systemd:
    """The receiving end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(60)

    def next(self) -> str:
        return self._socket.recv(4096).decode()

    def until(self, state: str) -> None:
        end = time.monotonic() + 60
        while (found := self.next()) != state:
            assert time.monotonic() < end, f"{state} has not come; the last one was {found}"

    def fill(self) -> None:
        """Take as much as there is room for."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender, contextlib.suppress(BlockingIOError):
            sender.setblocking(False)
            while True:
                sender.sendto(b"WATCHDOG=1", str(self.path))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.close()


def test_a_state_is_told_where_somebody_listens(systemd: Systemd) -> None:
    assert notify("READY=1", {"NOTIFY_SOCKET": str(systemd.path)})
    assert systemd.next() == "READY=1"
    assert not notify("READY=1", {})
    assert not notify("READY=1", {"NOTIFY_SOCKET": str(systemd.path) + "-gone"})


def test_that_it_is_ready_is_told_until_there_is_room(systemd: Systemd) -> None:
    reactor, environment = task.Clock(), {"NOTIFY_SOCKET": str(systemd.path)}
    systemd.fill()
    announce_ready(Clock(reactor), environment)
    reactor.advance(AGAIN)
    while systemd.next() == "WATCHDOG=1":
        reactor.advance(AGAIN)
    assert not reactor.getDelayedCalls()
    # Nobody is there any more: that is no reason to go on.
    announce_ready(Clock(reactor), {"NOTIFY_SOCKET": str(systemd.path) + "-gone"})
    assert not reactor.getDelayedCalls()


def test_the_abstract_kind_of_socket_is_told_too() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0pushserver-{os.getpid()}")
        receiver.settimeout(60)
        assert notify("STOPPING=1", {"NOTIFY_SOCKET": f"@pushserver-{os.getpid()}"})
        assert receiver.recv(100) == b"STOPPING=1"


def test_signs_of_life_come_as_often_as_systemd_wants_them(systemd: Systemd) -> None:
    reactor = task.Clock()
    environment = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    signs = watchdog(Clock(reactor), environment)
    assert signs is not None
    reactor.pump([1.0] * SIGNS)
    assert [systemd.next() for _ in range(SIGNS)] == ["WATCHDOG=1"] * SIGNS
    signs.stop()
    assert watchdog(Clock(reactor), environment | {"WATCHDOG_PID": "1"}) is None
    assert watchdog(Clock(reactor), {}) is None


@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_says_when_it_is_ready_that_it_lives_and_when_it_stops(
    systemd: Systemd, start_server: Callable[..., Server], request: pytest.FixtureRequest, workers: int
) -> None:
    options: list[str] = []
    if workers > 1:
        from tests.cluster.conftest import Deployment

        place = Deployment(request.getfixturevalue("tmp_path"))
        request.addfinalizer(place.end)
        options = ["--redis", place.redis().url, "--workers", str(workers)]
    env = {"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "600000"}
    server = start_server(*options, env=env)
    systemd.until("READY=1")
    systemd.until("WATCHDOG=1")
    server.terminate()
    systemd.until("STOPPING=1")
