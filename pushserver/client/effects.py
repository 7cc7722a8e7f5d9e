"""What the core asks its shell to do, and to tell: a closed set of frozen values, matched with ``match``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from pushserver.client.channel_tokens import KeptToken
    from pushserver.client.errors import UserChanged
    from pushserver.client.feeds import ReaderFeed
    from pushserver.client.messages import InboxChange
    from pushserver.client.state import State


class Connect(Struct, frozen=True):
    """Open a socket; tell of it under this link's number. Events of older links are ignored by the core."""

    link: int


class Transmit(Struct, frozen=True):
    """Send one text message on a link."""

    link: int
    text: bytes


class Hangup(Struct, frozen=True):
    """Close a link's socket; at once and without a closing handshake where the peer is thought dead."""

    link: int
    code: int
    reason: str
    abort: bool = False


class FetchToken(Struct, frozen=True):
    """Ask the application for a fresh token, and nothing else any more; answer with `token` or `token_failed`."""


class FetchChannelToken(Struct, frozen=True):
    """Ask the function of one channel's token; answer with `channel_token` or `channel_token_failed`."""

    channel: str
    token: KeptToken


class Answered(Struct, frozen=True):
    """A request's reply came."""

    request: int
    data: Any


class Failed(Struct, frozen=True):
    """A request has come to nothing."""

    request: int
    error: Exception


class Readable(Struct, frozen=True):
    """A feed has a message, was confirmed, or has ended."""

    feed: ReaderFeed


class Changed(Struct, frozen=True):
    """The connection's state is another now."""

    state: State


class AnotherUser(Struct, frozen=True):
    """The server knows this client as another user than before."""

    change: UserChanged


class InboxChanged(Struct, frozen=True):
    """The inbox is another one than it was, and this client did not ask for that."""

    change: InboxChange


class Ended(Struct, frozen=True):
    """The client is closed for good; `error` is None where that was asked for."""

    error: Exception | None


Effect = (
    Connect
    | Transmit
    | Hangup
    | FetchToken
    | FetchChannelToken
    | Answered
    | Failed
    | Readable
    | Changed
    | AnotherUser
    | InboxChanged
    | Ended
)
