"""A token for one channel, as a client keeps it: given once, or asked for anew before it ends.

    WANTED --ask--> ASKED --token--> HELD --due--> ASKED
      ^               |                |
      +--- RETRY -----+ failed         + spent: the server says that it has ended --> WANTED

Times are milliseconds of the core's clock, but `ends_at`, which is the server's.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import Struct

from pushserver.client.session import renewal

#: The server's word for a token that has ended.
EXPIRED_TOKEN: Final = "TOKEN_EXPIRED"

#: Milliseconds for which a token is new.
_NEW: Final = 2_000

#: What is asked for a token: a function of the application's, which the shell calls.
TokenFunction = Callable[[], Any]


class _TokenClaims(Struct, frozen=True):
    exp: int | float | None = None


_CLAIMS: Final = msgspec.json.Decoder(_TokenClaims)


def end_of_token(token: str) -> int | None:
    """Return when a token ends, in milliseconds since the epoch; None where it does not say.

    Nothing is verified here: that is the server's part.
    """
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = _CLAIMS.decode(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return None if claims.exp is None else int(claims.exp * 1000)
    except (ValueError, OverflowError, RecursionError):
        return None


class KeptToken:
    """What one channel is subscribed with. `given` is a token, or a function that returns one."""

    __slots__ = ("_taken_at", "accepted", "asked_until", "ends_at", "function", "retry_at", "text")

    def __init__(self, given: str | TokenFunction) -> None:
        self.function: TokenFunction | None = None
        self.text: str | None = None
        #: the server has taken the present one
        self.accepted = False
        self.ends_at: int | None = None
        #: when the token function is given up; None while it is not asked
        self.asked_until: int | None = None
        #: when it is asked again after it gave nothing
        self.retry_at: int | None = None
        self._taken_at = 0
        if callable(given):
            self.function = given
        elif isinstance(given, str) and given:
            self.text = given
        else:
            raise ValueError("a channel's token is text that is not empty, or a function that returns it")

    def take(self, text: str, now: int) -> None:
        """The function gave a token."""
        self.text = text
        self.accepted = False
        self.ends_at = end_of_token(text)
        self.asked_until = self.retry_at = None
        self._taken_at = now

    def fail(self, retry_at: int) -> None:
        """The function gave none; it is asked again."""
        self.asked_until = None
        self.retry_at = retry_at

    def spend(self, now: int) -> bool:
        """The server says that the token has ended. Return whether another can be had.

        A function whose tokens have ended when they come would be asked for ever, so it is asked no more.
        """
        if self.function is None or not (self.accepted or self._is_old(now)):
            return False
        self.text = None
        return True

    def is_wanted(self, now: int, server_ahead: int) -> bool:
        """Return whether there is nothing to subscribe with, and a function to ask."""
        if self.function is None:
            return False
        ended = self.ends_at is not None and now + server_ahead >= self.ends_at
        return self.text is None or (ended and self._is_old(now))

    def _is_old(self, now: int) -> bool:
        """Return whether the token came a while ago. The server alone says of a new one that it has ended."""
        return now - self._taken_at > _NEW

    def due(self, server_ahead: int) -> int | None:
        """Return when something is to be done about it: ask the function, ask it again, or give it up."""
        if self.function is None:
            return None
        if self.asked_until is not None:
            return self.asked_until
        if self.retry_at is not None:
            return self.retry_at
        if self.text is None or self.ends_at is None:
            return None
        return renewal(self._taken_at, self.ends_at - server_ahead)
