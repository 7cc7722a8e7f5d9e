"""What a publisher can be told went wrong.

PublishError               code, message, retry_after
 +-- PublishRefused        the server said no: repeating the same fails again
 |                         (HTTP_403 and the like: something before the server said no; REDIS_ERROR: Redis did)
 +-- PublishUnavailable    no answer, or "not now": repeating with the same message id is safe
TaskCancelled              the owner asked to cancel; raised by `Task.raise_if_cancelled`
"""

from __future__ import annotations

from typing import Final


class PublishError(Exception):
    """A call came to nothing; `code` is the server's, or UNAVAILABLE where it did not answer."""

    def __init__(self, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        #: milliseconds after which trying again makes sense, where the server said so
        self.retry_after = retry_after
        #: of an append to an output: the number that the server expects of its producer, where that is what is wrong
        self.expected: int | None = None

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions cross processes, in a pool for one, by what their class is called with.
        return _again, (type(self), self.code, self.message, self.retry_after)


class PublishRefused(PublishError):
    """The server said no."""


class PublishUnavailable(PublishError):
    """The server, or Redis, cannot be reached or cannot answer now."""

    def __init__(self, message: str, code: str = "UNAVAILABLE", retry_after: int | None = None) -> None:
        super().__init__(code, message, retry_after)


class TaskCancelled(Exception):
    """The task's owner asked to cancel it."""


#: Refusals that pass: the same command may be accepted later.
PASSING: Final = frozenset({"UNAVAILABLE", "RATE_LIMITED", "INTERNAL_ERROR"})
#: Before a status that came without an error of our API: a proxy's answer, or another server's.
FOREIGN: Final = "HTTP_"
#: Redis took nothing, and will not until somebody changes something there.
REDIS_ERROR: Final = "REDIS_ERROR"
_TOO_LARGE: Final = frozenset({"MESSAGE_TOO_LARGE", FOREIGN + "413"})


def is_final(error: PublishError) -> bool:
    """Whether this is the push server's word, and its last."""
    return error.code not in PASSING and error.code != REDIS_ERROR and not error.code.startswith(FOREIGN)


def too_large(error: PublishError) -> bool:
    return error.code in _TOO_LARGE


def from_reply(error: dict[str, object]) -> PublishError:
    """Return the exception for an `error` object of the API."""
    code, message = str(error.get("code", "INTERNAL_ERROR")), str(error.get("message", ""))
    retry_after = error.get("retryAfter")
    after = retry_after if isinstance(retry_after, int) else None
    if code in PASSING:
        return PublishUnavailable(message, code, after)
    refused = PublishRefused(code, message, after)
    if isinstance(expected := error.get("expected"), int):
        refused.expected = expected
    return refused


def _again(kind: type[PublishError], code: str, message: str, retry_after: int | None) -> PublishError:
    if issubclass(kind, PublishUnavailable):
        return kind(message, code, retry_after)
    return kind(code, message, retry_after)
