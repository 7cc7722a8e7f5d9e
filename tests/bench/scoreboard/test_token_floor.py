"""What is taken to be the least with tokens checks them, and sends who follows what is published."""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from twisted.internet.error import ConnectionDone
from twisted.python.failure import Failure

from bench.peers.token_floor import SigningDoor, SigningDoors
from bench.servers import masked, token

from .test_autobahn_floor import UPGRADE, Visit, post, subscribe, told


@pytest.fixture
def doors() -> SigningDoors:
    return SigningDoors()


def auth(shown: str) -> bytes:
    return masked(json.dumps({"type": "auth", "id": 1, "data": {"token": shown}}).encode())


def signed_in(doors: SigningDoors, user: str) -> Visit:
    visit = Visit(doors)
    visit.sent(UPGRADE)
    assert told(visit.sent(auth(token(user))))["data"]["userId"] == user
    return visit


def rooms(visit: Visit) -> Any:
    assert isinstance(visit.door, SigningDoor)
    return visit.door.answers


def test_a_token_of_somebody_else_is_refused(doors: SigningDoors) -> None:
    visit = Visit(doors)
    visit.sent(UPGRADE)
    with pytest.raises(jwt.InvalidSignatureError):
        visit.sent(auth(jwt.encode({"sub": "u7"}, "another secret, of thirty-two octets", "HS256")))
    assert rooms(visit).users == {}


def test_who_follows_is_sent_what_is_published(doors: SigningDoors) -> None:
    publisher, follower, other = Visit(doors), signed_in(doors, "u7"), signed_in(doors, "u8")
    follower.sent(subscribe("log:a"))
    before = len(follower.answered), len(other.answered)
    publisher.sent(post("log:a", "5"))
    assert told(follower.answered[before[0] :])["data"] == {"sent": "5"}
    assert len(other.answered) == before[1]


def test_what_was_missed_is_told_to_each_with_a_number_of_its_own(doors: SigningDoors) -> None:
    publisher = Visit(doors)
    positions = [json.loads(publisher.sent(post("log:a", str(n))).split(b"\r\n\r\n")[1]) for n in range(3)]
    for number in (2, 3):
        visit = signed_in(doors, f"u{number}")
        answer = told(visit.sent(subscribe({"channel": "log:a", "since": positions[0]}, "public:b", number=number)))
        results = answer["data"]["results"]
        assert (answer["id"], results["public:b"]) == (number, {})
        assert [message["data"]["sent"] for message in results["log:a"]["messages"]] == ["1", "2"]


def test_who_left_is_sent_nothing(doors: SigningDoors) -> None:
    publisher, follower = Visit(doors), signed_in(doors, "u7")
    follower.sent(subscribe("log:a"))
    follower.door.connectionLost(Failure(ConnectionDone()))
    before = len(follower.answered)
    publisher.sent(post("log:a", "5"))
    assert len(follower.answered) == before
    assert rooms(follower).users == {"u7": set()}
