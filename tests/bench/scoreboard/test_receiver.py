"""The receiver of events: it counts each event once, and says when they have come."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from bench.scoreboard.receiver import ANSWER, Receiver
from bench.servers import NotAvailable


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def event(name: bytes) -> bytes:
    return b"POST / HTTP/1.1\r\nHost: a\r\nWebhook-Id: %b\r\nContent-Length: 2\r\n\r\n{}" % name


def test_each_event_counts_once_until_the_reset(receiver: Receiver) -> None:
    with socket.create_connection(("127.0.0.1", receiver.port)) as connection:
        connection.sendall(event(b"a") + event(b"b")[:30])
        connection.sendall(event(b"b")[30:] + event(b"a"))
        answers = b""
        while len(answers) < 3 * len(ANSWER):
            answers += connection.recv(1000)
        assert answers == 3 * ANSWER
        assert receiver.wait(2) > 0
        receiver.reset()
        with pytest.raises(NotAvailable, match="0 events came, not 1"):
            receiver.wait(1, timeout=1)
        connection.sendall(event(b"a"))
        receiver.wait(1)


def test_a_receiver_that_ended_is_said(receiver: Receiver) -> None:
    receiver.close()
    with pytest.raises(NotAvailable, match="the receiver of events ended"):
        receiver._said()
