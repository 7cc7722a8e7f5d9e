"""Who half-closes, so sends no more and still reads, gets every answer (RFC 9112 section 9.6). TLS has no such half."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.threads import deferToThread

from tests.attack.rows import UPGRADE, posted
from tests.harness import free_port
from tests.inside import API_KEY, running

GET = b"GET %b HTTP/1.1\r\nHost: a\r\n\r\n"
BODY = b'{"channel": "public:a", "data": 1}'
KEY = b"\r\nX-API-Key: " + API_KEY.encode() + b"\r\n"
PUBLISH = posted(b"/api/publish", BODY).replace(b"\r\n", KEY, 1)
HEALTH = GET % b"/healthz"
STATISTICS = HEALTH.replace(b"healthz", b"api/stats").replace(b"\r\n", KEY, 1)

#: What is sent, and the status of each answer.
SENT: dict[str, tuple[bytes, list[int]]] = {
    "a request": (HEALTH, [200]),
    "a request with a body": (PUBLISH, [200]),
    "several requests": (HEALTH + STATISTICS + HEALTH + PUBLISH + HEALTH, [200] * 5),
    "a request that is its last": (HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), [200]),
    "a request, and half of another": (HEALTH + HEALTH[:-10], [200]),
    "a request, and half of another's body": (HEALTH + PUBLISH[:-10], [200]),
    "several requests, and half of another": (HEALTH * 3 + PUBLISH[:-10], [200] * 3),
    "half a request": (HEALTH[:-10], []),
    "nothing": (b"", []),
    "a body without a key": (posted(b"/api/publish", BODY), [401]),
    "a body for nothing": (posted(b"/nothing", BODY), [404]),
    "a body that is too large": (PUBLISH.replace(b"Content-Length: ", b"Content-Length: 1000000"), [413]),
    "what is no request": (b"GET / HTTP/9.9\r\n\r\n", [400]),
    "a head that is too long": (b"GET /" + b"a" * 20_000 + b"\r\n\r\n", [431]),
    "an upgrade that is refused": (UPGRADE + b"Origin: null\r\n\r\n", [403]),
    "a request, and an upgrade that is refused": (HEALTH + UPGRADE + b"Origin: null\r\n\r\n", [200, 403]),
}


def answers(address: Any, octets: bytes) -> list[int]:
    """Return the status of each answer to these octets and an end. Raises where the connection is reset."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as one:
        one.settimeout(30)
        one.connect(address)
        one.sendall(octets)
        one.shutdown(socket.SHUT_WR)
        got = b""
        while more := one.recv(65_536):
            got += more
    return [int(each[:3]) for each in got.split(b"HTTP/1.1 ")[1:]]


@pytest.mark.parametrize("way", ["tcp", "unix", "haproxy"])
async def test_who_half_closes_gets_its_answers(tmp_path: Path, way: str) -> None:
    path, number = str(tmp_path / "push.sock"), free_port()
    also = {"unix": f"unix:{path}", "haproxy": f"haproxy:tcp:{number}:interface=127.0.0.1"}
    header = b"PROXY TCP4 127.0.0.1 127.0.0.1 1000 80\r\n" if way == "haproxy" else b""
    async with running(tmp_path, also=[also[way]] if way in also else []) as inside:
        address = {"tcp": ("127.0.0.1", inside.port), "unix": path, "haproxy": ("127.0.0.1", number)}[way]
        for name, (octets, expected) in SENT.items():
            assert await deferToThread(answers, address, header + octets) == expected, name
        await inside.empty()
        assert not inside.service._doors.context.limits.places
