"""SIGTERM in the middle of work: everyone is told, nobody is lost, and the process ends by the signal and in time."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.harness import Server, wait_until
from tests.rawsocket import Closed, RawSocket

CLIENTS = 40


def follow(server: Server, user: str) -> RawSocket:
    client = RawSocket(server.port, timeout=60)
    client.upgrade()
    client.ask({"type": "auth", "id": 1, "data": {"token": server.token(user)}})
    client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["public:load", "chat:lobby"]}})
    return client


def last_words(client: RawSocket) -> tuple[list[Any], int | None]:
    """Everything up to the end: the messages, and the close code."""
    messages: list[Any] = []
    try:
        while True:
            messages.append(client.message())
    except Closed as closed:
        client.close()
        return messages, closed.code


def load(server: Server, stop: threading.Event, sent: list[int]) -> None:
    number = 0
    while not stop.is_set():
        try:
            answer = server.api("POST", "/api/publish", {"channel": "public:load", "data": number})
        except OSError:
            return
        if answer.status == 200:
            sent.append(number)
        number += 1


def quiet(log: str) -> bool:
    lines = [line for line in log.splitlines() if "Traceback" in line or "rror" in line or "#critical" in line]
    assert lines == []
    return True


def test_sigterm_under_load(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[server]\nshutdown_drain = "60s"\n')
    clients = [follow(server, f"u{n}") for n in range(CLIENTS)]
    received: dict[int, tuple[list[Any], int | None]] = {}
    readers = [
        threading.Thread(target=lambda n=n, c=c: received.__setitem__(n, last_words(c))) for n, c in enumerate(clients)
    ]
    stop = threading.Event()
    sent: list[int] = []
    publishers = [threading.Thread(target=load, args=(server, stop, sent)) for _ in range(2)]
    for thread in readers + publishers:
        thread.start()
    try:
        wait_until(lambda: len(sent) > 100)
        began = time.monotonic()
        server.signal(signal.SIGTERM)
        # A second one does not cut the first short.
        time.sleep(0.01)
        server.signal(signal.SIGTERM)
        status = server.wait()
    finally:
        stop.set()
        for thread in readers + publishers:
            thread.join(60)
    assert status == -signal.SIGTERM
    # Everybody has gone: nobody is waited for.
    assert time.monotonic() - began < 60
    assert len(received) == CLIENTS
    delays = []
    for messages, code in received.values():
        assert code == 3001
        *before, last = messages
        assert last["type"] == "going_away"
        delays.append(last["data"]["reconnectAfter"])
        numbers = [message["data"] for message in before if message["channel"] == "public:load"]
        # In order for each publisher, and with no gap until the goodbye: two publishers, so at most two of each.
        assert set(range(max(numbers))) <= {*numbers, *range(min(numbers))}
    assert len(set(delays)) > CLIENTS // 2
    assert quiet(server.log)


def test_a_client_that_does_not_read_does_not_hold_the_end_up(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[server]\nshutdown_drain = "1s"\n')
    with follow(server, "stuck") as stuck:
        for _ in range(8):
            # More than the sockets' buffers take.
            server.api("POST", "/api/publish", {"channel": "public:load", "data": "x" * 900_000})
        assert server.terminate() == -signal.SIGTERM
        assert stuck is not None
    assert quiet(server.log)


def test_nobody_comes_in_while_the_server_ends(start_server: Callable[..., Server]) -> None:
    server = start_server(config='[server]\nshutdown_drain = "60s"\n')
    with follow(server, "slow") as slow, RawSocket(server.port) as kept, RawSocket(server.port) as other:
        for each in (kept, other):
            each.request("GET", "/readyz")
            assert each.response().status == 200
        server.signal(signal.SIGTERM)
        # It has its goodbye, and does not go: the server waits for it.
        assert slow.close_code() == 3001
        kept.request("GET", "/readyz")
        assert kept.response().status == 503
        assert other.upgrade().status == 503
    assert server.wait() == -signal.SIGTERM
    assert quiet(server.log)


def test_while_it_drains_each_http_connection_ends_with_its_next_answer(start_server: Callable[..., Server]) -> None:
    server = start_server()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)

    def answered() -> tuple[int, str | None]:
        connection.request("GET", "/api/nodes", headers={"X-API-Key": server.api_key})
        response = connection.getresponse()
        response.read()
        return response.status, response.getheader("Connection")

    assert answered() == (200, None)
    assert server.api("POST", "/api/drain", {}).status == 200
    assert answered() == (200, "close")
    assert server.api("DELETE", "/api/drain").status == 200
    assert answered() == (200, None)
    connection.close()


@pytest.mark.full
def test_a_drain_that_is_undone_half_way_leaves_who_is_left(start_server: Callable[..., Server]) -> None:
    server = start_server()
    clients = [follow(server, f"u{number}") for number in range(CLIENTS)]
    # The first goes at once, and the next half a minute later: half way is reached before anybody can miss it.
    assert server.api("POST", "/api/drain", {"over": "20m"}).body == {"draining": True, "connections": CLIENTS}
    ready = server.api("GET", "/readyz")
    assert (ready.status, ready.body["reason"]) == (503, "draining")
    with RawSocket(server.port) as late:
        assert late.upgrade().status == 503
    assert server.api("DELETE", "/api/drain").body == {"draining": False}
    assert server.api("GET", "/readyz").status == 200
    gone = stayed = 0
    for number, client in enumerate(clients):
        try:
            client.ask({"type": "ping", "id": 3, "data": number})
            stayed += 1
        except (Closed, OSError):
            gone += 1
    assert gone + stayed == CLIENTS
    assert gone >= 1
    assert stayed >= 1
    with RawSocket(server.port) as late:
        late.upgrade()
        said = late.ask({"type": "auth", "id": 1, "data": {"token": server.token("late")}})
        assert said["type"] == "auth_success"
    for client in clients:
        client.close()
    assert server.terminate() == -signal.SIGTERM
    assert quiet(server.log)
