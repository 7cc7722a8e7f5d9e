"""Where the clients of a load come from: many addresses, as real ones do, so that no limit of one address is met."""

from __future__ import annotations

from typing import Final
from zlib import crc32

#: How many there are.
ADDRESSES: Final = 20


def source(client: int | str) -> str:
    """Return the loopback address that a client comes from, by its number or its name: always the same."""
    number = crc32(client.encode()) if isinstance(client, str) else client
    return f"127.0.1.{1 + number % ADDRESSES}"
