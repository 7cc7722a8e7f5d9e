"""Tickets: a secret of their own, and nothing in them but who, which channels, and until when."""

from __future__ import annotations

import jwt
import pytest

from pushserver.core.errors import Code, Invalid, Refused
from pushserver.web.tickets import AUDIENCE, Tickets

SECRET = bytes(range(32))
NOW = 1_700_000_000_000
HOUR = 3_600_000


@pytest.fixture
def tickets() -> Tickets:
    return Tickets(SECRET, HOUR)


def signed(secret: bytes = SECRET, **claims: object) -> str:
    usual = {"sub": "ann", "iat": NOW // 1000, "exp": NOW // 1000 + 60, "aud": AUDIENCE, "channels": ["news:*"]}
    return jwt.encode({k: v for k, v in (usual | claims).items() if v is not None}, secret, "HS256")


def test_a_ticket_is_its_user_with_its_channels_and_nothing_else(tickets: Tickets) -> None:
    ticket, ends = tickets.issue("ann", ["news:*"], 60_000, NOW)
    identity = tickets.read(ticket, NOW)
    assert (identity.user_id, identity.expires_at) == ("ann", ends)
    assert identity.grants.subscribe("news:a")
    assert not identity.grants.subscribe("other:a")
    for refused in (identity.grants.publish, identity.grants.history, identity.grants.presence):
        assert not refused("news:a")
    claims = jwt.decode(ticket, SECRET, ["HS256"], audience=AUDIENCE, options={"verify_exp": False})
    assert set(claims) == {"sub", "iat", "exp", "aud", "channels"}


@pytest.mark.parametrize("secret", [(), b"", "", b"short", "x" * 64, None])
def test_without_a_real_secret_there_are_no_tickets(secret: object) -> None:
    with pytest.raises(ValueError, match="at least 32 bytes"):
        Tickets(secret, HOUR)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "claims",
    [
        {"permissions": ["admin"]},
        {"roles": ["editor"]},
        {"role": "editor"},
        {"info": {"name": "x"}},
        {"jti": "one"},
        {"aud": None},
        {"aud": "somebody else"},
        {"channels": "news:*"},
        {"iat": None},
    ],
)
def test_what_says_more_or_less_is_no_ticket_though_signed(tickets: Tickets, claims: dict[str, object]) -> None:
    with pytest.raises(Refused) as refused:
        tickets.read(signed(**claims), NOW)
    assert refused.value.code is Code.INVALID_TOKEN
    assert tickets.read(signed(), NOW).user_id == "ann"


def test_a_ticket_ends_and_another_secret_opens_nothing(tickets: Tickets) -> None:
    with pytest.raises(Refused) as refused:
        tickets.read(signed(), NOW + 120_000)
    assert refused.value.code is Code.TOKEN_EXPIRED
    with pytest.raises(Refused):
        tickets.read(signed(bytes(32)), NOW)


def test_a_ticket_lives_at_least_a_second_and_no_longer_than_a_token(tickets: Tickets) -> None:
    for ttl in (999, HOUR + 1):
        with pytest.raises(Invalid):
            tickets.issue("ann", [], ttl, NOW)
