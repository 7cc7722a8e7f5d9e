"""Webhooks: where events are sent, how they are signed, and when one that failed is sent again. Pure.

Signatures and headers are those of Standard Webhooks (https://www.standardwebhooks.com), symmetric, version ``v1``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote, urlsplit

import msgspec

#: What a secret begins with; base64 of `SECRET_BYTES` follows.
PREFIX: Final = "whsec_"
SECRET_BYTES: Final = range(24, 65)

#: ms until an event is sent again, by how often it failed; the last one stands for all that follow.
DELAYS: Final = (5_000, 30_000, 120_000, 600_000, 1_800_000, 3_600_000)
#: By which part a delay may be shorter or longer, so that what failed together does not come again together.
SPREAD: Final = 0.2


class Webhook(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver of events.

    Attributes:
        secrets: keys; each of them signs.
        types: what it is sent.
        timeout: ms for one attempt, from the name's resolution to the end of the answer.
    """

    name: str
    url: str
    secrets: tuple[bytes, ...]
    types: frozenset[str]
    timeout: int

    @property
    def address(self) -> str:
        """Return what stands for the URL where that is kept: it may hold a password."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        # Never the secrets, and an address may hold a password.
        return f"<Webhook {self.name}>"


def key_of(secret: str) -> bytes:
    """Return the key that a secret stands for. Raises ValueError, whose text does not hold it."""
    if not secret.startswith(PREFIX):
        raise ValueError(f"a secret begins with {PREFIX}")
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"base64 follows {PREFIX}") from None
    if len(key) not in SECRET_BYTES:
        raise ValueError(f"a secret has {SECRET_BYTES.start} to {SECRET_BYTES.stop - 1} bytes, this one {len(key)}")
    return key


def headers(event_id: str, body: bytes, seconds: int, secrets: Iterable[bytes]) -> dict[str, str]:
    """Return what an attempt's request says of itself: id, time (s since the epoch), and a signature of each secret."""
    content = b"%s.%d.%s" % (event_id.encode(), seconds, body)
    signatures = (base64.b64encode(hmac.digest(secret, content, "sha256")).decode() for secret in secrets)
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(seconds),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }


def split_credentials(url: str) -> tuple[str, str | None]:
    """Return a URL without its user and password, and the ``Authorization`` that these stand for (RFC 7617), if any."""
    parts = urlsplit(url)
    credentials, has_credentials, host = parts.netloc.rpartition("@")
    if not has_credentials:
        return url, None
    user, _, password = credentials.partition(":")
    pair = f"{unquote(user)}:{unquote(password)}".encode()
    return parts._replace(netloc=host).geturl(), f"Basic {base64.b64encode(pair).decode()}"


def delay(failures: int, retry_after: int | None, chance: float) -> int:
    """Return ms until an event is sent again that failed so often (from 1).

    ``retry_after``: ms that the receiver asked for, which is the least. ``chance``: from 0 to 1.
    """
    usual = DELAYS[min(failures, len(DELAYS)) - 1]
    spread = round(usual * (1 + SPREAD * (2 * chance - 1)))
    return spread if retry_after is None else max(spread, retry_after)
