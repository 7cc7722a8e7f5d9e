"""Whatever a client leaves undone, over whatever it comes: soon its socket is gone, and nothing of it is left."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import reactor
from twisted.internet.threads import deferToThread

from pushserver.config.checks import AuthSection, ServerSection
from pushserver.config.sections import CentrifugeSection
from pushserver.web import farewell, http, port
from tests.attack.rows import OPEN, SDK_OPEN, UPGRADE, posted
from tests.certificates import certificates
from tests.harness import free_port
from tests.inside import API_KEY, running
from tests.rawsocket import TEXT, frame

#: Seconds that everything may take here which takes longer in earnest.
SHORT = 0.5
GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
KEY = b"\r\nX-API-Key: " + API_KEY.encode() + b"\r\n"

#: What a client says, before it says and reads nothing more.
SAID = {
    "nothing": b"",
    "half a head": b"GET /healthz HTTP/1.1\r\nHost:",
    "a head that is too long": b"GET /" + b"a" * 20_000,
    "what is no request": b"GET / HTTP/9.9\r\n\r\n",
    "an upgrade that is refused": UPGRADE + b"Origin: null\r\n\r\n",
    "a request": GET % b"/healthz",
    "a request, and half of another": GET % b"/healthz" + b"GET /he",
    "half a body": posted(b"/api/publish", b"{" * 100).replace(b"\r\n", KEY, 1)[:-50],
    "a body without a key": posted(b"/api/publish", b"{" * 100)[:-50],
    "more than it reads": GET % b"/pushclient.js" * 500,
    "a WebSocket without a token": OPEN,
    "half a frame": OPEN + frame(TEXT, b"x" * 1_000)[:500],
    "a frame that breaks the rules": OPEN + b"\xff\xff",
    "a stream without a token": GET % b"/sse",
    "an SDK without a token": SDK_OPEN,
    "a stream of an SDK without a token": posted(b"/connection/http_stream", b'{"id":1,"connect":{}}'),
}
#: What it says before TLS, or the head for a proxy.
RAW = {
    "nothing at all": b"",
    "half a greeting": b"\x16\x03\x01\x02\x00\x01",
    "half a head for a proxy": b"PROXY TCP4 1",
}


@contextmanager
def clients(ways: dict[str, tuple[Any, ssl.SSLContext | None]]) -> Iterator[dict[str, socket.socket]]:
    """One socket for each way and each thing that is said, by both."""
    found: dict[str, socket.socket] = {}

    def connect(address: Any) -> socket.socket:
        one = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
        one.settimeout(10)
        one.connect(address)
        return one

    try:
        for way, (address, context) in ways.items():
            for name, octets in RAW.items():
                one = found[f"{way}: {name}"] = connect(address)
                one.sendall(octets)
            for name, octets in SAID.items():
                one = connect(address)
                if way == "haproxy:tcp":
                    one.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n")
                if context is not None:
                    one = context.wrap_socket(one)
                found[f"{way}: {name}"] = one
                one.setblocking(False)
                try:
                    one.send(octets or b"")
                except OSError:
                    # It is hung up already, or takes no more.
                    pass
        yield found
    finally:
        for one in found.values():
            one.close()


def left(sockets: dict[str, socket.socket]) -> list[str]:
    """Return whose sockets the server has not ended."""
    names = {one.fileno(): name for name, one in sockets.items()}
    poll = select.poll()
    for number in names:
        poll.register(number, select.POLLRDHUP)
    gone = {number for number, _ in poll.poll(0)}
    return sorted(name for number, name in names.items() if number not in gone)


async def test_the_server_hangs_up_whatever_the_other_side_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(port, "HEAD_TIMEOUT", SHORT)
    monkeypatch.setattr(farewell, "LINGER", SHORT)
    monkeypatch.setattr(http, "REQUEST_TIMEOUT", SHORT)
    monkeypatch.setattr(http, "ANSWER_TIMEOUT", SHORT)
    monkeypatch.setattr(http, "LOOK", SHORT)
    files = certificates(tmp_path / "pki")
    context = ssl.create_default_context(cafile=str(files["ca"]))
    context.check_hostname = False
    ports = {way: free_port() for way in ("ssl", "haproxy:tcp")}
    path = str(tmp_path / "push.sock")
    also = (
        f"ssl:{ports['ssl']}:interface=127.0.0.1:privateKey={files['key']}:certKey={files['cert']}",
        f"haproxy:tcp:{ports['haproxy:tcp']}:interface=127.0.0.1",
        f"unix:{path}",
    )
    server, auth = ServerSection(keep_alive=round(1000 * SHORT)), AuthSection(timeout=round(1000 * SHORT))
    sections = {"server": server, "auth": auth, "centrifuge": CentrifugeSection(enabled=True)}
    async with running(tmp_path, also=also, **sections) as inside:
        ways: dict[str, tuple[Any, ssl.SSLContext | None]] = {
            "tcp": (("127.0.0.1", inside.port), None),
            "ssl": (("127.0.0.1", ports["ssl"]), context),
            "haproxy:tcp": (("127.0.0.1", ports["haproxy:tcp"]), None),
            "unix": (path, None),
        }
        watched: Callable[[], list[Any]] = reactor.getReaders  # type: ignore[attr-defined]
        before = len(watched())
        found = clients(ways)
        sockets = await deferToThread(found.__enter__)
        try:
            assert len(sockets) == 4 * (len(SAID) + len(RAW))
            await inside.until(lambda: not left(sockets), lambda: left(sockets))
            await inside.until(lambda: len(watched()) <= before, watched)
            assert not inside.service._doors.context.limits.places
            await inside.empty()
        finally:
            found.__exit__(None, None, None)


async def test_what_is_behind_a_refused_line_is_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[bytes] = []
    received = http.PushChannel.lineReceived

    def note(channel: http.PushChannel, line: bytes) -> None:
        lines.append(line)
        received(channel, line)

    monkeypatch.setattr(http.PushChannel, "lineReceived", note)
    heads = 4 * (GET % b"/healthz").replace(b"\r\n\r\n", b"\r\n" + b"A: a\r\n" * 2_500 + b"\r\n")

    def ask(number: int) -> bytes:
        with socket.create_connection(("127.0.0.1", number), timeout=30) as one:
            one.sendall(heads)
            return one.recv(65_536)

    async with running(tmp_path) as inside:
        answer = await deferToThread(ask, inside.port)
        await inside.empty()
    assert answer.startswith(b"HTTP/1.1 400 ")
    # The request line, a header more than there may be, and the line that shows where that one ends.
    assert len(lines) == http.PushChannel.maxHeaders + 3
