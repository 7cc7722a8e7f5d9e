"""autobahn_floor.py LISTEN...: the least that any server on Twisted and Autobahn does for a client that comes.

    accept -> upgrade, answered -> messages, each answered with octets that are ready

It is the server with all of its own taken out but what makes these two cheap: its listeners, its reader over Autobahn
(`AutobahnReader`), its way to read ordinary messages, and a write that goes straight to the socket. It knows no token,
no limit, no channel and no store. What it answers has the octets of the server's answers. What is posted to it is kept
in lists, and told to who subscribes with a position.
"""

from __future__ import annotations

import json
import re
import sys
from base64 import b64encode
from hashlib import sha1
from typing import Any

from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory

from pushserver.app.process import freeze_gc
from pushserver.app.workers.sockets import widen
from pushserver.protocols.rfc6455 import TEXT, take_messages, text
from pushserver.server.outbox import no_delay
from pushserver.web.autobahn_reader import AutobahnFactory, AutobahnReader
from pushserver.web.tls import endpoint

#: Octets of a client's message, and messages of one read, at most: as the server's.
MAX_MESSAGE = 65_536
AT_ONCE = 16

#: Who signs in, by the answers. Its number has as many digits as most of the clients have.
USER = "u1000"
EPOCH = "c9f00f77deffce5e"

KEY = re.compile(rb"\r\nSec-WebSocket-Key: (\S+)\r\n")
MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: %b\r\n\r\n"
)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


#: What whoever signs in is told, and the answer.
WELCOME = {
    "connectionId": "PIH8rxhZZHevdJny",
    "userId": USER,
    "permissions": [],
    "expiresAt": 1795867779000,
    "channels": ["system", f"user:{USER}"],
    "results": {},
    "heartbeat": {"interval": 25000, "timeout": 10000},
    "node": "vm-edd548",
    "inbox": {
        "offset": 0,
        "epoch": "bb38448b0c501058",
        "acked": 0,
        "pending": 0,
        "unread": {"notification": 0, "chat": 0, "task": 0},
    },
    "tasks": [],
}
AUTHENTICATED = text(compact({"type": "auth_success", "id": 1, "data": WELCOME}))


class Answers(dict[bytes, bytes]):
    """The answers to subscriptions, by what was said: all clients say the same, so each is made once."""

    def __init__(self) -> None:
        self.kept: dict[str, list[dict[str, Any]]] = {}

    def keep(self, channel: str, data: Any) -> dict[str, Any]:
        """Keep a publication; return its position."""
        self.clear()
        kept = self.kept.setdefault(channel, [])
        position = {"offset": len(kept) + 1, "epoch": EPOCH}
        told = {"timestamp": 1795831783453, "messageId": f"2086a4c274cb-{len(kept) + 3:x}", **position}
        kept.append({"type": "message", "channel": channel, "data": data, **told})
        return position

    def _result(self, wanted: Any) -> tuple[str, dict[str, Any]]:
        """Return the name of a channel that is subscribed, and what is told of it."""
        if isinstance(wanted, str):
            return wanted, {}
        channel, since = wanted["channel"], wanted["since"]["offset"]
        kept = self.kept.get(channel, [])
        return channel, {"recovered": True, "offset": len(kept), "epoch": EPOCH, "messages": kept[since:]}

    def __missing__(self, payload: bytes) -> bytes:
        asked = json.loads(payload)
        results = dict(map(self._result, asked["data"]["channels"]))
        channels = [*results, "system", f"user:{USER}"]
        data = {"channels": channels, "results": results, "rejected": {}}
        answer = self[payload] = text(compact({"type": "subscription_success", "id": asked["id"], "data": data}))
        return answer


class Door(AutobahnReader):
    """One connection, from when it was accepted."""

    transport: Any
    answers: Answers
    _head = b""
    _signed_in = False
    #: the socket did not take all of an answer: the transport has the rest, and what comes behind it
    _full = False

    def connectionMade(self) -> None:
        no_delay(self.transport)

    def dataReceived(self, data: bytes) -> None:
        if self.state == self.STATE_CONNECTING:
            self._begin(data)
            return
        at, end = 0, len(data)
        while at < end and not self.is_gone:
            payloads: list[bytes] = []
            if self.between_frames:
                payloads, at = take_messages(data, at, TEXT, MAX_MESSAGE, AT_ONCE)
            if payloads:
                self.write(b"".join([self._answer(payload) for payload in payloads]))
            else:
                at = self.read(data, at)

    def _begin(self, data: bytes) -> None:
        head = self._head + data
        if b"\r\n\r\n" not in head:
            self._head = head
        elif found := KEY.search(head):
            self.begin(None)
            self.write(ACCEPTED % b64encode(sha1(found[1] + MAGIC, usedforsecurity=False).digest()))
        else:
            self._publish(head)

    def _publish(self, request: bytes) -> None:
        asked = json.loads(request.partition(b"\r\n\r\n")[2])
        answer = compact(self.answers.keep(asked["channel"], asked["data"]))
        self.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer))

    def _answer(self, payload: bytes) -> bytes:
        if self._signed_in:
            return self.answers[payload]
        self._signed_in = True
        return AUTHENTICATED

    def write(self, octets: bytes) -> None:
        if self._full:
            self.transport.write(octets)
            return
        try:
            taken = self.transport.socket.send(octets)
        except OSError:
            taken = 0
        if taken < len(octets):
            self._full = True
            self.transport.write(octets[taken:])

    def finish(self) -> None:
        pass

    def on_message(self, payload: bytes, binary: bool) -> None:
        self.write(self._answer(payload))

    def on_ping(self, payload: bytes) -> None:
        self.sendPong(payload)

    def on_pong(self) -> None:
        pass

    def on_frame(self) -> None:
        pass

    def on_goodbye(self, code: int) -> None:
        pass

    def on_violation(self, code: int, reason: str) -> None:
        pass

    def on_close(self, code: int) -> None:
        pass


class Doors(Factory):
    noisy = False

    def __init__(self) -> None:
        self._door = AutobahnFactory(MAX_MESSAGE).kind(Door, answers=Answers())

    def buildProtocol(self, addr: IAddress | None) -> Door:
        door: Door = self._door()
        return door


def listen(reactor: Any, doors: Factory, descriptions: list[str]) -> None:
    """Open the doors at these endpoints, as the server opens its own."""
    for description in descriptions:
        endpoint(reactor, description).listen(doors).addCallback(widen, description)
    freeze_gc()


def main() -> None:
    from twisted.internet import reactor

    listen(reactor, Doors(), sys.argv[1:])
    reactor.run()


if __name__ == "__main__":
    main()
