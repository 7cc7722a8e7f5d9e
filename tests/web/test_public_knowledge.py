"""What is made from public knowledge opens no door, however the server verifies tokens and wherever it keeps data.

The attacker knows the source, the configuration without its secrets, the public key or key set, and that there may be
no API key.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import OKPAlgorithm
from twisted.internet.threads import deferToThread

from pushserver.config.checks import ApiKey, ApiSection, AuthSection, EngineSection, RedisSection
from pushserver.config.sections import CentrifugeSection, RateLimitsSection
from pushserver.core.channels import Namespace, Rule
from pushserver.web.tickets import AUDIENCE
from tests.engine.redis.servers import RedisServer
from tests.inside import API_KEY, SECRET, running
from tests.protocols.centrifuge.sdk import Protobuf
from tests.rawsocket import BINARY, Closed, RawSocket, frame

KEY = Ed25519PrivateKey.generate()
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JWK = json.loads(OKPAlgorithm.to_jwk(KEY.public_key())) | {"kid": "one", "use": "sig"}
JWKS = json.dumps({"keys": [JWK]}).encode()
#: A channel that nobody may enter without a token for it.
CHANNEL = "secret:plans"


@contextmanager
def provider() -> Iterator[str]:
    """Where the key set is."""

    class ApiKeys(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(JWKS)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), ApiKeys)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/keys"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def secrets() -> Iterator[bytes]:
    """Everything that anybody can know or compute, as a secret."""
    known = [b"", b"\n", b"\n".join([b"", b""]), PEM, PEM.strip(), JWKS, str(JWK["x"]).encode(), b"ticket", bytes(32)]
    for word in known:
        derived = hmac.new(word, b"ticket", hashlib.sha256)
        yield from (word, derived.digest(), derived.hexdigest().encode(), hashlib.sha256(word).hexdigest().encode())


def tokens(**claims: Any) -> Iterator[str]:
    """Tokens with these claims, signed with what anybody can know."""
    body = {"sub": "ceo", "iat": int(time.time()), "exp": int(time.time()) + 600} | claims
    for secret in filter(None, secrets()):
        yield _signed(body, secret)
    yield jwt.encode(body, None, "none")
    yield jwt.encode(body, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": "one"})
    yield jwt.encode(body, Ed25519PrivateKey.generate(), "EdDSA", headers={"jwk": JWK})


def forgeries() -> dict[str, list[str]]:
    """What is shown where a token, a ticket, or a key opens a door, and there one of each other kind too."""
    made = {
        "token": [*tokens(permissions=["admin"])],
        "ticket": [*tokens(channels=["news:*"], aud=AUDIENCE)],
        "key": ["", "None", "null", "()", "a" * 16, "0" * 32, str(JWK["x"]), "".join(PEM.decode().split("\n")[1:2])],
    }
    others = [found[0] for found in made.values() if found[0]]
    return {kind: [*found, *others] for kind, found in made.items()}


def _signed(claims: dict[str, Any], secret: bytes) -> str:
    # PyJWT refuses a public key as a secret, which is what an attacker would not do.
    head, body = (
        jwt.utils.base64url_encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    proof = hmac.new(secret, head + b"." + body, hashlib.sha256).digest()
    return b".".join([head, body, jwt.utils.base64url_encode(proof)]).decode()


#: Opens a door where it opens to what is shown there.
Door = Callable[[int, str], bool]


def _by_websocket(headers: dict[str, str], command: dict[str, Any] | None = None, path: str = "/ws") -> Door:
    """A door that opens to a token in these headers, or in this message, where ``SHOWN`` stands for it."""

    def door(port: int, shown: str) -> bool:
        with RawSocket(port) as client:
            client.upgrade({name: value.replace("SHOWN", shown) for name, value in headers.items()}, path)
            if command is not None:
                client.send_message(json.dumps(command).replace("SHOWN", shown).encode())
            said = _answered(client.message) or {}
        return "connect" in said or said.get("type") == "auth_success"

    return door


def _by_protobuf(port: int, shown: str) -> bool:
    with RawSocket(port) as client:
        client.upgrade({}, "/connection/websocket?cf_protocol=protobuf")
        client.send(frame(BINARY, Protobuf().frames([{"id": 1, "connect": {"token": shown}}])[0]))
        said = _answered(client.frame)
    # Behind its length, a reply to the first command with a result of connecting (field 5).
    return said is not None and b"\x08\x01\x2a" in said[1][:6]


def _by_request(
    method: str, path: str, headers: dict[str, str], body: bytes = b"", good: Sequence[int] = (200, 201)
) -> Door:
    """A door that opens with a status."""

    def door(port: int, shown: str) -> bool:
        with RawSocket(port) as client:
            given = [(name, value.replace("SHOWN", shown)) for name, value in headers.items()]
            client.request(method, path.replace("SHOWN", shown), body, given)
            return client.response().status in good

    return door


def _by_stream(method: str, path: str, body: str = "") -> Door:
    """A door that always opens: what counts is whether connecting has a result."""

    def door(port: int, shown: str) -> bool:
        with RawSocket(port) as client:
            client.request(method, path.replace("SHOWN", shown), body.replace("SHOWN", shown).encode())
            octets = b""
            while not octets.endswith(b"\r\n0\r\n\r\n"):
                octets += client.some()
                if b'"connect":{' in octets:
                    return True
        return False

    return door


BEARER, KEY_HEADER = {"Authorization": "Bearer SHOWN"}, {"X-API-Key": "SHOWN"}
SDK = "/connection/websocket"
CONNECT = '{"id":1,"connect":{"token":"SHOWN"}}'
#: A stream that nobody has: who shows something good is told that.
NOBODYS = "/sse/AAAAAAAAAAAAAAAA"
#: Who asks over loopback is the operator, unless it was forwarded.
FORWARDED = {"Via": "1.1 a"}
DOORS: dict[str, dict[str, Door]] = {
    "token": {
        "header": _by_websocket(BEARER),
        "subprotocol": _by_websocket({"Sec-WebSocket-Protocol": "pushserver.v1.json, bearer.SHOWN"}),
        "message": _by_websocket({}, {"type": "auth", "id": 1, "data": {"token": "SHOWN"}}),
        "stream": _by_request("GET", "/sse", BEARER),
        "post to a stream": _by_request("POST", NOBODYS, BEARER, b"{}", [200, 202, 404]),
        "sdk": _by_websocket({}, json.loads(CONNECT), SDK),
        "sdk, header": _by_websocket(BEARER, {"id": 1, "connect": {}}, SDK),
        "sdk, emulated header": _by_websocket(
            {}, {"id": 1, "connect": {"headers": {"authorization": "Bearer SHOWN"}}}, SDK
        ),
        "sdk, protobuf": _by_protobuf,
        "sdk, http_stream": _by_stream("POST", "/connection/http_stream", CONNECT),
        "sdk, sse": _by_stream("GET", f"/connection/sse?cf_connect={quote(CONNECT)}"),
    },
    "ticket": {
        "stream with a ticket": _by_request("GET", "/sse?ticket=SHOWN", {}),
        "post with a ticket": _by_request("POST", f"{NOBODYS}?ticket=SHOWN", {}, b"{}", [200, 202, 404]),
    },
    "key": {
        "api": _by_request("GET", "/api/nodes", BEARER),
        "api, other header": _by_request("GET", "/api/nodes", KEY_HEADER),
        "tickets": _by_request("POST", "/api/tickets", BEARER, b'{"userId":"ceo","channels":[]}'),
        "centrifugo's api": _by_request("POST", "/centrifugo/api/info", {"Authorization": "apikey SHOWN"}, b"{}"),
        "centrifugo's api, bearer": _by_request("POST", "/centrifugo/api/info", BEARER, b"{}"),
        "centrifugo's api, other header": _by_request("POST", "/centrifugo/api/info", KEY_HEADER, b"{}"),
        "centrifugo's lines": _by_request("POST", "/centrifugo/api", KEY_HEADER, b'{"method":"info","params":{}}'),
        "metrics": _by_request("GET", "/metrics", BEARER | FORWARDED),
        "metrics, other header": _by_request("GET", "/metrics", KEY_HEADER | FORWARDED),
    },
}


def _answered(read: Callable[[], Any]) -> Any:
    """Return what comes next; None where the server closes instead."""
    try:
        return read()
    except Closed:
        return None


def opened(port: int, shown: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Return the doors that open, and to what."""
    return [
        (name, each)
        for kind, found in DOORS.items()
        for name, door in found.items()
        for each in shown.get(kind, ())
        if door(port, each)
    ]


