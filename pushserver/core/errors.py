"""What can go wrong, as data: error codes, close codes, and one tree of exceptions.

    PushError                    carries a code of the public protocol and a sentence for the caller
     +-- CallerError             the caller's mistake: repeating the same request fails again
     |    +-- Invalid            INVALID_MESSAGE: the shape or a value is wrong
     |    +-- Refused            a rule says no: permission, limits, an unknown channel, a bad token
     |    |    +-- TokenRefused  a token is not taken: its signature does not hold, it has ended, or was revoked
     |    +-- NotFound           NOT_FOUND
     |    +-- Conflict           CONFLICT: the thing is not in the state that the request presumes
     +-- Unavailable             UNAVAILABLE: the engine cannot answer now; the same request may work later

``ConfigError`` stands apart: it ends the start of the process, in one line, and never reaches a client.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Code(StrEnum):
    """The error codes of the WebSocket protocol and the HTTP API."""

    INVALID_MESSAGE = "INVALID_MESSAGE"
    UNKNOWN_MESSAGE_TYPE = "UNKNOWN_MESSAGE_TYPE"
    MESSAGE_TOO_LARGE = "MESSAGE_TOO_LARGE"
    NOT_AUTHENTICATED = "NOT_AUTHENTICATED"
    MISSING_TOKEN = "MISSING_TOKEN"
    INVALID_TOKEN = "INVALID_TOKEN"
    TOKEN_EXPIRED = "TOKEN_EXPIRED"
    TOKEN_BLACKLISTED = "TOKEN_BLACKLISTED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNKNOWN_CHANNEL = "UNKNOWN_CHANNEL"
    INVALID_CHANNEL = "INVALID_CHANNEL"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    RATE_LIMITED = "RATE_LIMITED"
    NOT_FOUND = "NOT_FOUND"
    CONFLICT = "CONFLICT"
    UNAVAILABLE = "UNAVAILABLE"
    INTERNAL_ERROR = "INTERNAL_ERROR"


#: What fails on the server's side, whatever a client does: it is held against nobody.
SERVER_FAILURES: Final = frozenset({Code.UNAVAILABLE, Code.INTERNAL_ERROR})

#: The HTTP status that says the same as an error code.
HTTP_STATUS: Final[dict[Code, int]] = {
    Code.INVALID_MESSAGE: 400,
    Code.UNKNOWN_MESSAGE_TYPE: 400,
    Code.MESSAGE_TOO_LARGE: 413,
    Code.NOT_AUTHENTICATED: 401,
    Code.MISSING_TOKEN: 401,
    Code.INVALID_TOKEN: 401,
    Code.TOKEN_EXPIRED: 401,
    Code.TOKEN_BLACKLISTED: 401,
    Code.PERMISSION_DENIED: 403,
    Code.UNKNOWN_CHANNEL: 404,
    Code.INVALID_CHANNEL: 400,
    Code.LIMIT_EXCEEDED: 429,
    Code.RATE_LIMITED: 429,
    Code.NOT_FOUND: 404,
    Code.CONFLICT: 409,
    Code.UNAVAILABLE: 503,
    Code.INTERNAL_ERROR: 500,
}


class Close(NamedTuple):
    """A WebSocket close: its code and the reason that goes with it.

    The code alone says whether to come back: below 3000 as in RFC 6455 section 7.4, 3000 to 3499 reconnect with
    backoff, 3500 to 3999 do not.
    """

    code: int
    reason: str

    @property
    def reconnect(self) -> bool:
        return 3000 <= self.code < 3500


NORMAL: Final = Close(1000, "")
PROTOCOL_ERROR: Final = Close(1002, "protocol error")
INVALID_PAYLOAD: Final = Close(1007, "invalid UTF-8")
MESSAGE_TOO_BIG: Final = Close(1009, "message too big")

CONNECTION_CLOSED: Final = Close(3000, "connection closed")
SHUTDOWN: Final = Close(3001, "shutdown")
INTERNAL: Final = Close(3004, "internal error")
EXPIRED: Final = Close(3005, "token expired")
SLOW: Final = Close(3008, "slow consumer")
RECONNECT: Final = Close(3011, "reconnect")
NO_HEARTBEAT: Final = Close(3012, "no heartbeat")
TOO_MANY_REQUESTS: Final = Close(3013, "too many requests")

INVALID_TOKEN: Final = Close(3500, "invalid token")
BAD_REQUEST: Final = Close(3501, "bad request")
NOT_AUTHENTICATED: Final = Close(3502, "not authenticated in time")
DISCONNECTED: Final = Close(3503, "disconnected by the server")
CONNECTION_LIMIT: Final = Close(3504, "connection limit")
PERMISSION_DENIED: Final = Close(3507, "permission denied")
TOO_MANY_ERRORS: Final = Close(3509, "too many errors")


class PushError(Exception):
    """Something that a caller is told: a `Code` and one sentence."""

    default_code: Code = Code.INTERNAL_ERROR

    def __init__(self, message: str, code: Code | None = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code if code is not None else self.default_code
        #: milliseconds after which trying again makes sense, where that is known
        self.retry_after = retry_after


class CallerError(PushError):
    """The caller's mistake."""

    default_code = Code.INVALID_MESSAGE


class Invalid(CallerError):
    """A shape or a value is wrong."""


class Refused(CallerError):
    """A rule says no; the code says which."""

    default_code = Code.PERMISSION_DENIED


class TokenRefused(Refused):
    """A token is not taken.

    Attributes:
        user_id: whose it says it is, where it says so.
        verified: whether its signature holds; else anybody may have made it.
    """

    def __init__(self, message: str, code: Code, user_id: str | None, verified: bool = True) -> None:
        super().__init__(message, code)
        self.user_id = user_id
        self.verified = verified


class NotFound(CallerError):
    default_code = Code.NOT_FOUND


class Conflict(CallerError):
    default_code = Code.CONFLICT


class Unavailable(PushError):
    """The engine cannot answer now; nothing is known to have happened, and trying again is right."""

    default_code = Code.UNAVAILABLE


class ConfigError(Exception):
    """A mistake in the configuration: one line that names the source, the key, the value and what was expected."""
