"""Clients that read slowly or not at all, over real sockets: what each policy does, and that nobody else notices."""

from __future__ import annotations

import json
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import certificates
from tests.harness import Server, free_port, wait_until
from tests.rawsocket import CLOSE, PING, PONG, Closed, RawSocket, frame

#: Larger than what the kernel keeps for a socket that is not read: several MiB in pieces of this size.
BODY = "x" * 4_000
#: Bytes of live messages that may wait for a connection here.
LIMIT = 100_000
#: As many publications as overfill every buffer on the way.
MANY = 3_000

# Who reads slowly answers no ping meanwhile, however long it takes here.
CONFIG = """
[heartbeat]
interval = "1h"
[delivery]
slow_consumer = "{policy}"
max_queue_size = {limit}
[[namespaces]]
name = "kept"
subscribe = "authenticated"
history_size = 1000
"""


@pytest.fixture
def serve(start_server: Callable[..., Server]) -> Callable[[str], Server]:
    return lambda policy: start_server(config=CONFIG.format(policy=policy, limit=LIMIT))


def client(server: Server, user: str, *channels: str, small: bool = False) -> RawSocket:
    """A client that has subscribed; ``small``: with a small receive buffer."""
    raw = RawSocket(server.port, 20)
    if small:
        raw._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
    assert raw.upgrade().status == 101
    raw.ask({"type": "auth", "id": 1, "data": {"token": server.token(user)}})
    raw.ask({"type": "subscribe", "id": 2, "data": {"channels": list(channels)}})
    return raw


def publish(server: Server, channel: str, numbers: range) -> None:
    for first in range(numbers.start, numbers.stop, 200):
        part = range(first, min(first + 200, numbers.stop))
        commands = [{"method": "publish", "params": {"channel": channel, "data": {"n": n, "pad": BODY}}} for n in part]
        assert server.api("POST", "/api/batch", {"commands": commands}).status == 200


def numbers(raw: RawSocket, channel: str, until: Callable[[int], bool]) -> list[int]:
    """What comes on the channel, until one of the numbers is the last that is awaited."""
    found: list[int] = []
    while not found or not until(found[-1]):
        said = raw.message()
        if said.get("channel") == channel and said["type"] == "message":
            found.append(said["data"]["n"])
    return found


def read_to_the_end(raw: RawSocket, came: list[int]) -> int | None:
    """Add the numbers of what still comes, and return the code that the server closed with."""
    try:
        while True:
            said = raw.message()
            if said["type"] == "message":
                came.append(said["data"]["n"])
    except Closed as closed:
        return closed.code


def queued(server: Server, user: str) -> int:
    (one,) = server.api("GET", f"/api/connections?userId={user}").body["connections"]
    waiting: int = one["queued"]
    return waiting


class Reader(threading.Thread):
    """Reads everything that comes to a client, so that it never is the slow one."""

    def __init__(self, raw: RawSocket, channel: str, last: int) -> None:
        super().__init__(daemon=True)
        self._work: tuple[Any, ...] = (raw, channel, last)
        self.found: list[int] = []

    def run(self) -> None:
        raw, channel, last = self._work
        self.found = numbers(raw, channel, lambda n: n == last)


def test_disconnect_closes_with_3008_and_nobody_else_loses_anything(serve: Callable[[str], Server]) -> None:
    server = serve("disconnect")
    with client(server, "slow", "public:a", small=True) as slow, client(server, "quick", "public:a") as quick:
        reader = Reader(quick, "public:a", MANY - 1)
        reader.start()
        publish(server, "public:a", range(MANY))
        reader.join(30)
        assert reader.found == list(range(MANY))
        came: list[int] = []
        code = read_to_the_end(slow, came)
        # Cut off without its goodbye where its buffers stay full for longer than a closing handshake may take.
        assert code in (3008, None)
        assert came == list(range(len(came)))
        assert len(came) < MANY
    wait_until(lambda: server.api("GET", "/api/connections?userId=slow").body["connections"] == [])


