"""Event ids of a stream: the positions of its channels, small enough for any proxy's limit of a header.

    id      =  base64url( version, epochs, channel* )
    epochs  =  how many, then each with its length before it
    channel =  a digest of the name, the number of its epoch, its offset

A client that comes back says its channels again, so their names need not stand here: digests of them do.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Final

import msgspec

from pushserver.core.positions import Position
from pushserver.protocols.native.messages import Offset

#: Bytes of an id at most: under 4 KiB, with room for the name of the header.
MAX_ID: Final = 4_000
_RAW: Final = MAX_ID * 3 // 4
_VERSION: Final = 1
_DIGEST: Final = 5


@lru_cache(maxsize=4096)
def _digest(channel: str) -> bytes:
    return blake2b(channel.encode(), digest_size=_DIGEST).digest()


def _varint(number: int) -> bytes:
    octets = bytearray()
    while number > 0x7F:
        octets.append(number & 0x7F | 0x80)
        number >>= 7
    octets.append(number)
    return bytes(octets)


class EventIds:
    """Where the channels of a stream stand, and the id that says so."""

    __slots__ = ("_entries", "_epochs", "_numbers", "_size", "positions")

    def __init__(self) -> None:
        #: by channel, the one that moved last behind the others
        self.positions: dict[str, tuple[int, str]] = {}
        self._entries: dict[str, bytes] = {}
        self._numbers: dict[str, int] = {}
        self._epochs = b""
        self._size = 0

    def update(self, positions: dict[str, tuple[int, str]]) -> None:
        for channel, (offset, epoch) in positions.items():
            self.set(channel, offset, epoch)

    def set(self, channel: str, offset: int, epoch: str) -> None:
        if epoch not in self._numbers and len(self._numbers) >= 2 * len(self.positions) + 16:
            # Epochs that no channel is in any more.
            self._renumber()
        self.forget(channel)
        self._add(channel, offset, epoch)

    def _add(self, channel: str, offset: int, epoch: str) -> None:
        number = self._numbers.get(epoch)
        if number is None:
            number = self._numbers[epoch] = len(self._numbers)
            octets = epoch.encode()[:255]
            self._epochs += bytes((len(octets),)) + octets
        entry = _digest(channel) + _varint(number) + _varint(offset)
        self.positions[channel] = (offset, epoch)
        self._entries[channel] = entry
        self._size += len(entry)

    def forget(self, channel: str) -> None:
        entry = self._entries.pop(channel, None)
        if entry is not None:
            self._size -= len(entry)
            del self.positions[channel]

    def keep(self, channels: Iterable[str]) -> None:
        """Forget all other channels."""
        kept = set(channels)
        for channel in [name for name in self.positions if name not in kept]:
            self.forget(channel)
        self._renumber()

    def _renumber(self) -> None:
        positions, self.positions = self.positions, {}
        self._entries, self._numbers, self._epochs, self._size = {}, {}, b"", 0
        for channel, (offset, epoch) in positions.items():
            self._add(channel, offset, epoch)

    def id(self) -> bytes:
        """Return the id. Where not all fits, channels that were quiet longest are left out: who comes back is told."""
        head = bytes((_VERSION,)) + _varint(len(self._numbers)) + self._epochs
        entries = list(self._entries.values())
        if len(head) + self._size > _RAW:
            self._renumber()
            head = bytes((_VERSION,)) + _varint(len(self._numbers)) + self._epochs
            entries = list(self._entries.values())
            left = _RAW - len(head)
            fitting: list[bytes] = []
            for entry in reversed(entries):
                left -= len(entry)
                if left < 0:
                    break
                fitting.append(entry)
            entries = fitting
            if not entries:
                head = bytes((_VERSION, 0))
        return urlsafe_b64encode(head + b"".join(entries)).rstrip(b"=")


def positions_of(event_id: str | None, channels: Iterable[str]) -> dict[str, Position]:
    """Return the positions of these channels in an event's id. What is no id of ours holds none: the stream then begins
    without a past."""
    if not event_id or len(event_id) > 65_536:
        return {}
    try:
        octets = urlsafe_b64decode(event_id + "=" * (-len(event_id) % 4))
        if octets[:1] == b"{":
            return _of_version_1(octets, channels)
        return _read(octets, {_digest(channel): channel for channel in channels})
    except (ValueError, IndexError, binascii.Error, RecursionError):
        return {}


def _of_version_1(octets: bytes, channels: Iterable[str]) -> dict[str, Position]:
    found = msgspec.json.decode(octets, type=dict[str, tuple[Offset, str]])
    return {channel: Position(*found[channel]) for channel in channels if channel in found}


def _read(octets: bytes, names: dict[bytes, str]) -> dict[str, Position]:
    if octets[0] != _VERSION:
        return {}
    at = 1

    def varint() -> int:
        nonlocal at
        number = shift = 0
        while True:
            octet = octets[at]
            at += 1
            number |= (octet & 0x7F) << shift
            shift += 7
            if octet < 0x80:
                return number
            if shift > 63:
                raise ValueError("too long a number")

    epochs: list[str] = []
    for _ in range(varint()):
        size = octets[at]
        epochs.append(octets[at + 1 : at + 1 + size].decode())
        at += 1 + size
    found: dict[str, Position] = {}
    while at < len(octets):
        name = names.get(octets[at : at + _DIGEST])
        at += _DIGEST
        epoch, offset = epochs[varint()], varint()
        if name is not None and offset < 1 << 53:
            found[name] = Position(offset, epoch)
    return found
