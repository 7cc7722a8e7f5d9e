"""Keys behind a URL: fetched for all, kept while the provider is away."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable
from http.client import BadStatusLine, IncompleteRead
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from twisted.internet import task
from twisted.internet.defer import Deferred

from pushserver.core.errors import Unavailable
from pushserver.core.tokens import Keys
from pushserver.server.clock import Clock
from pushserver.server.jwks import COOLDOWN, MAX_AGE, MAX_SIZE, RETRY, KeySet, fetch

KEY = Ed25519PrivateKey.generate()


def document(*ids: str) -> bytes:
    keys = [json.loads(OKPAlgorithm.to_jwk(KEY.public_key())) | {"kid": id, "use": "sig"} for id in ids]
    return json.dumps({"keys": keys}).encode()


def token(key_id: str) -> str:
    return jwt.encode({"sub": "a"}, KEY, "EdDSA", headers={"kid": key_id})


class World:
    def __init__(self) -> None:
        self.clock = task.Clock()
        self.answers: list[Any] = []
        self.fetches = 0
        self.admission = threading.Event()
        self.admission.set()
        self.keys = KeySet("https://id.example/keys", Clock(self.clock), self.fetch)

    def fetch(self, url: str, seconds: Callable[[], float]) -> bytes:
        self.admission.wait(10)
        self.fetches += 1
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[no-any-return]

    def ask(self, key_id: str) -> Deferred[Any]:
        return Deferred.fromCoroutine(self.keys.keys_for(token(key_id), Keys()))


async def test_keys_are_fetched_once_and_used_by_all() -> None:
    world = World()
    world.answers = [document("1")]
    first, second = world.ask("1"), world.ask("1")
    assert (await first).candidates("EdDSA", "1")
    assert (await second).candidates("EdDSA", "1")
    assert world.fetches == 1


async def test_a_connection_that_leaves_takes_the_fetch_from_nobody() -> None:
    world = World()
    world.answers = [document("1")]
    world.admission.clear()
    leaver, stayer = world.ask("1"), world.ask("1")
    leaver.addErrback(lambda _: None)
    leaver.cancel()
    world.admission.set()
    assert (await stayer).candidates("EdDSA", "1")
    assert world.fetches == 1


async def test_an_unknown_key_id_asks_again_but_not_at_will() -> None:
    world = World()
    world.answers = [document("1"), document("1", "2")]
    await world.ask("1")
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.ask("2")
    assert world.fetches == 1
    world.clock.advance((COOLDOWN + 1) / 1000)
    assert (await world.ask("2")).candidates("EdDSA", "2")
    assert world.fetches == 2


async def test_a_fetch_that_began_before_a_token_came_makes_its_key_not_unknown() -> None:
    world = World()
    world.answers = [document("1"), document("1", "2")]
    world.admission.clear()
    first, newer = world.ask("1"), world.ask("2")
    world.admission.set()
    assert (await first).candidates("EdDSA", "1")
    # The provider may have been given the key after it had answered.
    with pytest.raises(Unavailable):
        await newer
    world.clock.advance((COOLDOWN + 1) / 1000)
    assert (await world.ask("2")).candidates("EdDSA", "2")
    assert world.fetches == 2


async def test_only_an_answer_of_the_provider_makes_a_key_unknown() -> None:
    world = World()
    world.answers = [document("1"), OSError("away"), document("1")]
    await world.ask("1")
    world.clock.advance((COOLDOWN + 1) / 1000)
    with pytest.raises(Unavailable):
        await world.ask("2")
    world.clock.advance((COOLDOWN + 1) / 1000)
    assert not (await world.ask("2")).candidates("EdDSA", "2")
    assert world.fetches == 3


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
async def test_for_a_token_that_no_public_key_verifies_nobody_is_asked(algorithm: str) -> None:
    world = World()
    made = jwt.encode({"sub": "a"}, "x" * 32 if algorithm == "HS256" else None, algorithm)
    found = await world.keys.keys_for(made, Keys())
    assert not found.candidates(algorithm, None)
    assert world.fetches == 0


async def test_while_no_key_is_held_the_provider_is_asked_again_soon() -> None:
    world = World()
    world.answers = [OSError("away"), document("1")]
    with pytest.raises(Unavailable):
        await world.ask("1")
    world.clock.advance((RETRY + 10) / 1000)
    assert (await world.ask("1")).candidates("EdDSA", "1")


async def test_old_keys_stay_in_use_while_newer_ones_cannot_be_had() -> None:
    world = World()
    world.answers = [document("1"), OSError("away"), b"nonsense"]
    await world.ask("1")
    for _ in range(2):
        world.clock.advance((MAX_AGE + COOLDOWN) / 1000)
        assert (await world.ask("1")).candidates("EdDSA", "1")
        waiting = world.keys._waiting
        if waiting is not None:
            await world.keys._refresh()
    assert world.fetches == 3


@pytest.mark.parametrize("problem", [OSError("away"), BadStatusLine("nonsense"), IncompleteRead(b"{")])
async def test_without_any_keys_nobody_gets_in(problem: Exception) -> None:
    world = World()
    world.answers = [problem]
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.ask("1")
    assert world.fetches == 1


async def test_a_configured_key_needs_no_fetch() -> None:
    world = World()
    hmac = "a secret of at least thirty-two bytes"
    keys = await world.keys.keys_for(jwt.encode({"sub": "a"}, hmac, "HS256"), Keys(hmac))
    assert keys.candidates("HS256", None)
    assert world.fetches == 0


def test_a_document_is_read_up_to_its_bound(tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    keys.write_bytes(document("1"))
    assert fetch(keys.as_uri(), lambda: 0.0) == document("1")
    keys.write_bytes(b" " * (MAX_SIZE + 1))
    with pytest.raises(ValueError, match="too large"):
        fetch(keys.as_uri(), lambda: 0.0)


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\n\r\n"], ids=["status", "head", "body"]
)
def test_an_answer_that_comes_byte_by_byte_has_one_time_limit(begun: bytes) -> None:
    def drip(listener: socket.socket) -> None:
        with listener.accept()[0] as connection:
            connection.sendall(begun)
            try:
                while True:
                    connection.sendall(b"H")
            except OSError:
                # It was given up.
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        provider = threading.Thread(target=drip, args=[listener])
        provider.start()
        with pytest.raises(OSError, match="no whole answer within 10 s"):
            # Each look at the clock finds it three seconds later.
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/keys", itertools.count(step=3).__next__)
        provider.join(30)
    assert not provider.is_alive()


async def test_a_key_set_of_the_wrong_shape_lets_nobody_in() -> None:
    world = World()
    world.answers = [b'{"keys": 1}']
    with pytest.raises(Unavailable):
        await world.ask("1")
