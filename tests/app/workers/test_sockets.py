"""Sockets that one process binds and others accept from, over every kind of endpoint that can be shared."""

from __future__ import annotations

import os
import socket
import ssl
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread

from pushserver.app.workers.sockets import GRACE, _turn, bind, endpoint, passed, widen
from tests.certificates import certificates
from tests.harness import free_port


class Mine:
    """Always this one's turn, or never while another is to go first."""

    def __init__(self, yields: bool = False) -> None:
        self._yields = yields
        self.asked = 0
        self.count = 0

    def yields(self) -> bool:
        self.asked += 1
        return self._yields

    def accepted(self) -> None:
        self.count += 1


class Greeter(Protocol):
    name = b""

    def connectionMade(self) -> None:
        assert self.transport is not None
        self.transport.write(self.name)
        self.transport.loseConnection()


def greeting(name: bytes) -> Factory:
    factory = Factory.forProtocol(type("Named", (Greeter,), {"name": name}))
    factory.noisy = False
    return factory


def read(family: int, address: Any, before: bytes = b"", wrap: Callable[[socket.socket], Any] = lambda s: s) -> bytes:
    with socket.socket(family) as plain:
        plain.settimeout(30)
        plain.connect(address)
        with wrap(plain) as client:
            if before:
                client.sendall(before)
            said = b""
            while more := client.recv(100):
                said += more
            return said


async def _answers(description: str, family: int, address: Any, *arguments: Any) -> tuple[Any, Mine, bytes]:
    """Binds, adopts, asks once; the bound port, still open, whose turn it was, and the answer."""
    from twisted.internet import reactor

    bound = await bind(reactor, description)
    turns = Mine()
    port = await endpoint(reactor, passed(bound, description, bound.fileno()), turns).listen(greeting(b"hello"))
    try:
        said = await deferToThread(read, family, address, *arguments)
    finally:
        await _closed(port)
    return bound, turns, said


async def _closed(port: Any) -> None:
    done: Deferred[None] | None = port.stopListening()
    if done is not None:
        await done


async def test_tcp() -> None:
    number = free_port()
    bound, turns, said = await _answers(f"tcp:{number}:interface=127.0.0.1", socket.AF_INET, ("127.0.0.1", number))
    await _closed(bound)
    assert (said, turns.count) == (b"hello", 1)


async def test_ipv6() -> None:
    number = free_port()
    bound, _, said = await _answers(f"tcp6:{number}:interface=\\:\\:1", socket.AF_INET6, ("::1", number))
    await _closed(bound)
    assert said == b"hello"


async def test_a_unix_socket_outlives_the_worker_with_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "push.sock"
    bound, _, said = await _answers(f"unix:{path}:mode=660", socket.AF_UNIX, str(path))
    assert said == b"hello"
    assert stat.S_IMODE(path.stat().st_mode) == 0o660
    await _closed(bound)
    assert not path.exists()


async def test_tls_is_the_workers(tmp_path: Path) -> None:
    files = certificates(tmp_path)
    context = ssl.create_default_context(cafile=str(files["ca"]))
    number = free_port()
    description = f"ssl:{number}:interface=127.0.0.1:privateKey={files['key']}:certKey={files['cert']}"
    bound, _, said = await _answers(
        description, socket.AF_INET, ("127.0.0.1", number), b"",
        lambda plain: context.wrap_socket(plain, server_hostname="127.0.0.1"),
    )  # fmt: skip
    await _closed(bound)
    assert said == b"hello"


async def test_tls_with_a_folder_of_certificates(tmp_path: Path) -> None:
    files = certificates(tmp_path / "pki")
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "127.0.0.1.pem").write_bytes(files["key"].read_bytes() + files["cert"].read_bytes())
    context = ssl.create_default_context(cafile=str(files["ca"]))
    number = free_port()
    bound, _, said = await _answers(
        f"tls:{folder}:{number}:interface=\\:\\:1", socket.AF_INET6, ("::1", number), b"",
        lambda plain: context.wrap_socket(plain, server_hostname="localhost"),
    )  # fmt: skip
    await _closed(bound)
    assert said == b"hello"


async def test_the_proxy_protocol_is_the_workers() -> None:
    number = free_port()
    bound, _, said = await _answers(
        f"haproxy:tcp:{number}:interface=127.0.0.1", socket.AF_INET, ("127.0.0.1", number),
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n",
    )  # fmt: skip
    await _closed(bound)
    assert said == b"hello"