def channels(port: int, token: str, shown: Iterable[str]) -> list[str]:
    """Those of what a user shows that let them into a channel which they may not enter."""
    found = []
    with RawSocket(port) as client:
        client.upgrade({"Authorization": f"Bearer {token}"})
        assert client.message()["type"] == "auth_success"
        for number, each in enumerate(shown):
            asked = {"channels": [{"channel": CHANNEL, "token": each}]}
            said = client.ask({"type": "subscribe", "id": number, "data": asked})
            if said["type"] != "subscription_success" or CHANNEL not in said["data"]["rejected"]:
                found.append(each)
    with RawSocket(port) as client:
        client.upgrade({"Authorization": f"Bearer {token}"}, "/connection/websocket")
        client.send_message({"id": 1, "connect": {}})
        assert "connect" in client.message()
        for number, each in enumerate(shown, 2):
            said = client.ask({"id": number, "subscribe": {"channel": CHANNEL, "token": each}})
            if said.get("error", {}).get("code") != 103:
                found.append(each)
    return found


def sessions(tag: str) -> Iterator[str]:
    """Sessions of streams that were never made, each with a proof of what anybody can know."""
    for secret in secrets():
        proof = hmac.digest(secret, f"\0stream\0{tag}\0abc".encode(), "sha256")
        yield f"abc.{urlsafe_b64encode(proof[:18]).decode()}"
    yield from ("abc", "abc.", ".", "")


