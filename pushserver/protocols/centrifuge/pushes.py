"""Publications as the Centrifuge protocol tells them: what kind of message one is stands in its tags. Pure."""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Raw, Struct, field

from pushserver.core.errors import Code
from pushserver.core.inbox import INBOXES
from pushserver.core.publication import Publication
from pushserver.protocols.centrifuge import messages

#: A frame of more octets is not sent whole: clients close at 1 MiB, come back, and would be sent it again.
MAX_FRAME: Final = 1_000_000
_NOTHING: Final = Raw(b"null")


class ChannelNames:
    """What clients call the inbox of a user, and every other channel.

    Args:
        inbox: ``{id}`` in it stands for the user's id.
    """

    __slots__ = ("_after", "_around", "_before")

    def __init__(self, inbox: str) -> None:
        self._before, _, self._after = inbox.partition("{id}")
        #: characters of the inbox' name beside the user's id
        self._around = len(self._before) + len(self._after)

    def outward(self, channel: str) -> str:
        """Return what clients call a channel."""
        if channel.startswith(INBOXES):
            return f"{self._before}{channel[len(INBOXES) :]}{self._after}"
        return channel

    def inward(self, name: str) -> str:
        """Return the channel that a client means."""
        if name.startswith(self._before) and len(name) > self._around and name.endswith(self._after):
            return f"{INBOXES}{name[len(self._before) : len(name) - len(self._after)]}"
        return name


def told(publication: Publication, whole: bool = True) -> messages.Publication:
    """Return a publication in this protocol's terms; not ``whole``: without its data."""
    tags = {"type": publication.type, "messageId": publication.message_id}
    if publication.read_at is not None:
        tags["readAt"] = str(publication.read_at)
    if publication.tags is not None:
        # The publisher's own win.
        tags |= publication.tags
    data = publication.data
    if not whole:
        data, tags["truncated"] = _NOTHING, "true"
    info: messages.ClientInfo | None = None
    if publication.sender is not None:
        connection = publication.sender_connection or ""
        info = messages.ClientInfo(publication.sender, connection, messages.raw(publication.sender_info))
    return messages.Publication(data, info, publication.offset or 0, tags, publication.timestamp)


def frame(publication: Publication, names: ChannelNames, codec: messages.Codec) -> bytes:
    """Return the push of a publication as a frame, without its data where that makes it too large."""
    if len(publication.data) <= MAX_FRAME:
        octets = codec.reply(_push(publication, names, True))
        if len(octets) <= MAX_FRAME:
            return octets
    return codec.reply(_push(publication, names, False))


def _push(publication: Publication, names: ChannelNames, whole: bool) -> messages.Reply:
    """Return the push of a publication. Of who comes and goes it is one of their own, connection by connection."""
    channel = names.outward(publication.by_way_of or publication.channel)
    match publication.type:
        case "presence_join":
            return messages.Reply(push=messages.Push(channel, join=messages.Join(_moved(publication))))
        case "presence_leave":
            return messages.Reply(push=messages.Push(channel, leave=messages.Leave(_moved(publication))))
        case _:
            return messages.Reply(push=messages.Push(channel, pub=told(publication, whole)))


class _UserMoved(Struct):
    user_id: str = field(name="userId")
    info: Raw = messages.ABSENT


def _moved(publication: Publication) -> messages.ClientInfo:
    """Return who has come or gone. The connection is unknown of who went with a node."""
    user = msgspec.json.decode(publication.data, type=_UserMoved)
    own, there = publication.sender_info, bytes(user.info).decode()
    if publication.sender_connection is None:
        return messages.ClientInfo(user.user_id, "", messages.raw(there or None))
    # A token for the channel may say something else there.
    in_channel = None if there in ("", own) else user.info
    return messages.ClientInfo(user.user_id, publication.sender_connection, messages.raw(own), in_channel)


#: What an error is called here.
CODES: Final[dict[Code, int]] = {
    Code.INVALID_MESSAGE: 107,
    Code.UNKNOWN_MESSAGE_TYPE: 108,
    Code.MESSAGE_TOO_LARGE: 107,
    Code.INVALID_CHANNEL: 107,
    Code.UNKNOWN_CHANNEL: 102,
    Code.NOT_FOUND: 102,
    Code.PERMISSION_DENIED: 103,
    Code.INVALID_TOKEN: 103,
    Code.TOKEN_BLACKLISTED: 103,
    Code.MISSING_TOKEN: 101,
    Code.NOT_AUTHENTICATED: 101,
    Code.TOKEN_EXPIRED: 109,
    Code.LIMIT_EXCEEDED: 106,
    Code.RATE_LIMITED: 111,
    Code.CONFLICT: 112,
    Code.UNAVAILABLE: 100,
    Code.INTERNAL_ERROR: 100,
}
#: Errors after which the same request may succeed.
TEMPORARY: Final = frozenset({Code.RATE_LIMITED, Code.UNAVAILABLE, Code.INTERNAL_ERROR})
