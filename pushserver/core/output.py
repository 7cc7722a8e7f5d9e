"""Output of a task: what is appended to it, what is told of it, and how it is cut. Pure.

An output is text or items from its first append on. Positions count what came before: bytes of UTF-8, or items. What
stands at a position never changes, and the end of the task closes its outputs.

Where it rests, text is its UTF-8, and each item is a line of JSON: either may be joined without a look inside. As it
travels it is JSON: a string, or an array (`literal`).

The end counts as one position more, among engines and rooms alone: so a lost word of it is noticed as any loss is.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pushserver.core.errors import Code, Conflict, Invalid, Refused
from pushserver.core.publication import Publication

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Outputs of one task.
MAX_OUTPUTS: Final = 16
#: The name where none is said.
MAIN: Final = "main"
#: The type of a push.
TYPE: Final = "output"
#: What the names of the channels of outputs begin with; ``<name>/<task id>`` follows.
PREFIX: Final = "output:"

_name_match = re.compile(r"[a-z0-9_-]{1,32}").fullmatch
_encode: Final = msgspec.json.Encoder().encode
#: Data of a publication that appends nothing.
NOTHING: Final = b"null"


class OutputKind(StrEnum):
    TEXT = "text"
    ITEMS = "items"


class NewOutput(msgspec.Struct, frozen=True, gc=False):
    """What is appended: ``count`` positions of a kind, ``body`` as it rests. ``timestamp``: when it came, ms."""

    name: str
    kind: OutputKind
    body: bytes
    count: int
    timestamp: int


class Producer(msgspec.Struct, frozen=True):
    """Who appends, so that each append happens once: ``seq`` counts them from 0 in each of the producer's epochs."""

    id: str
    epoch: int
    seq: int


class ProducerConflict(Conflict):
    """An append that is not the producer's next one.

    Attributes:
        epoch: the producer's newest.
        expected: the next ``seq`` in it.
    """

    def __init__(self, message: str, epoch: int, expected: int) -> None:
        super().__init__(message)
        self.epoch = epoch
        self.expected = expected


def is_output_name(name: str) -> bool:
    """Return whether an output may be called so: 1 to 32 of ``a-z0-9_-``."""
    return _name_match(name) is not None


def channel_of(name: str, task_id: str) -> str:
    """Return the channel that an output is followed on."""
    return f"{PREFIX}{name}/{task_id}"


def parts_of(channel: str) -> tuple[str, str]:
    """Return the output's name and the task's id that a channel's name holds."""
    name, _, task_id = channel[len(PREFIX) :].partition("/")
    return name, task_id


def new_output(name: str, text: str | None, items: Sequence[Any] | None, timestamp: int) -> NewOutput:
    """Return what is appended by these. Raises `errors.Invalid`."""
    if not is_output_name(name):
        raise Invalid("the name of an output is 1 to 32 of a-z, 0-9, _ and -")
    if (text is None) == (items is None):
        raise Invalid("either text or items")
    try:
        if text is not None:
            body, count, kind = text.encode(), 0, OutputKind.TEXT
            count = len(body)
        else:
            assert items is not None
            body, count, kind = b"".join(_encode(item) + b"\n" for item in items), len(items), OutputKind.ITEMS
    except UnicodeEncodeError:
        raise Invalid("a lone surrogate is no character") from None
    if not count:
        raise Invalid("nothing to append")
    return NewOutput(name, kind, body, count, timestamp)


def check_kind(kept: OutputKind, new: OutputKind) -> None:
    """Raise `errors.Conflict` where an output is of another kind."""
    if kept != new:
        raise Conflict(f"the output holds {kept}")


def check_number(outputs: int) -> None:
    """Raise `errors.Refused` where a task that has so many outputs may have no other."""
    if outputs >= MAX_OUTPUTS:
        raise Refused(f"a task has at most {MAX_OUTPUTS} outputs", Code.LIMIT_EXCEEDED)


def is_repeat(known: tuple[int, int] | None, producer: Producer) -> bool:
    """Return whether an append was taken before. ``known``: the epoch and the last ``seq`` of its producer."""
    return known is not None and producer.epoch == known[0] and producer.seq <= known[1]


def check_next(known: tuple[int, int] | None, producer: Producer) -> None:
    """Check that an append which was not taken before is its producer's next one.

    Raises `ProducerConflict` for a lower epoch and for a gap, `errors.Invalid` for an epoch that does not begin at 0.
    """
    if known is None or producer.epoch > known[0]:
        if producer.seq != 0:
            raise Invalid("a producer's epoch begins at seq 0")
        return
    epoch, seq = known
    if producer.epoch < epoch:
        raise ProducerConflict("the producer has a later epoch", epoch, seq + 1)
    if producer.seq > seq + 1:
        raise ProducerConflict("appends of the producer are missing before this one", epoch, seq + 1)


