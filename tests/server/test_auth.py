"""From a token to an identity that still holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jwt
import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred, succeed

from pushserver.core.errors import Code, Refused
from pushserver.core.tokens import Keys, TokenRules
from pushserver.server.auth import Authenticator
from pushserver.server.clock import Clock
from pushserver.server.jwks import KeySet
from tests.fakes import SECRET, Rig
from tests.server.test_jwks import KEY, document


async def test_a_token_is_verified_and_asked_about(tmp_path: Any) -> None:
    rig = await Rig(tmp_path).start()
    try:
        reply = await rig.connect().ask("auth", token=rig.token("ann", exp=int(rig.clock.seconds()) - 60))
        assert reply["data"]["code"] == "TOKEN_EXPIRED"
        reply = await rig.connect().ask("auth", token=jwt.encode({"sub": "a", "exp": 1}, "x" * 40, "HS256"))
        assert reply["data"]["code"] == "INVALID_TOKEN"
        reply = await rig.connect().ask("auth", token="x" * 60_000)
        assert reply["data"]["code"] == "INVALID_TOKEN"
    finally:
        await rig.stop()


async def test_word_that_comes_while_the_engine_is_asked_counts() -> None:
    answer: Deferred[list[bool]] = Deferred()
    answers = [answer, succeed([False]), succeed([True])]
    revocations: Any = type("Revocations", (), {"revoked": staticmethod(lambda credentials: answers.pop(0))})()
    rules: Any = None
    authenticator = Authenticator(Keys(SECRET), rules, None, revocations, Clock(task.Clock()))
    identity: Any = type("Identity", (), {"user_id": "ann", "jti": "j", "issued_at": 1})()
    checking = Deferred.fromCoroutine(authenticator.check(identity))
    authenticator.revoked(lambda one: one.jti == "another")
    authenticator.revoked(lambda one: one.jti == "j")
    answer.callback([False])
    with pytest.raises(Refused) as refused:
        await checking
    assert refused.value.code is Code.TOKEN_BLACKLISTED
    authenticator.revoked(lambda one: True)
    await authenticator.check(identity)
    with pytest.raises(Refused):
        await authenticator.check(identity)


async def test_a_provider_takes_the_place_of_a_secret_and_gives_it_back() -> None:
    clock = Clock(task.Clock(), lambda: 0)
    answers = [document("1")]

    def fetch(url: str, seconds: Callable[[], float]) -> bytes:
        return answers.pop()

    def rules(algorithm: str) -> TokenRules:
        return TokenRules(algorithms=frozenset({algorithm}))

    def provider(url: str = "https://id.example/keys") -> KeySet:
        return KeySet(url, clock, fetch)

    claims = {"sub": "ann", "exp": 60}
    signed = jwt.encode(claims, SECRET, "HS256")
    issued = jwt.encode(claims, KEY, "EdDSA", headers={"kid": "1"})
    secret = Keys([SECRET.encode()])
    authenticator = Authenticator(secret, rules("HS256"), None, Any, clock)
    assert (await authenticator.identify(signed)).user_id == "ann"

    authenticator.adopt(Keys(), rules("EdDSA"), provider())
    assert (await authenticator.identify(issued)).user_id == "ann"
    with pytest.raises(Refused):
        await authenticator.identify(signed)
    # Another reload that leaves the address as it is: what was fetched stays.
    authenticator.adopt(Keys(), rules("EdDSA"), provider())
    assert (await authenticator.identify(issued)).user_id == "ann"
    answers.append(document("2"))
    authenticator.adopt(Keys(), rules("EdDSA"), provider("https://other.example/keys"))
    with pytest.raises(Refused):
        await authenticator.identify(issued)

    authenticator.adopt(secret, rules("HS256"), None)
    assert (await authenticator.identify(signed)).user_id == "ann"
    with pytest.raises(Refused):
        await authenticator.identify(issued)
