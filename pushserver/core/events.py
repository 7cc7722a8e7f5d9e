"""Events: what the backend is told, whom each is about, and how one is written. Pure.

An event is ``{"id", "type", "timestamp", "data"}``. Its id is given by the store that keeps it, so that ids rise in the
order in which events are kept: ``<ms>-<number>[-<store>]``, at most 64 of ``A-Za-z0-9_-``. Events of one subject are
delivered in this order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

import msgspec

from pushserver.core.errors import Invalid
from pushserver.core.permissions import matcher
from pushserver.core.publication import Publication, body

#: The types of events, and for each what it is about: the kind of subject, and where ``data`` names it.
SUBJECTS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "user.online": ("user", "userId"),
        "user.offline": ("user", "userId"),
        "channel.occupied": ("channel", "channel"),
        "channel.vacated": ("channel", "channel"),
        "presence.join": ("channel", "channel"),
        "presence.leave": ("channel", "channel"),
        "inbox.unread": ("user", "userId"),
        "task.finished": ("task", "taskId"),
        "task.cancel_requested": ("task", "taskId"),
        "message.published": ("channel", "channel"),
        "user.refused": ("address", "address"),
    }
)

#: What stands for the place before the first event.
BEGINNING: Final = "0"

_ID: Final = re.compile(r"(\d{1,15})-(\d{1,15})(?:-[0-9a-f]{1,16})?")


class NewEvent(msgspec.Struct, frozen=True, gc=False):
    """An event before it is kept. ``timestamp`` is ms since the epoch; ``data`` is JSON on one line."""

    type: str
    timestamp: int
    data: msgspec.Raw

    @property
    def rest(self) -> bytes:
        """Return the event's JSON from behind its id on."""
        return b'"type":"%s","timestamp":%d,"data":%s}' % (self.type.encode(), self.timestamp, bytes(self.data))


class Event(msgspec.Struct, frozen=True, gc=False):
    """An event as it is kept and delivered."""

    id: str
    type: str
    timestamp: int
    data: msgspec.Raw

    @property
    def subject(self) -> str:
        """Return what the event is about, as in ``user:42``: order is kept within one subject."""
        kind, name = SUBJECTS[self.type]
        return f"{kind}:{_named(self.data)[name]}"


class _Unread(msgspec.Struct, frozen=True, rename="camel"):
    """The data of an event ``inbox.unread``."""

    user_id: str
    offset: int | None
    epoch: str | None
    message_id: str
    type: str
    data: msgspec.Raw
    acked: bool


def unread(user_id: str, message: Publication, acked: bool, now: int) -> NewEvent:
    """Return what is told of a message that its user did not read in time. ``acked``: a device took it."""
    data = _Unread(user_id, message.offset, message.epoch, message.message_id, message.type, message.data, acked)
    return NewEvent("inbox.unread", now, body(data))


_decoder: Final = msgspec.json.Decoder(Event)
_data: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _named(data: msgspec.Raw) -> dict[str, Any]:
    found = _data.decode(data)
    return {name: msgspec.json.decode(found[name]) for _, name in SUBJECTS.values() if name in found}


def encode(id: str, event: NewEvent) -> bytes:
    """Return an event's JSON, with the id that its store gave it."""
    return b'{"id":"%s",%s' % (id.encode(), event.rest)


def decode(octets: bytes) -> Event:
    """Read what `encode` wrote. Raises `msgspec.DecodeError` where it is something else."""
    return _decoder.decode(octets)


def read_kept(octets: bytes, id: str) -> Event:
    """As `decode`, for what is kept as ``id`` and may be damaged. Raises ValueError where it is not whole: text that is
    no UTF-8 would spoil the answer that it stands in, and of an event that is about nothing nobody knows its order.

    One of a type that is not in `SUBJECTS` is whole: a newer node may have kept it.
    """
    octets.decode()
    try:
        found = decode(octets)
        if found.type in SUBJECTS:
            _ = found.subject
    except KeyError as missing:
        raise ValueError(f"says no {missing.args[0]}") from None
    except RecursionError:
        raise ValueError("nested too deep") from None
    if found.id != id or _ID.fullmatch(id) is None:
        raise ValueError("not its own id")
    return found


def number_of(id: str) -> int:
    """Return the number of an event in its store, from its id; 0 for `BEGINNING`. Raises `errors.Invalid`."""
    if id == BEGINNING:
        return 0
    found = _ID.fullmatch(id)
    if found is None:
        raise Invalid("not the id of an event")
    return int(found[2])


def chosen(globs: Iterable[str]) -> frozenset[str]:
    """Return the types that any of these globs matches. Raises `errors.Invalid` for one that matches none."""
    found: set[str] = set()
    for glob in globs:
        matching = set(filter(matcher(glob), SUBJECTS))
        if not matching:
            raise Invalid(f"no event is called {glob[:64]!r}; there are {', '.join(SUBJECTS)}")
        found |= matching
    return frozenset(found)