def post_sessions(port: int, tag: str) -> set[int]:
    """What is answered where commands are posted for each of them."""
    said = set()
    for session in sessions(tag):
        with RawSocket(port) as client:
            body = json.dumps({"session": session, "node": tag, "data": "{}"}).encode()
            client.request("POST", "/emulation", body)
            said.add(client.response().status)
    return said


@pytest.mark.parametrize("kind", ["embedded", "redis"])
@pytest.mark.parametrize("keys", [(), (ApiKey(API_KEY),)], ids=["without a key", "with a key"])
@pytest.mark.parametrize("verified_by", ["secret", "secret_file", "public_key_file", "jwks_url"])
async def test_public_knowledge_opens_no_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, keys: tuple[ApiKey, ...], verified_by: str
) -> None:
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "key.pem").write_bytes(PEM)
    redis = RedisServer(tmp_path / "redis").start() if kind == "redis" else None
    try:
        with provider() as url:
            auth = {
                "secret": AuthSection(secret=SECRET),
                "secret_file": AuthSection(secret_file=str(tmp_path / "secret")),
                "public_key_file": AuthSection(public_key_file=str(tmp_path / "key.pem")),
                "jwks_url": AuthSection(jwks_url=url),
            }[verified_by]
            more: dict[str, Any] = {}
            if redis is not None:
                more = {"engine": EngineSection(kind="redis"), "redis": RedisSection(url=redis.url)}
            more |= {
                "centrifuge": CentrifugeSection(enabled=True, api_path="/centrifugo/api"),
                "namespaces": (Namespace("secret", subscribe=Rule.PERMISSION),),
                "rate_limits": RateLimitsSection(messages_per_second=0),
            }
            async with running(tmp_path, auth=auth, api=ApiSection(keys=keys), **more) as inside:
                port = inside.port
                assert await deferToThread(opened, port, forgeries()) == []
                asked: list[Any] = []
                with monkeypatch.context() as patch:
                    patch.setattr(inside.service._doors.posts, "post", lambda *given: asked.append(given))
                    assert await deferToThread(post_sessions, port, inside.service._doors.context.tag) == {404}
                # No node was asked: each proof was found to be none.
                assert asked == []
                private: Any = KEY if auth.public_key_file or auth.jwks_url else SECRET

                def real(**claims: Any) -> str:
                    algorithm = "EdDSA" if private is KEY else "HS256"
                    given = {"sub": "ann", "exp": int(time.time()) + 60} | claims
                    return jwt.encode(given, private, algorithm, headers={"kid": "one"})

                # And what is real does open them, so that the above says something.
                good = {"token": [real()], "key": [API_KEY] if keys else []}
                tickets = await inside.service._doors._facts.tickets()
                good["ticket"] = [tickets.issue("ann", [], 60_000, inside.service.clock.now())[0]]
                expected = {name for kind, shown in good.items() if shown for name in DOORS[kind]}
                assert {name for name, _ in await deferToThread(opened, port, good)} == expected
                forged = [*tokens(sub="ann", channel=CHANNEL)]
                assert await deferToThread(channels, port, real(), forged) == []
                shown = [real(channel=CHANNEL)]
                assert await deferToThread(channels, port, real(), shown) == shown * 2
    finally:
        if redis is not None:
            redis.kill()
