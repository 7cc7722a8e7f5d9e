"""Tickets: what opens an event stream where no header can be sent.

    POST /api/tickets  ->  a ticket: one user, some channels, an end  ->  GET /sse?ticket=

A ticket is a JWT with a secret and an audience of its own: no token is a ticket, and no ticket a token. It says who and
which channels, and grants ``subscribe:`` of these alone.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
from twisted.web.server import Request

from pushserver.core import tokens
from pushserver.core.errors import Code, Invalid, Refused
from pushserver.core.tokens import Identity, Keys, TokenRules
from pushserver.server.backend_commands import Duration, Id, decode, duration, id_of

#: Who a ticket is for, as its ``aud`` says.
AUDIENCE: Final = "pushserver:ticket"
#: How long a ticket holds where nobody says, ms.
TTL: Final = 10 * 60 * 1000
#: The fewest bytes of the secret.
SHORTEST_SECRET: Final = 32


class _Claims(msgspec.Struct, forbid_unknown_fields=True):
    """All that a ticket says. What says more was never a ticket, whoever signed it."""

    sub: str
    iat: int
    exp: int
    aud: str
    channels: list[str] = []


class Tickets:
    """Makes and reads tickets.

    Args:
        secret: at least 32 random bytes that all nodes know and that nothing else is made from.
        max_lifetime: ms.

    Raises ValueError for a secret that is missing or too short.
    """

    def __init__(self, secret: bytes, max_lifetime: int) -> None:
        if not isinstance(secret, bytes) or len(secret) < SHORTEST_SECRET:
            raise ValueError(f"the tickets' secret must be at least {SHORTEST_SECRET} bytes")
        self._secret = secret
        self._keys = Keys(secret)
        self._rules = TokenRules(algorithms=frozenset({"HS256"}), audience=AUDIENCE, max_token_lifetime=max_lifetime)
        self._max_lifetime = max_lifetime

    def issue(self, user_id: str, channels: Sequence[str], ttl: int, now: int) -> tuple[str, int]:
        """Return a ticket and its end, ms since the epoch. ``ttl`` is in ms. Raises `errors.Invalid`."""
        if ttl < 1000:
            # Tokens end at whole seconds: this one might have ended before it is used.
            raise Invalid("ttl is shorter than a second")
        if ttl > self._max_lifetime:
            raise Invalid("ttl is longer than a token may live")
        ticket = tokens.issue(self._secret, user_id, now, ttl, channels=channels, audience=AUDIENCE)
        return ticket, (now + ttl) // 1000 * 1000

    def sign(self, octets: bytes) -> bytes:
        """Return what proves of these octets that a node of ours made it. No ticket proves anything of them: what is
        signed of one begins with no zero."""
        return hmac.digest(self._secret, b"\0" + octets, "sha256")

    def read(self, ticket: str, now: int) -> Identity:
        """Return who the ticket is for. Raises as `tokens.verify`."""
        identity = tokens.verify(ticket, self._keys, self._rules, now)
        segment = ticket.split(".")[1]
        try:
            msgspec.json.decode(urlsafe_b64decode(segment + "=" * (-len(segment) % 4)), type=_Claims)
        except msgspec.MsgspecError:
            raise Refused("invalid token: not a ticket", Code.INVALID_TOKEN) from None
        return identity


class TicketParams(msgspec.Struct, frozen=True, rename="camel"):
    """The body of ``POST /api/tickets``."""

    user_id: Id
    channels: list[str]
    ttl: Duration | None = None


def issuer(
    tickets: Callable[[], Awaitable[Tickets]], now: Callable[[], int]
) -> Callable[[Request, list[str]], Awaitable[dict[str, Any]]]:
    """Return what answers ``POST /api/tickets``."""

    async def issue(request: Request, _: list[str]) -> dict[str, Any]:
        assert request.content is not None
        asked = decode(request.content.read() or b"{}", TicketParams)
        ttl = TTL if asked.ttl is None else duration(asked.ttl)
        user_id = id_of(asked.user_id, "userId")
        ticket, expires_at = (await tickets()).issue(user_id, asked.channels, ttl, now())
        return {"ticket": ticket, "expiresAt": expires_at}

    return issue
