"""TLS as real clients speak it: versions, ciphers, ALPN, certificates by name, behind a proxy, and what failed."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from OpenSSL import SSL
from twisted.internet.threads import deferToThread
from twisted.python.failure import Failure

from pushserver.web import tls
from pushserver.web.tls import failure_reason, harden
from tests.certificates import certificates
from tests.inside import Inside, running

GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
HEADER = b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 443\r\n"


class Secure:
    """A server's TLS port, and what clients say to it."""

    def __init__(self, inside: Inside, number: int, context: ssl.SSLContext, host: str) -> None:
        self.inside = inside
        self.number = number
        self.context = context
        self.host = host

    @property
    def failed(self) -> dict[str, int]:
        return dict(self.inside.service._doors.public.handshakes.failed)

    def _exchange(self, before: bytes, octets: bytes) -> tuple[str | None, str | None, bytes]:
        with socket.create_connection((self.host, self.number), 10) as plain:
            plain.sendall(before)
            with self.context.wrap_socket(plain, server_hostname="localhost") as client:
                client.sendall(octets)
                said = b""
                while more := client.recv(65536):
                    said += more
                return client.selected_alpn_protocol(), client.version(), said

    async def exchange(self, before: bytes = b"", octets: bytes = GET) -> tuple[str | None, str | None, bytes]:
        return await deferToThread(self._exchange, before, octets)

    async def refused(self, before: bytes = b"") -> str:
        with pytest.raises((ssl.SSLError, ConnectionError)) as refused:
            await deferToThread(self._exchange, before, GET)
        return str(refused.value)


@asynccontextmanager
async def secure(place: Path, kind: str = "ssl") -> AsyncIterator[Secure]:
    from twisted.internet import reactor

    files = certificates(place / "pki")
    folder = place / "served"
    folder.mkdir()
    (folder / "localhost.pem").write_bytes(files["key"].read_bytes() + files["cert"].read_bytes())
    context = ssl.create_default_context(cafile=str(files["ca"]))
    certificate = f"privateKey={files['key']}:certKey={files['cert']}"
    description = {
        "ssl": f"ssl:0:interface=127.0.0.1:{certificate}",
        "tls": f"tls:{folder}:0:interface=\\:\\:1",
        "haproxy": f"haproxy:ssl:0:interface=127.0.0.1:{certificate}",
    }[kind]
    async with running(place) as inside:
        port = await tls.endpoint(reactor, description).listen(inside.service._doors.public)
        try:
            yield Secure(inside, port.getHost().port, context, "::1" if kind == "tls" else "127.0.0.1")
        finally:
            await port.stopListening()


@pytest.mark.parametrize(("kind", "before"), [("ssl", b""), ("tls", b""), ("haproxy", HEADER)])
async def test_clients_that_name_their_protocols_are_served(tmp_path: Path, kind: str, before: bytes) -> None:
    async with secure(tmp_path, kind) as server:
        for offered in (["http/1.1"], ["h2", "http/1.1"]):
            server.context.set_alpn_protocols(offered)
            chosen, version, said = await server.exchange(before)
            assert (chosen, version) == ("http/1.1", "TLSv1.3")
            assert said.startswith(b"HTTP/1.1 200 ")
        server.context.set_alpn_protocols(["h2"])
        assert "NO_APPLICATION_PROTOCOL" in (await server.refused(before)).upper().replace(" ", "_")
        assert server.failed == {"no_application_protocol": 1}


async def test_a_client_without_alpn_is_served(tmp_path: Path) -> None:
    async with secure(tmp_path) as server:
        chosen, _, said = await server.exchange()
        assert chosen is None
        assert said.startswith(b"HTTP/1.1 200 ")
        assert server.failed == {}


async def test_tls_1_2_has_forward_secrecy_and_nothing_older_is_spoken(tmp_path: Path) -> None:
    async with secure(tmp_path) as server:
        server.context.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await server.exchange())[1] == "TLSv1.2"
        for ciphers in (
            "AES128-SHA:@SECLEVEL=0",
            "AES128-GCM-SHA256:@SECLEVEL=0",
            "ECDHE-ECDSA-AES128-SHA:@SECLEVEL=0",
        ):
            server.context.set_ciphers(ciphers)
            await server.refused()
        assert server.failed == {"no_shared_cipher": 3}
        server.context.set_ciphers("ALL:@SECLEVEL=0")
        server.context.minimum_version = server.context.maximum_version = ssl.TLSVersion.TLSv1_1
        await server.refused()
        assert server.failed == {"no_shared_cipher": 3, "unsupported_protocol": 1}


async def test_what_is_no_handshake_and_who_gives_up_are_counted(tmp_path: Path) -> None:
    async with secure(tmp_path) as server:

        def plain(octets: bytes) -> None:
            with socket.create_connection(("127.0.0.1", server.number), 10) as client:
                client.sendall(octets)
                if octets:
                    client.recv(100)

        await deferToThread(plain, GET)
        await deferToThread(plain, b"")
        await server.inside.until(lambda: sum(server.failed.values()) == 2, lambda: server.failed)
        assert server.failed == {"not_tls": 1, "closed": 1}
        stranger = ssl.create_default_context()
        server.context = stranger
        await server.refused()
        await server.inside.until(lambda: server.failed.get("refused_by_client"), lambda: server.failed)


def test_only_forward_secrecy_with_authenticated_encryption_is_left() -> None:
    context = harden(SSL.Context(SSL.TLS_SERVER_METHOD))
    names = SSL.Connection(context).get_cipher_list()
    assert names
    for name in names:
        assert name.startswith(("TLS_", "ECDHE-", "DHE-")), name
        assert "GCM" in name or "CHACHA20" in name, name


def test_the_private_names_of_twisted_that_are_used_are_there() -> None:
    from twisted.protocols import _sni
    from twisted.protocols.haproxy import _info, _wrapper

    creator: Any = _sni.SNIConnectionCreator(lambda name: None)
    assert callable(_sni.autoReloadingDirectoryOfPEMs)
    assert hasattr(type(creator), "defaultContext")
    assert _info.ProxyInfo(b"", None, None).source is None
    assert "_proxyInfo" in _wrapper.HAProxyProtocolWrapper.__init__.__code__.co_names


@pytest.mark.parametrize(
    ("problem", "reason"),
    [
        (SSL.Error([("SSL routines", "", "no shared cipher")]), "no_shared_cipher"),
        (SSL.Error([("SSL routines", "", "sslv3 alert bad certificate")]), "refused_by_client"),
        (SSL.Error([("SSL routines", "", "something new")]), "other"),
        (SSL.Error(), "other"),
        (ConnectionResetError(), "closed"),
    ],
)
def test_why_a_handshake_failed(problem: Exception, reason: str) -> None:
    assert failure_reason(Failure(problem)) == reason