def test_drop_oldest_keeps_the_newest_whole_and_within_its_limit(serve: Callable[[str], Server]) -> None:
    server = serve("drop_oldest")
    with client(server, "slow", "public:a", small=True) as slow:
        for first in range(0, MANY, 200):
            publish(server, "public:a", range(first, first + 200))
            assert queued(server, "slow") <= LIMIT
        assert queued(server, "slow") > LIMIT - 2 * len(BODY)
        came = numbers(slow, "public:a", lambda n: n == MANY - 1)
        assert came == sorted(set(came))
        assert len(came) < MANY
        kept = LIMIT // (len(BODY) + 200)
        assert came[-kept:] == list(range(MANY - kept, MANY))


def test_latest_keeps_one_for_each_channel(serve: Callable[[str], Server]) -> None:
    server = serve("latest")
    with client(server, "slow", "public:a", "public:b", small=True) as slow:
        publish(server, "public:a", range(MANY))
        publish(server, "public:b", range(50))
        assert queued(server, "slow") < 3 * (len(BODY) + 300)
        last: dict[str, list[int]] = {"public:a": [], "public:b": []}
        while not last["public:a"] or not last["public:b"]:
            said = slow.message()
            if said["type"] == "message" and (said["channel"] == "public:b" or said["data"]["n"] == MANY - 1):
                last[said["channel"]].append(said["data"]["n"])
        assert last["public:b"] == [49]


@pytest.mark.parametrize("policy", ["drop_oldest", "latest"])
def test_a_channel_that_keeps_its_messages_has_no_silent_gap(serve: Callable[[str], Server], policy: str) -> None:
    server = serve(policy)
    with client(server, "slow", "kept:a", small=True) as slow:
        publish(server, "kept:a", range(MANY))
        resyncs = 0
        expected = 0
        while True:
            said = slow.message()
            if said["type"] == "resync":
                resyncs += 1
                expected = -1
            elif said["type"] == "message":
                # Each follows the one before, unless a loss was announced.
                assert expected in (-1, said["data"]["n"])
                expected = said["data"]["n"] + 1
            if expected == MANY or (expected == -1 and queued(server, "slow") == 0):
                break
        # More went by than the channel keeps.
        assert resyncs >= 1
        publish(server, "kept:a", range(MANY, MANY + 1))
        assert numbers(slow, "kept:a", lambda n: n == MANY)[-1] == MANY


# -- a client that floods and reads in random pieces ------------------------------------------------------------------


def flood(raw: RawSocket, seed: int) -> None:
    """Asks much and reads in pieces of any size; every answer must come, in the order of the questions."""
    chance = random.Random(seed)
    asked = 2_000
    raw._socket.settimeout(60)

    def ask() -> None:
        octets = b"".join(_ping(n) for n in range(asked))
        at = 0
        while at < len(octets):
            size = chance.choice([1, 7, 60, 500, 20_000])
            raw._socket.sendall(octets[at : at + size])
            at += size

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    pieces = random.Random(seed + 1)

    def more() -> None:
        got = raw._socket.recv(pieces.choice([1, 3, 100, 5_000]))
        if not got:
            raise Closed(None)
        raw._buffer += got
        if pieces.random() < 0.001:
            # Long enough for what waits to grow.
            time.sleep(0.01)

    raw._more = more  # type: ignore[method-assign]
    answers: list[int] = []
    pushes: list[int] = []
    while len(answers) < asked or len(pushes) < 200:
        said = raw.message()
        if said["type"] == "pong":
            answers.append(said["id"])
        elif said["type"] == "message":
            pushes.append(said["data"]["n"])
    asking.join(20)
    assert answers == list(range(asked))
    assert pushes == list(range(200))


def _ping(n: int) -> bytes:
    from tests.rawsocket import TEXT, frame

    return frame(TEXT, json.dumps({"type": "ping", "id": n}).encode())


QUICK = "[rate_limits]\nmessages_per_second = 0\n"


