"""Ten thousand commands in one frame, of whatever kind, on whichever transport: they are carried out in order, and
nobody else waits for them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.attack.honest import Honest
from tests.attack.measures import p99
from tests.attack.results import PING_TIME, SIGN_IN
from tests.harness import Server, start
from tests.web.sdk_sockets import TRANSPORTS

pytestmark = pytest.mark.full

MANY = 10_000
#: Pings of somebody else that are waited for, at least.
PINGS = 60
CONFIG = """
[server]
max_message_size = 4_000_000
[centrifuge]
enabled = true
[heartbeat]
interval = "1h"
[rate_limits]
messages_per_second = 0
publications_per_second = 0
publication_bytes_per_second = 0
[[namespaces]]
name = "kept"
publish = "authenticated"
history_size = 100
presence = true
join_leave = true
"""
#: A command by its number.
KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "ping": lambda n: {"ping": {}},
    "publish": lambda n: {"publish": {"channel": "kept:a", "data": n}},
    "subscribe": lambda n: {"unsubscribe" if n % 2 else "subscribe": {"channel": "kept:b"}},
    "presence": lambda n: {"presence": {"channel": "kept:a"}},
    "history": lambda n: {"history": {"channel": "kept:a", "limit": 10}},
    "rpc": lambda n: {"rpc": {"method": "inbox", "data": {}}},
    "error": lambda n: {"subscribe": {"channel": "nowhere:a"}},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = start(tmp_path_factory.mktemp("server"), config=CONFIG)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def honest(server: Server) -> Iterator[Honest]:
    """Somebody else, who pings and signs in all the while."""
    honest = Honest(server)
    yield honest
    honest.end()


@pytest.mark.parametrize(
    ("transport", "kind"),
    [
        *(("websocket-json", kind) for kind in KINDS),
        *((transport, "ping") for transport in TRANSPORTS if transport != "websocket-json"),
    ],
)
def test_nobody_else_waits_for_them(server: Server, honest: Honest, transport: str, kind: str) -> None:
    with TRANSPORTS[transport](server.port) as ann:
        ann.ask({"id": 1, "connect": {"token": server.token("ann")}})
        ann.ask({"id": 2, "subscribe": {"channel": "kept:a"}})
        first, took = 10, []
        honest.fared()
        waits: list[float] = []
        while len(waits) < PINGS:
            ids = range(first, first + MANY)
            began = time.monotonic()
            ann.command(*({"id": id, **KINDS[kind](id)} for id in ids))
            assert [ann.reply(id)["id"] for id in ids] == [*ids]
            took.append(time.monotonic() - began)
            first += MANY
            ann.pushes.clear()
            fared = honest.fared()
            waits += fared.waits
            assert fared.broken == ""
            assert fared.sign_in < SIGN_IN
        print(
            f"{transport}, {kind}: a frame in {max(took):.1f} s, p99 of {len(waits)} pings {p99(waits) * 1000:.1f} ms"
        )
        assert p99(waits) <= PING_TIME
