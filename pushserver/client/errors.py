"""What a client can be told went wrong.

ClientError
 +-- NotOpened           asked before the client was opened
 +-- RequestFailed       the server answered with an error: code, message, retry_in
 +-- RequestTimeout      no answer in time, over as many connections as that took
 +-- QueueFull           too much waits already while there is no connection
 +-- SubscriptionEnded   the server ended or refused a subscription
 +-- UserChanged         the newest token is another user's: readers and requests of the one before end
 +-- ClientClosed        the client was closed here
 +-- Disconnected        the server said not to come back: close code and reason
      +-- AuthFailed     because of the token
           +-- Unauthorized   the application has no token: raised by a token function to end the attempts

What no second attempt mends ends the first one as it is: ValueError for an address that is none, the TLS library's
error for a certificate that is not trusted.
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of everything that the client raises."""


class NotOpened(ClientError):
    """The client was asked something before it was opened."""

    def __init__(self) -> None:
        super().__init__("this client is not open: open it first")


class RequestFailed(ClientError):
    """The server answered a request with an error."""

    def __init__(self, code: str, message: str, retry_after: int | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        #: the same as `retry_in` in milliseconds, as it came
        self.retry_after = retry_after

    @property
    def retry_in(self) -> float | None:
        """Seconds after which trying again makes sense, where the server said so."""
        return None if self.retry_after is None else self.retry_after / 1000


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


class UserChanged(ClientError):
    """The client's token is another user's now. Nothing that was read or asked for the one before goes on."""

    def __init__(self, from_: str, to: str) -> None:
        super().__init__(f"the user changed from {from_} to {to}")
        self.from_ = from_
        self.to = to


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


class Unauthorized(AuthFailed):
    """There is no token to be had, as after signing out. A token function that raises it ends the client."""

    def __init__(self, reason: str = "signed out") -> None:
        super().__init__("UNAUTHORIZED", reason)
