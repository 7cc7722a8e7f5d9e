"""What a client can be told went wrong.

ClientError
 +-- RequestFailed       the server answered with an error: code, message, retry_after
 +-- RequestTimeout      no answer in time, over as many connections as that took
 +-- QueueFull           too much waits already while there is no connection
 +-- SubscriptionEnded   the server ended or refused a subscription
 +-- ClientClosed        the client was closed here
 +-- Disconnected        the server said not to come back: close code and reason
      +-- AuthFailed     because of the token
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of everything that the client raises."""


class RequestFailed(ClientError):
    """The server answered a request with an error."""

    def __init__(self, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        #: milliseconds after which trying again makes sense, where the server said so
        self.retry_after = retry_after


class RequestTimeout(ClientError):
    """No answer came in time. A publication may have happened; its `messageId` makes a repeat harmless."""


class QueueFull(ClientError):
    """The bounded queue of what waits for a connection is full."""


class SubscriptionEnded(ClientError):
    """The server ended a subscription, or refused it."""

    def __init__(self, channel: str, code: str, reason: str) -> None:
        super().__init__(f"{channel}: {code}: {reason}")
        self.channel = channel
        self.code = code
        self.reason = reason


class ClientClosed(ClientError):
    """The client was closed while this was waiting, or before it was asked."""


class Disconnected(ClientError):
    """The connection ended in a way that forbids coming back."""

    def __init__(self, code: int | None, reason: str) -> None:
        super().__init__(f"{code}: {reason}" if code is not None else reason)
        self.code = code
        self.reason = reason


class AuthFailed(Disconnected):
    """The token was refused and there is no way to get another; `error` is the server's code."""

    def __init__(self, error: str, reason: str, code: int | None = None) -> None:
        super().__init__(code, f"{error}: {reason}")
        self.error = error