def test_a_flood_read_in_random_pieces(start_server: Callable[..., Server]) -> None:
    server = start_server(config=QUICK)
    with client(server, "u", "public:a", small=True) as raw:
        publisher = threading.Thread(target=publish, args=(server, "public:a", range(200)))
        publisher.start()
        flood(raw, 7)
        publisher.join()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + signed.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_flood_over_tls(start_server: Callable[..., Server], certificate: Path) -> None:
    port = free_port()
    server = start_server(
        "--listen",
        f"ssl:{port}:interface=127.0.0.1:privateKey={certificate}:certKey={certificate}",
        "--listen",
        f"tcp:{free_port()}:interface=127.0.0.1",
        config=QUICK,
        ready=False,
    )
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    def connected() -> RawSocket | None:
        try:
            raw = RawSocket(port, 20)
        except OSError:
            return None
        raw._socket = context.wrap_socket(raw._socket)
        return raw

    with wait_until(connected) as raw:
        assert raw.upgrade().status == 101
        raw.ask({"type": "auth", "id": 1, "data": {"token": server.token("u")}})
        raw.ask({"type": "subscribe", "id": 2, "data": {"channels": ["public:a"]}})

        def push() -> None:
            with connected() or pytest.fail("not connected") as api:
                for first in range(0, 200, 20):
                    commands = [
                        {"method": "publish", "params": {"channel": "public:a", "data": {"n": n, "pad": BODY}}}
                        for n in range(first, first + 20)
                    ]
                    key = ("X-API-Key", server.api_key)
                    api.request("POST", "/api/batch", json.dumps({"commands": commands}).encode(), [key])
                    assert api.response().status == 200

        publisher = threading.Thread(target=push)
        publisher.start()
        flood(raw, 11)
        publisher.join()


def test_the_latest_ping_of_who_does_not_read_is_answered_once_it_does(start_server: Callable[..., Server]) -> None:
    server = start_server(config=CONFIG.format(policy="drop_oldest", limit=1 << 24))
    with client(server, "slow", "public:a", small=True) as raw:
        sent = 0
        while not queued(server, "slow"):
            publish(server, "public:a", range(sent, sent + 200))
            sent += 200
        raw.send(b"".join(frame(PING, b"%d" % n) for n in range(20)))
        raw.send_message({"type": "ping", "id": 3})
        pongs: list[bytes] = []
        while True:
            opcode, payload = raw.frame()
            if opcode == PONG:
                pongs.append(payload)
            elif b'"pong"' in payload[:100]:
                break
        assert pongs == [b"19"]


@pytest.mark.parametrize("way", ["tcp", "ssl", "haproxy:ssl"])
@pytest.mark.parametrize(
    ("said", "code"),
    [(frame(CLOSE, b"\x03\xe8"), 1000), (frame(0x3) + frame(CLOSE, b"\x03\xea"), 1002)],
    ids=["goodbye", "nonsense"],
)
def test_whoever_ends_while_much_waits_is_sent_the_end_and_no_part_of_a_frame(
    start_server: Callable[..., Server], tmp_path: Path, way: str, said: bytes, code: int
) -> None:
    files, plain, port = certificates(tmp_path / "pki"), free_port(), free_port()
    keys = "" if way == "tcp" else f":privateKey={files['key']}:certKey={files['cert']}"
    ports = (f"tcp:{plain}:interface=127.0.0.1", f"{way}:{port}:interface=127.0.0.1{keys}")
    listen = [option for one in ports for option in ("--listen", one)]
    server = start_server(*listen, config=CONFIG.format(policy="drop_oldest", limit=1 << 24), port=plain)
    with RawSocket(port, 20) as raw:
        raw._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32_768)
        if way.startswith("haproxy:"):
            raw.send(b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 80\r\n")
        if keys:
            trust = ssl.create_default_context(cafile=str(files["ca"]))
            raw._socket = trust.wrap_socket(raw._socket, server_hostname="127.0.0.1")
        assert raw.upgrade().status == 101
        raw.ask({"type": "auth", "id": 1, "data": {"token": server.token("slow")}})
        raw.ask({"type": "subscribe", "id": 2, "data": {"channels": ["public:a"]}})
        sent = 0
        while not queued(server, "slow"):
            publish(server, "public:a", range(sent, sent + 200))
            sent += 200
        raw.send(said)
        wait_until(lambda: server.api("GET", "/api/connections?userId=slow").body["connections"] == [])
        came: list[int] = []
        assert read_to_the_end(raw, came) == code
        assert came == list(range(len(came)))
