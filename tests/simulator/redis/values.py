"""What a key holds, and when it ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from copy import deepcopy
from typing import Any, TypeVar

#: A reply: bytes, a whole number, None, or a list of these; `Status` and `RedisError` stand for themselves.
Reply = Any

V = TypeVar("V")


class RedisError(Exception):
    """An error reply."""


class Status(bytes):
    """A status reply, such as OK."""


OK = Status(b"OK")

WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"


class Stream:
    """Entries by ascending id."""

    def __init__(self) -> None:
        self.entries: list[tuple[tuple[int, int], list[bytes]]] = []
        self.last = (0, 0)


class SortedSet(dict[bytes, float]):
    """Scores by member."""

    def ranked(self) -> list[tuple[float, bytes]]:
        return sorted((score, member) for member, score in self.items())


#: How Redis calls what a key holds.
TYPES: dict[type[Any], bytes] = {
    bytes: b"string",
    dict: b"hash",
    set: b"set",
    list: b"list",
    SortedSet: b"zset",
    Stream: b"stream",
}


class Database:
    """Keys and their values, under a clock.

    Args:
        now: wall time in microseconds.
        publish: sends a message to subscribers and returns their number.
    """

    def __init__(self, now: Callable[[], int], chance: random.Random, publish: Callable[[bytes, bytes], int]) -> None:
        self.now = now
        self.chance = chance
        self.publish = publish
        self._values: dict[bytes, Any] = {}
        self._ends: dict[bytes, int] = {}
        #: the numbers that are kept as the text that was computed: as integers once they are saved
        self._computed: set[bytes] = set()
        #: why nothing may be written, if so
        self.full = ""

    @property
    def milliseconds(self) -> int:
        return self.now() // 1000

    def _look(self, key: bytes) -> Any:
        end = self._ends.get(key)
        if end is not None and end <= self.milliseconds:
            self.remove(key)
        return self._values.get(key)

    def get(self, key: bytes, kind: type[V]) -> V | None:
        """Return the value, None where there is none. Raises `RedisError` where it is of another kind."""
        value = self._look(key)
        if value is None:
            return None
        if type(value) is not kind:
            raise RedisError(WRONG_TYPE)
        return value

    def make(self, key: bytes, kind: type[V]) -> V:
        """Return the value, which is made where there is none."""
        value = self.get(key, kind)
        if value is None:
            value = self._values[key] = kind()
        return value

    def put(self, key: bytes, value: bytes) -> None:
        """Set a string, without an end."""
        self._values[key] = value
        self._ends.pop(key, None)
        self._computed.discard(key)

    def change(self, key: bytes, value: bytes) -> None:
        """Set a string, which keeps its end."""
        self._values[key] = value
        self._computed.discard(key)

    def compute(self, key: bytes, value: bytes) -> None:
        """Set a string as `change` does, which is kept as text though it is an integer."""
        self._values[key] = value
        self._computed.add(key)

    def computed(self, key: bytes) -> bool:
        return key in self._computed

    def tidy(self, key: bytes) -> None:
        """Remove a key whose value has nothing left; a stream stays."""
        value = self._values.get(key)
        if value is not None and type(value) is not Stream and not value and type(value) is not bytes:
            self.remove(key)

    def remove(self, key: bytes) -> bool:
        self._ends.pop(key, None)
        self._computed.discard(key)
        return self._values.pop(key, None) is not None

    def exists(self, key: bytes) -> bool:
        return self._look(key) is not None

    def kind(self, key: bytes) -> bytes:
        value = self._look(key)
        return b"none" if value is None else TYPES[type(value)]

    def end(self, key: bytes) -> int | None:
        return self._ends.get(key)

    def expire(self, key: bytes, at: int) -> bool:
        if not self.exists(key):
            return False
        if at <= self.milliseconds:
            self.remove(key)
        else:
            self._ends[key] = at
        return True

    def all_keys(self) -> list[bytes]:
        return [key for key in list(self._values) if self.exists(key)]

    # -- all of it ----------------------------------------------------------------------------------------------------

    def save(self) -> object:
        """Return a copy of everything, for `load`."""
        return deepcopy((self._values, self._ends))

    def load(self, saved: object) -> None:
        values, ends = deepcopy(saved)  # type: ignore[misc]
        self._values, self._ends = values, ends
        self._computed.clear()

    def flush(self) -> None:
        self._values.clear()
        self._ends.clear()
        self._computed.clear()
