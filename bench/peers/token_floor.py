"""token_floor.py LISTEN...: `autobahn_floor.py` with all that a path names, and nothing of how the server does it.

    accept -> upgrade -> token (PyJWT, HS256) -> who it is, remembered -> channels, followed -> what was missed, told

Each client's token is checked and each of its messages read by itself. Who follows a channel is in a dictionary, which
is who is present there, too, and is sent what is published. A page of what was missed is encoded once for all who miss
the same. There are no limits, permissions, revocations, inboxes, heartbeats, statistics, and nothing is on a disk.
"""

from __future__ import annotations

import sys
from secrets import token_urlsafe
from typing import Any

import jwt
import msgspec
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from bench.peers.autobahn_floor import EPOCH, MAX_MESSAGE, WELCOME, Answers, Door, Doors, listen
from bench.servers import SECRET
from pushserver.protocols.rfc6455 import text
from pushserver.web.autobahn_reader import AutobahnFactory

encode = msgspec.json.encode
decode = msgspec.json.decode


class Rooms(Answers):
    """What is kept, and who follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[str, set[SigningDoor]] = {}
        self.followers: dict[str, dict[SigningDoor, None]] = {}
        self._pages: dict[tuple[str, int], msgspec.Raw] = {}

    def keep(self, channel: str, data: Any) -> dict[str, Any]:
        """Keep a publication, and send it to who follows; return its position."""
        position = super().keep(channel, data)
        self._pages.clear()
        followers = self.followers.get(channel)
        if followers:
            frame = text(encode(self.kept[channel][-1]))
            for door in followers:
                door.write(frame)
        return position

    def follow(self, door: SigningDoor, wanted: Any) -> tuple[str, dict[str, Any]]:
        """Follow a channel; return its name, and what is told of it."""
        since = None if isinstance(wanted, str) else wanted["since"]["offset"]
        name = wanted if isinstance(wanted, str) else wanted["channel"]
        self.followers.setdefault(name, {})[door] = None
        door.channels.append(name)
        kept = self.kept.get(name)
        if kept is None:
            return name, {}
        if since is None:
            return name, {"recovered": False, "offset": len(kept), "epoch": EPOCH}
        page = self._pages.get((name, since))
        if page is None:
            page = self._pages[name, since] = msgspec.Raw(encode(kept[since:]))
        return name, {"recovered": True, "offset": len(kept), "epoch": EPOCH, "messages": page}

    def leave(self, door: SigningDoor) -> None:
        for name in door.channels:
            del self.followers[name][door]
        if door.user in self.users:
            self.users[door.user].discard(door)


class SigningDoor(Door):
    """One connection, which belongs to whom its token names."""

    answers: Rooms
    user = ""

    def connectionMade(self) -> None:
        super().connectionMade()
        self.channels: list[str] = []

    def _answer(self, payload: bytes) -> bytes:
        asked = decode(payload)
        told = self._subscribed(asked["data"]["channels"]) if self.user else self._sign_in(asked["data"]["token"])
        return text(encode({"type": told[0], "id": asked["id"], "data": told[1]}))

    def _sign_in(self, token: str) -> tuple[str, dict[str, Any]]:
        claims = jwt.decode(token, SECRET, ["HS256"])
        self.user = claims["sub"]
        self.answers.users.setdefault(self.user, set()).add(self)
        channels = ["system", f"user:{self.user}"]
        for name in channels:
            self.answers.follow(self, name)
        own = {"connectionId": token_urlsafe(12), "userId": self.user, "expiresAt": claims["exp"] * 1000}
        return "auth_success", WELCOME | own | {"channels": channels}

    def _subscribed(self, wanted: list[Any]) -> tuple[str, dict[str, Any]]:
        results = dict([self.answers.follow(self, each) for each in wanted])
        return "subscription_success", {"channels": sorted(self.channels), "results": results, "rejected": {}}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.answers.leave(self)
        super().connectionLost(reason)


class SigningDoors(Doors):
    def __init__(self) -> None:
        self._door = AutobahnFactory(MAX_MESSAGE).kind(SigningDoor, answers=Rooms())


def main() -> None:
    from twisted.internet import reactor

    listen(reactor, SigningDoors(), sys.argv[1:])
    reactor.run()


if __name__ == "__main__":
    main()
