"""The whole protocol, spoken by a client that nobody here wrote: ``websockets``, over real sockets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from tests.harness import Server, start, wait_until
from tests.rawsocket import PONG, RawSocket, frame

NATIVE = "pushserver.v1.json"
CONFIG = """
[rate_limits]
chat_messages_per_second = 1000
[roles]
editor = ["publish:news:*"]
[[namespaces]]
name = "news"
history_size = 5
[[namespaces]]
name = "secret"
subscribe = "permission"
[[namespaces]]
name = "room"
publish = "authenticated"
presence = true
join_leave = true
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    process = start(tmp_path_factory.mktemp("websockets"), config=CONFIG)
    yield process
    log = process.log
    process.stop()
    assert "Traceback" not in log


class Client:
    """A connection, asked in requests and answered in replies; pushes that come between are kept."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.pushed: list[Any] = []
        self._ids = itertools.count(1)

    def receive(self) -> Any:
        text = self.socket.recv(timeout=60)
        assert isinstance(text, str)
        return json.loads(text)

    def ask(self, type: str, /, **data: Any) -> Any:
        """The reply to a request; whatever is pushed before it is kept."""
        id = next(self._ids)
        self.socket.send(json.dumps({"type": type, "id": id, "data": data}))
        while True:
            said = self.receive()
            if said.get("id") == id:
                return said
            self.pushed.append(said)

    def data(self, type: str, expected: str, /, **data: Any) -> Any:
        said = self.ask(type, **data)
        assert said["type"] == expected, said
        return said["data"]

    def error(self, type: str, /, **data: Any) -> str:
        said = self.data(type, "error", **data)
        assert isinstance(said["timestamp"], int)
        code: str = said["code"]
        return code

    def pushes(self) -> list[Any]:
        """What was pushed so far."""
        self.data("ping", "pong")
        taken, self.pushed = self.pushed, []
        return taken

    def until(self, type: str) -> Any:
        """The next push of a type; those before it are dropped."""
        while True:
            said = self.pushed.pop(0) if self.pushed else self.receive()
            if said["type"] == type:
                return said

    def closed(self) -> tuple[int, str]:
        """Reads until the server closes: the code and the reason."""
        try:
            while True:
                self.pushed.append(self.receive())
        except ConnectionClosed as closed:
            # Without a close frame from the server: 1006, as RFC 6455 section 7.1.5 has it.
            return (1006, "") if closed.rcvd is None else (closed.rcvd.code, closed.rcvd.reason)


@contextmanager
def dial(server: Server, **options: Any) -> Iterator[Client]:
    with connect(server.ws_url, open_timeout=60, close_timeout=10, **options) as socket:
        yield Client(socket)


@contextmanager
def signed_in(server: Server, user: str, **claims: Any) -> Iterator[Client]:
    with dial(server) as client:
        client.data("auth", "auth_success", token=server.token(user, **claims))
        yield client


def refused(server: Server, status: int, **options: Any) -> None:
    with pytest.raises(InvalidStatus) as caught, dial(server, **options):
        pass
    assert caught.value.response.status_code == status


# -- signing in -------------------------------------------------------------------------------------------------------


def test_auth_in_band(server: Server) -> None:
    with dial(server, subprotocols=[Subprotocol(NATIVE)]) as client:
        assert client.socket.subprotocol == NATIVE
        exp = int(time.time()) + 600
        data = client.data(
            "auth", "auth_success", token=server.token("a1", exp=exp, permissions=["publish:x:*"], role="editor")
        )
        assert set(data) == {"connectionId", "userId", "permissions", "expiresAt", "channels", "results", "heartbeat",
                             "node", "inbox", "tasks"}  # fmt: skip
        assert (data["userId"], data["expiresAt"]) == ("a1", exp * 1000)
        assert data["permissions"] == ["publish:news:*", "publish:x:*"]
        assert data["channels"] == ["system", "user:a1"]
        assert data["heartbeat"] == {"interval": 25_000, "timeout": 10_000}
        assert (data["results"], data["tasks"]) == ({}, [])
        assert set(data["inbox"]) == {"offset", "epoch", "acked", "pending", "unread"}


def test_a_numeric_user(server: Server) -> None:
    with dial(server) as client:
        token = jwt.encode({"sub2": 1, "exp": time.time() + 60, "sub": "7"}, server.secret, "HS512")
        assert client.data("auth", "auth_success", token=token)["userId"] == "7"


def test_auth_in_the_upgrade_request(server: Server) -> None:
    token = server.token("a2")
    for options in (
        {"additional_headers": {"Authorization": f"Bearer {token}"}},
        {"subprotocols": [Subprotocol(NATIVE), Subprotocol(f"bearer.{token}")]},
        {"subprotocols": [Subprotocol(f"bearer.{token}"), Subprotocol(NATIVE)]},
    ):
        with dial(server, **options) as client:
            said = client.receive()
            assert (said["type"], said["data"]["userId"], "id" in said) == ("auth_success", "a2", False)
            assert client.socket.subprotocol == (NATIVE if "subprotocols" in options else None)
    refused(server, 400, subprotocols=[Subprotocol(f"bearer.{token}")])
    with dial(server, additional_headers={"Authorization": "Bearer x"}) as client:
        assert client.receive()["data"]["code"] == "INVALID_TOKEN"
        assert client.closed() == (3500, "invalid token")


def test_refresh(server: Server) -> None:
    with signed_in(server, "a3", permissions=["subscribe:secret:*"]) as client:
        client.data("subscribe", "subscription_success", channels=["secret:a", "room:refresh"])
        later = int(time.time()) + 7_200
        data = client.data("auth", "auth_success", token=server.token("a3", exp=later, permissions=[]))
        assert (data["expiresAt"], data["permissions"]) == (later * 1000, [])
        assert data["channels"] == ["system", "user:a3"]
        (ended,) = [p for p in client.pushes() if p["type"] == "unsubscribed"]
        assert ended["data"]["channel"] == "secret:a"
        assert set(ended["data"]) == {"channel", "code", "reason"}
        assert client.data("unsubscribe", "unsubscription_success", channels=[])["channels"] == [
            "room:refresh", "system", "user:a3"]  # fmt: skip
        assert client.error("auth", token=server.token("other")) == "PERMISSION_DENIED"
        assert client.error("auth", token=server.token("a3", exp=int(time.time()) - 60)) == "TOKEN_EXPIRED"
        assert client.ask("auth", token="x")["type"] == "auth_failed"
        assert client.closed()[0] == 3500


@pytest.mark.full
def test_expiry_and_grace(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[auth]\nleeway = "0s"\nrefresh_grace = "5s"\n')
    with dial(server) as client, dial(server) as refreshed:
        exp = int(time.time()) + 5
        for one in (client, refreshed):
            one.data("auth", "auth_success", token=server.token("e1", exp=exp))
        wait_until(lambda: time.time() > exp + 0.1)
        # Expired and within the grace: still served, and a new token is taken.
        assert client.data("ping", "pong")
        refreshed.data("auth", "auth_success", token=server.token("e1"))
        assert client.closed() == (3005, "token expired")
        assert time.time() > exp + 4.9
        assert refreshed.data("ping", "pong")
        with dial(server) as late:
            assert late.ask("auth", token=server.token("e1", exp=exp))["data"]["code"] == "TOKEN_EXPIRED"
            assert late.closed()[0] == 3005


def _pem(key: Any) -> bytes:
    pem: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return pem


def test_public_keys(start_server: Callable[..., Server], tmp_path: Path) -> None:
    keys: list[tuple[str, Any]] = [
        ("RS256", rsa.generate_private_key(public_exponent=65537, key_size=2048)),
        ("ES256", ec.generate_private_key(ec.SECP256R1())),
        ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
    ]
    (tmp_path / "keys.pem").write_bytes(b"".join(_pem(key) for _, key in keys))
    server = start_server(config=f'[auth]\npublic_key_file = "{tmp_path}/keys.pem"\n', secret="",
                          env={"PUSHSERVER_AUTH__SECRET": ""})  # fmt: skip
    claims = {"sub": "k1", "exp": int(time.time()) + 600}
    for algorithm, key in keys:
        with dial(server) as client:
            client.data("auth", "auth_success", token=jwt.encode(claims, key, algorithm))
    stranger = ec.generate_private_key(ec.SECP256R1())
    forged = [
        jwt.encode(claims, stranger, "ES256"),
        _hmac_with_public_key(claims, (tmp_path / "keys.pem").read_bytes()),
    ]
    for token in forged:
        with dial(server) as client:
            assert client.ask("auth", token=token)["data"]["code"] == "INVALID_TOKEN"


def _hmac_with_public_key(claims: dict[str, Any], key: bytes) -> str:
    """The public key taken for an HMAC secret, which it must never be."""

    def part(octets: bytes) -> bytes:
        return base64.urlsafe_b64encode(octets).rstrip(b"=")

    signed = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (signed + b"." + part(hmac.new(key, signed, hashlib.sha256).digest())).decode()


def test_jwks(start_server: Callable[..., Server]) -> None:
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    document = {"keys": [json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "k1"}]}
    asked: list[str] = []

    class Provider(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(document).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    provider = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    thread = threading.Thread(target=provider.serve_forever)
    thread.start()
    try:
        server = start_server(
            config=f'[auth]\njwks_url = "http://127.0.0.1:{provider.server_port}/keys"\n',
            secret="",
            env={"PUSHSERVER_AUTH__SECRET": ""},
        )
        claims = {"sub": "j1", "exp": int(time.time()) + 600}
        for _ in range(3):
            with dial(server) as client:
                token = jwt.encode(claims, key, "RS256", headers={"kid": "k1"})
                client.data("auth", "auth_success", token=token)
        assert asked == ["/keys"]
        with dial(server) as client:
            token = jwt.encode(claims, key, "RS256", headers={"kid": "unknown"})
            # It may be new; the provider is not asked again so soon.
            assert client.ask("auth", token=token)["data"]["code"] == "UNAVAILABLE"
        assert asked == ["/keys"]
    finally:
        provider.shutdown()
        thread.join()
        provider.server_close()


def test_keys_that_cannot_be_had(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[auth]\njwks_url = "http://127.0.0.1:9/keys"\n', secret="",
                          env={"PUSHSERVER_AUTH__SECRET": ""})  # fmt: skip
    key = ec.generate_private_key(ec.SECP256R1())
    with dial(server) as client:
        token = jwt.encode({"sub": "j1", "exp": time.time() + 60}, key, "ES256")
        assert client.ask("auth", token=token)["data"]["code"] == "UNAVAILABLE"
        assert client.closed()[0] == 3004


def test_revocation_ends_live_connections(server: Server) -> None:
    with dial(server) as one, signed_in(server, "v1") as two, signed_in(server, "v2") as three:
        one.data("auth", "auth_success", token=server.token("v1", jti="v-1"))
        server.api("POST", "/api/revoke", {"jti": "v-1", "expiresAt": int(time.time() + 600) * 1000})
        assert one.closed() == (3503, "disconnected by the server")
        assert two.data("ping", "pong")
        server.api("POST", "/api/revoke", {"userId": "v1"})
        assert two.closed()[0] == 3503
        assert three.data("ping", "pong")
    with dial(server) as again:
        assert again.ask("auth", token=server.token("v2", jti="v-1"))["data"]["code"] == "TOKEN_BLACKLISTED"
        assert again.closed()[0] == 3500


def test_anonymous(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[auth]\nanonymous = true\n[[namespaces]]\nname = "public"\nhistory_size = 5\n')
    with dial(server) as client:
        server.api("POST", "/api/publish", {"channel": "public:a", "data": 1})
        data = client.data("subscribe", "subscription_success", channels=["public:a", "chat:lobby"])
        assert (data["channels"], data["rejected"]["chat:lobby"]["code"]) == (["public:a"], "NOT_AUTHENTICATED")
        assert [m["data"] for m in client.data("history", "history", channel="public:a")["messages"]] == [1]
        server.api("POST", "/api/publish", {"channel": "public:a", "data": 2})
        assert client.until("message")["data"] == 2
        assert client.error("publish", channel="public:a", data=1) == "NOT_AUTHENTICATED"
        client.data("auth", "auth_success", token=server.token("n1"))
        assert client.data("unsubscribe", "unsubscription_success", channels=["public:a"])["channels"] == [
            "system", "user:n1"]  # fmt: skip


# -- the door ---------------------------------------------------------------------------------------------------------


def test_origins_and_limits(start_server: Callable[..., Server]) -> None:
    server = start_server(config="[server]\nmax_connections = 3\nmax_connections_per_user = 1\n")
    refused(server, 403, origin="https://elsewhere.example")
    refused(server, 403, origin="null")
    with dial(server, origin=server.url) as one, signed_in(server, "l1"), dial(server) as two:
        refused(server, 503)
        two.socket.send(json.dumps({"type": "auth", "id": 1, "data": {"token": server.token("l1")}}))
        assert two.closed() == (3504, "connection limit")
        assert one.socket.ping().wait(60)


def test_rate_limits(start_server: Callable[..., Server]) -> None:
    server = start_server(config="[rate_limits]\nmessages_per_second = 5\nburst = 10\nauth_attempts = 2\n")
    with signed_in(server, "r1") as client:
        # Sent together: how long each answer takes changes nothing.
        for _ in range(40):
            client.socket.send('{"type": "ping"}')
        answers = [client.receive() for _ in range(40)]
        assert [said["type"] for said in answers[:9]] == ["pong"] * 9
        said = [said for said in answers if said["type"] == "error"][-1]["data"]
        assert said["code"] == "RATE_LIMITED"
        assert 0 < said["retryAfter"] <= 200
        time.sleep(said["retryAfter"] / 1000)
        client.data("ping", "pong")
    with signed_in(server, "r2") as client:
        with suppress(ConnectionClosed):
            for _ in range(150):
                client.socket.send('{"type": "ping"}')
        assert client.closed() == (3013, "too many requests")
    with signed_in(server, "r3") as client:
        client.data("auth", "auth_success", token=server.token("r3"))
        assert client.error("auth", token=server.token("r3")) == "RATE_LIMITED"
        assert client.closed()[0] == 3013


@pytest.mark.full
def test_a_vanished_peer_is_gone(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[heartbeat]\ninterval = "1s"\ntimeout = "5s"\n')
    with signed_in(server, "h1") as alive, RawSocket(server.port) as silent, RawSocket(server.port) as answering:
        for raw, user in ((silent, "h2"), (answering, "h3")):
            raw.upgrade()
            raw.ask({"type": "auth", "id": 1, "data": {"token": server.token(user)}})

        def users() -> set[str]:
            found: set[str] = {c["userId"] for c in server.api("GET", "/api/connections").body["connections"]}
            return found

        def is_gone() -> bool:
            answering.send(frame(PONG, b""))
            return "h2" not in users()

        wait_until(is_gone, deadline=60)
        assert users() == {"h1", "h3"}
        assert silent.close_code() == 3012
        assert alive.data("ping", "pong")


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_compression(server: Server, compression: str | None) -> None:
    with signed_in(server, "z1") as other, dial(server, compression=compression) as client:
        client.data("auth", "auth_success", token=server.token("z2"))
        assert bool(client.socket.protocol.extensions) == (compression is not None)
        name = f"room:zip-{compression}"
        for one in (other, client):
            one.data("subscribe", "subscription_success", channels=[name])
        large = {"text": "lorem ipsum " * 500, "ü": "é" * 1000}
        for n in range(3):
            client.data("publish", "published", channel=name, data={**large, "n": n})
        for one in (other, client):
            got = [p["data"] for p in one.pushes() if p["type"] == "message"]
            assert got == [{**large, "n": n} for n in range(3)]


# -- channels ---------------------------------------------------------------------------------------------------------


def test_ping(server: Server) -> None:
    with signed_in(server, "p1") as client:
        data = client.data("ping", "pong", mine=[1, {"a": None}], timestamp="replaced")
        assert data == {"mine": [1, {"a": None}], "timestamp": data["timestamp"]}
        assert abs(data["timestamp"] - time.time() * 1000) < 60_000
        client.socket.send('{"type": "ping", "id": "a-string"}')
        assert client.receive()["id"] == "a-string"
        client.socket.send('{"type": "ping"}')
        assert "id" not in client.receive()


def test_subscribe_and_unsubscribe(server: Server) -> None:
    with signed_in(server, "s1") as client:
        asked = ["room:b", "room:a", "news:a", "nowhere:a", "secret:a", "room: ", "user:other", "status:s1"]
        data = client.data("subscribe", "subscription_success", channels=asked)
        assert data["channels"] == ["news:a", "room:a", "room:b", "status:s1", "system", "user:s1"]
        assert {c: r["code"] for c, r in data["rejected"].items()} == {
            "nowhere:a": "UNKNOWN_CHANNEL",
            "secret:a": "PERMISSION_DENIED",
            "room: ": "INVALID_CHANNEL",
            "user:other": "PERMISSION_DENIED",
        }
        results = data["results"]
        assert sorted(results) == ["news:a", "room:a", "room:b", "status:s1"]
        assert results["room:a"] == {}
        assert results["news:a"] == {"recovered": False, "offset": 0, "epoch": results["news:a"]["epoch"],
                                     "messages": []}  # fmt: skip
        assert results["status:s1"]["status"]["status"] == "online"
        again = client.data("subscribe", "subscription_success", channels=["news:a", {"channel": "room:a"}])
        assert again["results"]["news:a"] == results["news:a"]
        data = client.data("unsubscribe", "unsubscription_success", channels=["room:a", "system", "room:zzz"])
        assert data["channels"] == ["news:a", "room:b", "status:s1", "system", "user:s1"]
        assert {c: r["code"] for c, r in data["rejected"].items()} == {"system": "PERMISSION_DENIED"}
        assert client.data("subscribe", "subscription_success", channels=["nowhere:a"])["results"] == {}


def test_publish(server: Server) -> None:
    with signed_in(server, "b1", role="editor") as one, signed_in(server, "b2") as two:
        for client in (one, two):
            client.data("subscribe", "subscription_success", channels=["news:pub", "room:pub"])
        taken = one.data(
            "publish", "published", channel="news:pub", data={"n": 1}, messageType="headline", messageId="m"
        )
        assert set(taken) == {"messageId", "offset", "epoch"}
        assert (taken["messageId"], taken["offset"]) == ("m", 1)
        repeat = one.data("publish", "published", channel="news:pub", data="other", messageId="m")
        assert repeat == {**taken, "duplicate": True, "conflict": True}
        assert set(two.data("publish", "published", channel="room:pub", data=None)) == {"messageId"}
        assert two.error("publish", channel="news:pub", data=1) == "PERMISSION_DENIED"
        for client in (one, two):
            headline, note = [p for p in client.pushes() if p["channel"] in ("news:pub", "room:pub")
                              and not p["type"].startswith("presence_")]  # fmt: skip
            assert headline == {"type": "headline", "channel": "news:pub", "data": {"n": 1}, "from": "b1",
                                "timestamp": headline["timestamp"], **taken}  # fmt: skip
            assert (note["type"], note["data"], note["from"], "offset" in note) == ("message", None, "b2", False)


def test_history_and_recovery(server: Server) -> None:
    with signed_in(server, "y1", permissions=["publish:news:*"]) as client:
        client.data("subscribe", "subscription_success", channels=["news:rec"])
        for n in range(1, 4):
            epoch = client.data("publish", "published", channel="news:rec", data=n)["epoch"]

        def resume(offset: int, epoch: str = epoch) -> Any:
            wanted = {"channel": "news:rec", "since": {"offset": offset, "epoch": epoch}}
            with signed_in(server, "y2") as other:
                return other.data("subscribe", "subscription_success", channels=[wanted])["results"]["news:rec"]

        result = resume(1)
        assert (result["recovered"], result["offset"], result["epoch"]) == (True, 3, epoch)
        assert [(m["offset"], m["data"], m["epoch"], m["type"]) for m in result["messages"]] == [
            (2, 2, epoch, "message"), (3, 3, epoch, "message")]  # fmt: skip
        assert (resume(3)["recovered"], resume(3)["messages"]) == (True, [])
        assert (resume(0)["recovered"], len(resume(0)["messages"])) == (True, 3)
        assert resume(4)["recovered"] is False
        assert resume(1, "other") == {"recovered": False, "offset": 3, "epoch": epoch, "messages": []}
        for n in range(4, 9):
            client.data("publish", "published", channel="news:rec", data=n)
        assert resume(1)["recovered"] is False
        assert [m["data"] for m in resume(3)["messages"]] == [4, 5, 6, 7, 8]

        def read(**asked: Any) -> list[Any]:
            page = client.data("history", "history", channel="news:rec", **asked)
            assert (page["offset"], page["epoch"]) == (8, epoch)
            return [m["data"] for m in page["messages"]]

        assert read() == [4, 5, 6, 7, 8]
        assert read(limit=2) == [4, 5]
        assert read(limit=2, reverse=True) == [8, 7]
        assert read(since={"offset": 6, "epoch": epoch}) == [7, 8]
        assert read(since={"offset": 6, "epoch": epoch}, reverse=True) == [5, 4]
        assert read(limit=0) == []
        assert client.error("history", channel="news:rec", since={"offset": 1, "epoch": "other"}) == "CONFLICT"
        assert client.error("history", channel="room:a") == "NOT_FOUND"


def test_presence(server: Server) -> None:
    with signed_in(server, "o1") as watcher:
        watcher.data("subscribe", "subscription_success", channels=["room:here"])
        with signed_in(server, "o2", info={"name": "Two"}) as one, signed_in(server, "o2") as two:
            for client in (one, two):
                client.data("subscribe", "subscription_success", channels=["room:here"])
            joined = [p for p in watcher.pushes() if p["type"] == "presence_join" and p["data"]["userId"] != "o1"]
            assert [p["data"] for p in joined] == [{"userId": "o2", "info": {"name": "Two"}}]
            data = watcher.data("presence", "presence", channel="room:here")
            assert data["total"] == 2
            assert {u["userId"]: u["connections"] for u in data["users"]} == {"o1": 1, "o2": 2}
            one.data("unsubscribe", "unsubscription_success", channels=["room:here"])
            assert [p for p in watcher.pushes() if p["type"] == "presence_leave"] == []
        assert watcher.until("presence_leave")["data"]["userId"] == "o2"
        assert watcher.data("presence", "presence", channel="room:here")["total"] == 1
        assert watcher.error("presence", channel="news:a") == "NOT_FOUND"
        assert watcher.error("presence", channel="secret:a") == "PERMISSION_DENIED"


@pytest.mark.full
def test_user_status_and_its_grace(server: Server) -> None:
    with signed_in(server, "w1") as watcher:
        result = watcher.data("subscribe", "subscription_success", channels=["status:w2"])["results"]["status:w2"]
        assert result["status"]["status"] == "offline"
        with signed_in(server, "w2"):
            online = watcher.until("user_status")
            assert (online["channel"], online["data"]["status"]) == ("status:w2", "online")
        with signed_in(server, "w2"):
            leaving = time.time()
        # Nobody knows that it was away for a moment.
        offline = watcher.until("user_status")
        assert (offline["data"]["userId"], offline["data"]["status"]) == ("w2", "offline")
        assert leaving - 0.1 <= offline["data"]["lastSeenAt"] / 1000 < time.time()
        assert time.time() - leaving > 4.9


# -- chat -------------------------------------------------------------------------------------------------------------


def test_chat_in_a_room(server: Server) -> None:
    with signed_in(server, "c1") as one, signed_in(server, "c2") as two:
        two.data("subscribe", "subscription_success", channels=["chat:lobby"])
        two.pushes()
        sent = one.data("chat_message", "message_sent", content="hello", messageId="c-1")
        assert sent == {"messageId": "c-1", "delivered": 1, "queued": False}
        again = one.data("chat_message", "message_sent", content="hello", messageId="c-1")
        assert again["duplicate"] is True
        (push,) = two.pushes()
        assert (push["type"], push["channel"], push["from"]) == ("chat_message", "chat:lobby", "c1")
        assert push["data"] == {"from": "c1", "content": "hello", "messageType": "text"}
        assert one.pushes() == []  # sending needs no subscription, and gives none
        one.data("chat_message", "message_sent", content="x", channel="chat:other", messageType="image")
        assert one.error("chat_message", content="x", channel="room:a") == "PERMISSION_DENIED"


def test_chat_to_one_user(server: Server) -> None:
    with signed_in(server, "d1") as one, signed_in(server, "d2") as two, signed_in(server, "d3") as three:
        assert one.error("chat_message", content="psst", targetId="d2") == "PERMISSION_DENIED"
        for client in (one, two, three):
            client.data("subscribe", "subscription_success", channels=["chat:direct"])
        sent = one.data("chat_message", "message_sent", content="psst", targetId="d2")
        assert (sent["delivered"], sent["queued"]) == (1, True)
        (push,) = [p for p in two.pushes() if p["type"] == "chat_message"]
        assert (push["channel"], push["offset"], push["data"]["targetId"]) == ("user:d2", 1, "d2")
        assert [p for p in three.pushes() if p["type"] == "chat_message"] == []
        one.data("unsubscribe", "unsubscription_success", channels=["chat:direct"])
        assert one.error("chat_message", content="psst", targetId="d2") == "PERMISSION_DENIED"
        assert one.error("chat_message", content="x", targetId="d2", channel="chat:direct") == "INVALID_MESSAGE"
    with signed_in(server, "d4", permissions=["publish:user:d*"]) as four:
        sent = four.data("chat_message", "message_sent", content="later", targetId="d9")
        assert (sent["delivered"], sent["queued"]) == (0, True)
        assert four.error("publish", channel="user:d9", data=1) == "PERMISSION_DENIED"
    with signed_in(server, "d9") as nine:
        assert nine.until("chat_message")["data"]["content"] == "later"


# -- inbox ------------------------------------------------------------------------------------------------------------


def notify(server: Server, user: str, *data: Any) -> None:
    for one in data:
        assert server.api("POST", "/api/notify", {"userId": user, "data": one}).status == 200


def test_inbox(server: Server) -> None:
    notify(server, "m1", 1, 2, 3)

    def sign_in(**positions: Any) -> tuple[Any, list[Any]]:
        with dial(server) as client:
            data = client.data("auth", "auth_success", token=server.token("m1"), positions=positions)
            return data, [p["data"] for p in client.pushes()]

    data, pending = sign_in()
    epoch = data["inbox"]["epoch"]
    unread = {"notification": 3, "chat": 0, "task": 0}
    assert data["inbox"] == {"offset": 3, "epoch": epoch, "acked": 0, "pending": 3, "unread": unread}
    assert pending == [1, 2, 3]
    with signed_in(server, "m1") as client:
        assert client.data("ack", "ack_success", offset=2, epoch=epoch) == {"offset": 2}
        assert client.data("ack", "ack_success", offset=1, epoch=epoch) == {"offset": 2}
        assert client.error("ack", offset=9, epoch=epoch) == "INVALID_MESSAGE"
        assert client.error("ack", offset=1, epoch="other") == "CONFLICT"
    data, pending = sign_in()
    assert (data["inbox"]["acked"], data["inbox"]["pending"], pending) == (2, 1, [3])
    # A second device with its own position misses nothing of what the first has acked.
    data, pending = sign_in(**{"user:m1": {"offset": 1, "epoch": epoch}})
    assert pending == [2, 3]
    assert data["results"]["user:m1"]["recovered"] is True
    data, pending = sign_in(**{"user:m1": {"offset": 1, "epoch": "other"}, "system": {"offset": 0, "epoch": "x"}})
    # With a position of other data all that is kept is sent.
    assert (data["results"]["user:m1"]["recovered"], pending) == (False, [1, 2, 3])
    assert data["results"]["system"]["recovered"] is False


def test_inbox_overflow(start_server: Callable[..., Server]) -> None:
    server = start_server(config="[inbox]\nmax_messages = 3\n")
    notify(server, "f1", 1)
    with signed_in(server, "f1") as client:
        (first,) = client.pushes()
    notify(server, "f1", 2, 3, 4, 5)
    with dial(server) as client:
        position = {"offset": first["offset"], "epoch": first["epoch"]}
        client.data("auth", "auth_success", token=server.token("f1"), positions={"user:f1": position})
        overflow, *kept = client.pushes()
        assert (overflow["type"], overflow["data"]) == ("inbox_overflow", {"lost": 1})
        assert [p["data"] for p in kept] == [3, 4, 5]


# -- tasks ------------------------------------------------------------------------------------------------------------


def test_tasks(server: Server) -> None:
    def change(path: str, body: Any) -> Any:
        answer = server.api("POST", f"/api/tasks{path}", body)
        assert answer.status in (200, 201), answer
        return answer.body

    with signed_in(server, "t1") as owner, signed_in(server, "t2", permissions=["subscribe:task:*"]) as watcher:
        created = change("", {"userId": "t1", "taskId": "job", "title": "Job"})
        push = owner.until("task_created")
        assert (push["channel"], push["data"], "offset" in push) == ("task:job", created, False)
        data = watcher.data("task_subscribe", "subscription_success", taskId="job")
        assert data["results"]["task:job"] == {"task": created}
        assert data["channels"] == ["system", "task:job", "user:t2"]
        running = change("/job/progress", {"percentage": 50, "message": "half"})
        for client in (owner, watcher):
            push = client.until("task_progress")
            assert push["data"]["version"] == running["version"]
        assert watcher.data("task_get", "task", taskId="job") == running
        assert watcher.error("task_cancel", taskId="job") == "NOT_FOUND"
        cancelled = owner.data("task_cancel", "task", taskId="job")
        assert cancelled["cancelRequested"] is True
        done = change("/job/complete", {"result": 42})
        final = owner.until("task_completed")
        assert (final["channel"], final["offset"]) == ("user:t1", 1)
        assert final["data"] == done
        seen = watcher.until("task_completed")
        assert (seen["channel"], "offset" in seen, seen["data"]["percentage"]) == ("task:job", False, 100)
        assert [p for p in owner.pushes() if p["type"] == "task_completed"] == []
    with dial(server) as back:
        change("", {"userId": "t1", "taskId": "next"})
        data = back.data("auth", "auth_success", token=server.token("t1"))
        assert [task["taskId"] for task in data["tasks"]] == ["next"]
        assert back.until("task_completed")["data"] == done
    with signed_in(server, "t3") as stranger:
        assert stranger.error("task_get", taskId="job") == "NOT_FOUND"
        data = stranger.data("task_subscribe", "subscription_success", taskId="job")
        assert data["rejected"]["task:job"]["code"] == "NOT_FOUND"


def test_cancelling_is_told_as_a_change_of_status(server: Server) -> None:
    with signed_in(server, "t4") as owner:
        server.api("POST", "/api/tasks", {"userId": "t4", "taskId": "stop"})
        server.api("POST", "/api/tasks/stop/cancel", {"message": "enough"})
        push = owner.until("task_status_changed")
        assert (push["data"]["oldStatus"], push["data"]["newStatus"]) == ("pending", "cancelled")
        assert (push["channel"], push["offset"]) == ("user:t4", 1)


# -- the server's own voice -------------------------------------------------------------------------------------------


def test_notices(server: Server) -> None:
    with signed_in(server, "g1") as client:
        body = {"channel": "system", "type": "maintenance_alert", "data": {"message": "m", "startsAt": 1, "endsAt": 2}}
        position = server.api("POST", "/api/publish", body).body
        push = client.until("maintenance_alert")
        assert (push["channel"], push["data"], push["offset"]) == ("system", body["data"], position["offset"])


def test_going_away(start_server: Callable[..., Server]) -> None:
    server = start_server()
    with signed_in(server, "q1") as client, dial(server) as stranger:
        server.signal(15)
        for one in (client, stranger):
            assert one.until("going_away")["data"]["reconnectAfter"] >= 0
            assert one.closed() == (3001, "shutdown")
    assert server.wait() == -15