def begins_character(octet: int) -> bool:
    """Return whether a character of UTF-8 may begin with this octet."""
    return octet & 0xC0 != 0x80


def whole_characters(octets: bytes, limit: int) -> int:
    """Return where to cut UTF-8 so that at most ``limit`` bytes are left, but at least one character."""
    if len(octets) <= limit:
        return len(octets)
    end = limit
    while end > 0 and not begins_character(octets[end]):
        end -= 1
    if end == 0:
        end = 1
        while end < len(octets) and not begins_character(octets[end]):
            end += 1
    return end


def whole_items(octets: bytes, limit: int) -> int:
    """Return where to cut lines so that at most ``limit`` bytes are left, but at least one line."""
    if len(octets) <= limit:
        return len(octets)
    end = octets.rfind(b"\n", 0, limit) + 1
    return end or octets.find(b"\n") + 1


def literal(kind: OutputKind | None, body: bytes) -> bytes:
    """Return the JSON of what rests as ``body``: a string, or an array; of no kind yet: an empty string."""
    if kind is OutputKind.ITEMS:
        return b"[" + body[:-1].replace(b"\n", b",") + b"]"
    return _encode(body.decode())


class OutputPublication(Publication, frozen=True, kw_only=True, omit_defaults=True, gc=False):
    """What was appended to an output, on its way to those who follow it.

    ``data`` is its `literal`, or null. It lies between ``before`` and ``offset``, in which the end counts as one
    position. ``closes``: nothing follows. ``reset``: it begins at ``start``, whatever was told before; ``trimmed``:
    so does it, since what lay before is gone.
    """

    before: int
    closes: bool = False
    reset: bool = False
    trimmed: bool = False
    start: int = 0

    @property
    def reached(self) -> int:
        """Return the position after it, as clients count."""
        assert self.offset is not None
        return self.offset - self.closes


def appended(
    channel: str,
    epoch: str,
    span: tuple[int, int],
    content: bytes | None,
    timestamp: int,
    *,
    closes: bool = False,
    reset: bool = False,
    trimmed: bool = False,
) -> OutputPublication:
    """Return what is told of an append, or of the end.

    Args:
        span: the positions before and after its content.
        content: its `literal`; None: there is none.
    """
    before, after = span
    offset = after + closes
    return OutputPublication(
        type=TYPE,
        channel=channel,
        data=msgspec.Raw(NOTHING if content is None else content),
        timestamp=timestamp,
        message_id=f"{epoch}:{offset}",
        offset=offset,
        epoch=epoch,
        before=before,
        closes=closes,
        reset=reset,
        trimmed=trimmed,
        start=before if reset or trimmed else 0,
    )


def merged(publications: Sequence[Publication]) -> OutputPublication:
    """Return what one output was appended in turn, as one."""
    first, last = publications[0], publications[-1]
    assert isinstance(first, OutputPublication)
    assert isinstance(last, OutputPublication)
    if first is last:
        return first
    contents = [content for each in publications if (content := bytes(each.data)) != NOTHING]
    data = NOTHING
    if contents:
        text = contents[0].startswith(b'"')
        opening, closing, between = (b'"', b'"', b"") if text else (b"[", b"]", b",")
        data = opening + between.join(content[1:-1] for content in contents) + closing
    return msgspec.structs.replace(
        last,
        data=msgspec.Raw(data),
        timestamp=first.timestamp,
        before=first.before,
        reset=first.reset,
        trimmed=first.trimmed,
        start=first.start,
    )


def cut(publication: OutputPublication, after: int) -> OutputPublication:
    """Return what a publication tells after a position within it."""
    if publication.before >= after or bytes(publication.data) == NOTHING:
        return publication
    content = msgspec.json.decode(publication.data)
    if isinstance(content, str):
        rest: Any = content.encode()[after - publication.before :].decode()
    else:
        rest = content[after - publication.before :]
    return msgspec.structs.replace(publication, data=msgspec.Raw(_encode(rest) if rest else NOTHING), before=after)


def told(publication: OutputPublication) -> Publication:
    """Return a publication as clients are told it."""
    content = bytes(publication.data)
    fields: list[bytes] = []
    if content != NOTHING:
        fields.append((b'"text":' if content.startswith(b'"') else b'"items":') + content)
    if publication.closes:
        fields.append(b'"closed":true')
    if publication.trimmed:
        fields.append(b'"trimmed":true')
    if publication.reset:
        fields.append(b'"reset":true')
    if publication.trimmed or publication.reset:
        fields.append(b'"start":%d' % publication.start)
    return Publication(
        type=publication.type,
        channel=publication.channel,
        data=msgspec.Raw(b"{" + b",".join(fields) + b"}"),
        timestamp=publication.timestamp,
        message_id=publication.message_id,
        offset=publication.reached,
        epoch=publication.epoch,
    )