async def test_a_socket_of_systemds(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import endpoints, reactor
    from twisted.python.systemd import ListenFDs

    with socket.socket() as given:
        given.bind(("127.0.0.1", 0))
        given.listen()
        given.setblocking(False)
        monkeypatch.setattr(endpoints._SystemdParser, "_sddaemon", ListenFDs([os.dup(given.fileno())]), raising=False)
        description = "systemd:domain=INET:index=0"
        bound = await bind(reactor, description)
        port = await endpoint(reactor, passed(bound, description, bound.fileno()), Mine()).listen(greeting(b"hello"))
        said = await deferToThread(read, socket.AF_INET, given.getsockname())
        await _closed(port)
        await _closed(bound)
    assert said == b"hello"


async def test_who_binds_accepts_nothing_and_what_waits_is_not_lost() -> None:
    from twisted.internet import reactor

    number = free_port()
    description = f"tcp:{number}:interface=127.0.0.1"
    bound = await bind(reactor, description)
    waiting = deferToThread(read, socket.AF_INET, ("127.0.0.1", number))
    first = await endpoint(reactor, passed(bound, description, bound.fileno()), Mine()).listen(greeting(b"first"))
    assert await waiting == b"first"
    await _closed(first)
    waiting = deferToThread(read, socket.AF_INET, ("127.0.0.1", number))
    second = await endpoint(reactor, passed(bound, description, bound.fileno()), Mine()).listen(greeting(b"second"))
    assert await waiting == b"second"
    await _closed(second)
    await _closed(bound)


async def test_who_is_ahead_lets_the_other_go_first_and_takes_what_nobody_takes() -> None:
    from twisted.internet import reactor

    number = free_port()
    description = f"tcp:{number}:interface=127.0.0.1"
    bound = await bind(reactor, description)
    polite = Mine(yields=True)
    port = await endpoint(reactor, passed(bound, description, bound.fileno()), polite).listen(greeting(b"late"))
    assert await deferToThread(read, socket.AF_INET, ("127.0.0.1", number)) == b"late"
    assert polite.asked == 2
    other = await endpoint(reactor, passed(bound, description, bound.fileno()), Mine()).listen(greeting(b"other"))
    said = {await deferToThread(read, socket.AF_INET, ("127.0.0.1", number)) for _ in range(20)}
    assert b"other" in said
    for each in (port, other, bound):
        await _closed(each)


class PaperPort:
    """A port under a clock that the test moves; whoever knocks at `knocking` waits until somebody accepts."""

    connected = True
    disconnecting = resting = waited = False
    numberAccepts = 1

    def __init__(self) -> None:
        self.reactor = task.Clock()
        self.knocking, self._knocked = socket.socketpair()
        self.reading = True
        self.accepted = 0

    def fileno(self) -> int:
        return self._knocked.fileno()

    def stopReading(self) -> None:
        self.reading = False

    def startReading(self) -> None:
        self.reading = True

    def accept(self) -> None:
        self.accepted += 1
        self._knocked.recv(1)

    def close(self) -> None:
        self.knocking.close()
        self._knocked.close()


def test_each_that_comes_is_left_to_the_others_and_taken_once_nobody_took_it() -> None:
    port, ahead = PaperPort(), Mine(yields=True)
    with closing(port):
        for _ in range(3):
            port.knocking.send(b"!")
            _turn(port, ahead, port.accept)
            assert not port.reading
            port._knocked.recv(1)  # as another worker takes it
            port.reactor.advance(GRACE)
            assert (port.reading, port.waited, port.accepted) == (True, False, 0)
        port.knocking.send(b"!")
        _turn(port, ahead, port.accept)
        port.reactor.advance(GRACE)
        assert port.reading
        _turn(port, ahead, port.accept)
        assert (port.waited, port.accepted, ahead.count) == (False, 1, 1)


async def test_a_thousand_that_come_at_once_can_wait() -> None:
    from twisted.internet import reactor

    number = free_port()
    endpoint = f"tcp:{number}:interface=127.0.0.1"
    for description, room in [(endpoint, 300), (endpoint + ":backlog=5", 3)]:
        bound = await bind(reactor, description)
        widen(bound, description)
        waiting: list[socket.socket] = []
        for _ in range(room):
            client = socket.create_connection(("127.0.0.1", number), 30)
            waiting.append(client)
        if room == 3:
            with pytest.raises(TimeoutError):
                waiting += (socket.create_connection(("127.0.0.1", number), 0.2) for _ in range(10))
        for client in waiting:
            client.close()
        await _closed(bound)
