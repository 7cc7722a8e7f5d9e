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
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import OKPAlgorithm
from twisted.internet.threads import deferToThread

from pushserver.config.checks import ApiKey, ApiSection, AuthSection, EngineSection, RedisSection
from pushserver.web.tickets import AUDIENCE
from tests.engine.redis.servers import RedisServer
from tests.inside import API_KEY, SECRET, running
from tests.rawsocket import Closed, RawSocket

KEY = Ed25519PrivateKey.generate()
PEM = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
JWK = json.loads(OKPAlgorithm.to_jwk(KEY.public_key())) | {"kid": "one", "use": "sig"}
JWKS = json.dumps({"keys": [JWK]}).encode()


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


def forgeries() -> Iterator[str]:
    """Tokens and tickets for somebody else, signed with everything that anybody can know or compute."""
    claims = {"sub": "ceo", "iat": int(time.time()), "exp": int(time.time()) + 600, "permissions": ["admin"]}
    ticket = {"sub": "ceo", "iat": claims["iat"], "exp": claims["exp"], "channels": ["news:*"], "aud": AUDIENCE}
    known = [b"", b"\n", b"\n".join([b"", b""]), PEM, PEM.strip(), JWKS, str(JWK["x"]).encode(), b"ticket", bytes(32)]
    for word in known:
        derived = hmac.new(word, b"ticket", hashlib.sha256)
        for secret in (word, derived.digest(), derived.hexdigest().encode(), hashlib.sha256(word).hexdigest().encode()):
            for body in (claims, ticket):
                if secret:
                    yield _signed(body, secret)
    for body in (claims, ticket):
        yield jwt.encode(body, None, "none")
        yield jwt.encode(body, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": "one"})
        yield jwt.encode(body, Ed25519PrivateKey.generate(), "EdDSA", headers={"jwk": JWK})


def _signed(claims: dict[str, Any], secret: bytes) -> str:
    # PyJWT refuses a public key as a secret, which is what an attacker would not do.
    head, body = (
        jwt.utils.base64url_encode(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims)
    )
    proof = hmac.new(secret, head + b"." + body, hashlib.sha256).digest()
    return b".".join([head, body, jwt.utils.base64url_encode(proof)]).decode()


def doors(port: int, forged: str) -> Iterator[tuple[str, Any]]:
    """What each door said to a forgery: a status, or a message's type and a close code."""
    bearer = {"Authorization": f"Bearer {forged}"}
    for where, headers in (
        ("header", bearer),
        ("subprotocol", {"Sec-WebSocket-Protocol": f"pushserver.v1.json, bearer.{forged}"}),
        ("message", {}),
    ):
        with RawSocket(port) as client:
            client.upgrade(headers)
            if where == "message":
                client.send_message({"type": "auth", "id": 1, "data": {"token": forged}})
            try:
                yield where, client.message()["type"]
            except Closed as closed:
                yield where, closed.code
    for where, method, path, more in (
        ("stream", "GET", "/sse", list(bearer.items())),
        ("ticket", "GET", f"/sse?ticket={forged}", []),
        ("post", "POST", "/sse/AAAAAAAAAAAAAAAA", list(bearer.items())),
        ("api", "GET", "/api/nodes", list(bearer.items())),
        ("api key", "GET", "/api/nodes", [("X-API-Key", forged)]),
        ("tickets", "POST", "/api/tickets", list(bearer.items())),
    ):
        with RawSocket(port) as client:
            client.request(method, path, b"{}" if method == "POST" else b"", more)
            yield where, client.response().status


OPEN = {"auth_success", 200, 201, 202}


def opened(port: int) -> list[Any]:
    """The doors that opened to a forgery."""
    return [
        (number, where, said)
        for number, forged in enumerate(forgeries())
        for where, said in doors(port, forged)
        if said in OPEN
    ]


def _real(port: int, token: str) -> int:
    with RawSocket(port) as client:
        client.upgrade({"Authorization": f"Bearer {token}"})
        return int(client.message()["type"] == "auth_success")


@pytest.mark.parametrize("kind", ["embedded", "redis"])
@pytest.mark.parametrize("keys", [(), (ApiKey(API_KEY),)], ids=["without a key", "with a key"])
@pytest.mark.parametrize("verified_by", ["secret", "secret_file", "public_key_file", "jwks_url"])
async def test_public_knowledge_opens_no_door(
    tmp_path: Path, kind: str, keys: tuple[ApiKey, ...], verified_by: str
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
            async with running(tmp_path, auth=auth, api=ApiSection(keys=keys), **more) as inside:
                assert await deferToThread(opened, inside.port) == []
                claims = {"sub": "ann", "exp": int(time.time()) + 60}
                private: Any = KEY if auth.public_key_file or auth.jwks_url else SECRET
                real = jwt.encode(claims, private, "EdDSA" if private is KEY else "HS256", headers={"kid": "one"})
                assert await deferToThread(_real, inside.port, real)
    finally:
        if redis is not None:
            redis.kill()
