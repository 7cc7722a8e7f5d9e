"""A publication: one message on a channel, as every layer above the wire knows it. Pure.

A publication is made once, by whichever door took it in, and never changed. An engine that keeps it gives it its
position; `positioned` is the only way to add one. Its JSON form (`encode`, `decode`) is what engines store and what
nodes tell each other. It happens to have the field names of the native protocol's push, so that the native codec can
use the same encoder, but a codec for another protocol starts from the fields.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, TypeVar

import msgspec

from pushserver.core.errors import Invalid

#: What an application may call its own message types (the native protocol's own names are refused beside this).
TYPE: Final = re.compile(r"[a-z][a-z0-9_.-]{0,63}")


#: Bytes of JSON that a publisher's own tags may be.
MAX_TAGS_SIZE: Final = 1_024


class Author(msgspec.Struct, frozen=True):
    """A client that publishes, comes or goes: its user, its connection, and what the user's token says of it (JSON)."""

    user_id: str
    connection_id: str
    info: str | None = None


class Publication(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """One message on a channel.

    Attributes:
        type: what kind of message; decides how a client reads ``data``.
        channel: where it was published.
        data: its body, one line of valid JSON.
        timestamp: when it was taken in, ms since the epoch.
        message_id: unique for one publication; a repeat of the same publication carries the same one.
        sender: the user who published it, where a client did.
        sender_connection, sender_info: that client's connection, and what the user's token says of the user, JSON of at
            most 1 KiB; protocols whose clients ask for these are told.
        tags: short texts by name that the server side sent along, at most `MAX_TAGS_SIZE` of JSON.
        offset, epoch: its position, where the channel keeps messages.
        read_at: when its user read it, ms since the epoch, where an inbox keeps it and it was read; never kept with it.
        by_connection: it tells of one connection of a user who has others there; for protocols that count connections.
        by_way_of: the channel that its receiver follows, where it does not follow ``channel``; for protocols whose
            clients hear of no channel that they do not follow.
        exclude_user, exclude_connection: who shall not receive it; never on the wire to clients.
    """

    type: str
    channel: str
    data: msgspec.Raw
    timestamp: int
    message_id: str = msgspec.field(name="messageId")
    offset: int | None = None
    epoch: str | None = None
    sender: str | None = msgspec.field(default=None, name="from")
    read_at: int | None = msgspec.field(default=None, name="readAt")
    exclude_user: str | None = msgspec.field(default=None, name="excludeUser")
    exclude_connection: str | None = msgspec.field(default=None, name="excludeConnection")
    tags: dict[str, str] | None = None
    sender_connection: str | None = msgspec.field(default=None, name="client")
    sender_info: str | None = msgspec.field(default=None, name="info")
    by_connection: bool = msgspec.field(default=False, name="byConnection")
    by_way_of: str | None = msgspec.field(default=None, name="byWayOf")

    def positioned(self, offset: int, epoch: str, read_at: int | None = None) -> Publication:
        """The same publication at its place in its channel's history."""
        return msgspec.structs.replace(self, offset=offset, epoch=epoch, read_at=read_at)

    @property
    def for_all(self) -> bool:
        """Return whether nobody is excluded, and every kind of client is told."""
        return self.exclude_user is None and self.exclude_connection is None and not self.by_connection

    @property
    def size(self) -> int:
        """Return how many bytes of JSON its data, its tags and what is said of its sender are."""
        tags = 0 if self.tags is None else len(_encoder.encode(self.tags))
        return len(self.data) + tags + len(self.sender_connection or "") + len((self.sender_info or "").encode())

    def excludes(self, user_id: str | None, connection_id: str) -> bool:
        return (self.exclude_user is not None and self.exclude_user == user_id) or (
            self.exclude_connection is not None and self.exclude_connection == connection_id
        )


T = TypeVar("T")


class Messages(tuple[Publication, ...]):
    """Messages in their order, which many may be told: what is found out about all of them, or made of them, is made
    once, for as long as they are held."""

    @cached_property
    def _made(self) -> dict[Callable[[Messages], Any], Any]:  # Any: each of its maker's type
        return {}

    def once(self, make: Callable[[Messages], T]) -> T:
        """Return what a function of a module makes of them."""
        made = self._made
        if make not in made:
            made[make] = make(self)
        found: T = made[make]
        return found


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Publication)

#: Encodes a publication for an engine or another node.
encode = _encoder.encode


def decode(octets: bytes | str) -> Publication:
    """Read what `encode` wrote. Raises `msgspec.DecodeError` where it is something else.

    ``data`` must not keep the buffer of the whole message alive, hence the copy.
    """
    publication = _decoder.decode(octets)
    return msgspec.structs.replace(publication, data=publication.data.copy())


def read_kept(octets: bytes) -> Publication:
    """As `decode`, for what was kept and may be damaged. Raises ValueError or TypeError where it is not whole: text
    that is no UTF-8 would end the connection of whoever it is sent to."""
    found = decode(octets)
    bytes(found.data).decode()
    return found


#: JSON from outside may be nested so deep: less than what any common parser gives up at.
MAX_DEPTH: Final = 512

# A string, or a bracket outside of one. Possessive, and a string that does not end is taken whole: no octet is looked
# at twice, whatever stands there.
_brackets: Final = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|([\[{])|[\]}]', re.DOTALL)


def too_deep(octets: bytes) -> bool:
    """Return whether JSON is nested deeper than `MAX_DEPTH`, whatever the interpreter's own limit is.

    Only what is that long, and has that many brackets at all, is looked at closely.
    """
    if len(octets) <= MAX_DEPTH:
        return False
    if octets.count(b"[") + octets.count(b"{") <= MAX_DEPTH:
        return False
    depth = 0
    for found in _brackets.finditer(octets):
        if found[1]:
            depth += 1
            if depth > MAX_DEPTH:
                return True
        elif found[0][:1] != b'"':
            depth -= 1
    return False


def check_tags(tags: dict[str, str] | None) -> dict[str, str] | None:
    """Return a publisher's tags; None where there are none. Raises `errors.Invalid` for too many of them."""
    if tags and len(_encoder.encode(tags)) > MAX_TAGS_SIZE:
        raise Invalid(f"tags are larger than {MAX_TAGS_SIZE} bytes")
    return tags or None


def body(value: Any) -> msgspec.Raw:
    """The JSON of a publication's ``data``: one line, valid UTF-8, never NaN."""
    return msgspec.Raw(_encoder.encode(value))
