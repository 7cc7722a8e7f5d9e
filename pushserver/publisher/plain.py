"""Any Python value as what JSON can carry: pure.

==========================================  ==========================================================
numpy and pandas scalars, arrays, series    numbers, texts, lists (a frame: a list of its rows)
Decimal, UUID, paths, lazy texts, errors    text
datetime, date, time, timedelta             text, ISO 8601, also those of numpy and pandas
sets, tuples, generators                    lists
bytes                                       text, base64
dataclasses, attrs, structs, models         objects
NaN, infinities, NaT, NA                    null
keys                                        text
surrogates without a partner                U+FFFD
==========================================  ==========================================================

What has no such form (a cycle, an object that has no text of its own, what lies too deep) is left out, and what is too
large is cut; `Plain.truncated` says so.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, time, timedelta
from enum import Enum
from string import digits
from types import GeneratorType
from typing import Any, Final

import msgspec
from msgspec import Struct

#: Levels of lists and objects. The server takes 512; nobody reads a result that deep.
MAX_DEPTH: Final = 64
#: An integer outside of these is a text: not every JSON reader holds more.
_MAX_INTEGER: Final = 2**63
#: What a list, an object or a pair costs beside its items: brackets, commas, colons, quotes.
_OVERHEAD: Final = 4

_LEFT_OUT: Final = object()
_NO_CONTAINER: Final = object()
#: numpy's integer for no moment, or no duration.
_NAT: Final = -(2**63)
_ATTOSECONDS: Final = {
    "as": 1,
    "fs": 10**3,
    "ps": 10**6,
    "ns": 10**9,
    "us": 10**12,
    "ms": 10**15,
    "s": 10**18,
    "m": 60 * 10**18,
    "h": 3_600 * 10**18,
    "D": 86_400 * 10**18,
    "W": 604_800 * 10**18,
}


class PlainValue(Struct, frozen=True):
    value: Any
    truncated: bool


def plain(value: Any, limit: int) -> PlainValue:
    """Return the value as JSON can carry it, in about `limit` bytes. Never raises."""
    walk = _Walk(limit)
    found = walk.value(value, 0)
    return PlainValue(None if found is _LEFT_OUT else found, walk.truncated)


def text(value: Any) -> str:
    """Return any value as a text that JSON can carry. Never raises."""
    if type(value) is not str:
        try:
            value = str.__str__(value) if isinstance(value, str) else str(value)
        except Exception:
            # An object whose own text fails: its type is all that is known of it.
            value = type(value).__name__
    return _repaired(value)


def _repaired(value: str) -> str:
    """The same text without lone surrogates, as `os.fsdecode` makes them of file names that are not UTF-8."""
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return value


class _Walk:
    def __init__(self, limit: int) -> None:
        self.room = limit
        self.truncated = False
        self._open: set[int] = set()

    def value(self, value: Any, depth: int) -> Any:
        kind = type(value)
        if kind is bool or value is None:
            return self._costs(value, 5)
        if kind is int:
            return self._integer(value)
        if kind is float:
            return self._costs(value if math.isfinite(value) else None, 24)
        if kind is str:
            return self._text(value)
        try:
            return self._other(value, depth)
        except (Exception, RecursionError):
            # Somebody else's code, reached by the value: whatever it raises, the value cannot be told.
            return self._left_out()

    def _other(self, value: Any, depth: int) -> Any:
        if isinstance(value, Enum):
            return self.value(value.value, depth)
        if isinstance(value, str):
            return self._text(str.__str__(value))
        if isinstance(value, int):
            return self._integer(int(value))
        if isinstance(value, float):
            return self.value(float(value), depth)
        if type(value).__name__ in ("NaTType", "NAType"):
            return self._costs(None, 5)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._bytes(bytes(value))
        if isinstance(value, timedelta):
            return self._text(_duration_of(value))
        if isinstance(value, (date, time)):
            return self._text(value.isoformat())
        inside = _inside(value)
        if inside is _NO_CONTAINER:
            return self._text(text(value)) if _has_text(value) else self._left_out()
        return self._container(value, inside, depth)

    def _container(self, value: Any, inside: Any, depth: int) -> Any:
        if depth >= MAX_DEPTH or id(value) in self._open:
            return self._left_out()
        self._open.add(id(value))
        try:
            self.room -= _OVERHEAD
            if isinstance(inside, Mapping):
                return self._mapping(inside, depth + 1)
            # A text inside, as in an array of one moment, is no list of characters.
            if isinstance(inside, Iterable) and not isinstance(inside, (str, bytes)):
                return self._list(inside, depth + 1)
            return self.value(inside, depth + 1)
        finally:
            self._open.discard(id(value))

    def _mapping(self, mapping: Mapping[Any, Any], depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in mapping.items():
            name = self._text(_key(key))
            self.room -= _OVERHEAD
            if self._full():
                break
            item = self.value(value, depth)
            if item is not _LEFT_OUT:
                found[name] = item
        return found

    def _list(self, items: Iterable[Any], depth: int) -> list[Any]:
        found: list[Any] = []
        for value in items:
            self.room -= 1
            if self._full():
                break
            item = self.value(value, depth)
            # In a list the others keep their places.
            found.append(None if item is _LEFT_OUT else item)
        return found

    def _text(self, value: str) -> str:
        value = _repaired(value)
        # Six bytes are the most that one character takes (\\u0000); the exact count matters only where it is close.
        if 6 * len(value) > self.room and (size := len(msgspec.json.encode(value))) > self.room:
            self.truncated = True
            keep = max(0, (self.room - 2) * len(value) // size)
            value = value[:keep]
            while len(msgspec.json.encode(value)) > max(self.room, 2):
                value = value[: len(value) * 3 // 4]
        self.room -= len(value.encode()) + 2 if not value.isascii() else len(value) + 2
        return value

    def _bytes(self, value: bytes) -> str:
        fits = max(0, self.room) * 3 // 4
        if len(value) > fits:
            self.truncated = True
        return self._text(base64.b64encode(value[:fits]).decode())

    def _integer(self, value: int) -> Any:
        if -_MAX_INTEGER <= value < _MAX_INTEGER:
            return self._costs(value, 20)
        # Python writes no integer of more than some thousand digits as a text.
        return self._text(str(value)) if value.bit_length() < 8_192 else self._left_out()

    def _costs(self, value: Any, size: int) -> Any:
        self.room -= size
        return value

    def _full(self) -> bool:
        if self.room >= 0:
            return False
        self.truncated = True
        return True

    def _left_out(self) -> Any:
        self.truncated = True
        return _LEFT_OUT


def _inside(value: Any) -> Any:
    """What a value holds, as a mapping, an iterable or a simpler value; _NO_CONTAINER where it is none that we know."""
    if isinstance(value, Mapping):
        return value
    if isinstance(value, (list, tuple, set, frozenset, GeneratorType)):
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, Struct):
        return msgspec.structs.asdict(value)
    if hasattr(value, "__attrs_attrs__"):
        return {attribute.name: getattr(value, attribute.name) for attribute in value.__attrs_attrs__}
    if callable(dump := getattr(value, "model_dump", None)):
        return dump()
    if hasattr(value, "columns") and callable(rows := getattr(value, "itertuples", None)):
        return _rows([_key(name) for name in value.columns], rows(index=False, name=None))
    if callable(as_list := getattr(value, "tolist", None)):
        kind = getattr(getattr(value, "dtype", None), "kind", "")
        # pandas gives moments that say which day it is; numpy may give integers of some unit.
        if kind in ("m", "M") and not hasattr(value, "isna"):
            return _times(value, kind)
        found = as_list()
        if type(found) is type(value):
            # numpy's widest numbers have no other form in Python.
            return float(found) if kind == "f" else str(found)
        return found
    # A lazy text can be iterated too, and so can a file, which is not ours to read.
    if isinstance(value, Iterable) and not _defines(value, "__str__") and not hasattr(value, "read"):
        return value
    return _NO_CONTAINER


def _rows(names: list[str], rows: Iterable[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    return (dict(zip(names, row, strict=True)) for row in rows)


def _times(value: Any, kind: str) -> Any:
    """numpy's moments (`kind` "M") or durations ("m") as texts, in lists as deep as they are."""
    if kind == "M":
        return _each(value.astype(str).tolist(), lambda moment: None if moment == "NaT" else moment)
    # As in "<m8[25us]".
    unit = value.dtype.str.partition("[")[2].rstrip("]")
    name = unit.lstrip(digits)
    if not name:
        # numpy's durations without a unit are numbers.
        return _each(value.astype("int64").tolist(), lambda count: None if count == _NAT else count)
    step = int(unit.removesuffix(name) or 1)
    return _each(value.astype("int64").tolist(), lambda count: None if count == _NAT else _counted(count * step, name))


def _each(found: Any, convert: Callable[[Any], Any]) -> Any:
    if isinstance(found, list):
        return [_each(item, convert) for item in found]
    # What is masked is None.
    return None if found is None else convert(found)


def _counted(count: int, unit: str) -> str:
    if unit in ("Y", "M"):
        return f"{'-' if count < 0 else ''}P{abs(count)}{unit}"
    return _duration(count * _ATTOSECONDS[unit])


def _duration_of(value: timedelta) -> str:
    # pandas' own is a timedelta that also has these.
    nanoseconds = getattr(value, "nanoseconds", 0)
    seconds = value.days * 86_400 + value.seconds
    return _duration((seconds * 10**9 + value.microseconds * 1_000 + nanoseconds) * _ATTOSECONDS["ns"])


def _duration(attoseconds: int) -> str:
    """As ISO 8601 has it, of days and seconds: P1DT7200.5S."""
    seconds, rest = divmod(abs(attoseconds), _ATTOSECONDS["s"])
    days, seconds = divmod(seconds, 86_400)
    fraction = f".{rest:018d}".rstrip("0") if rest else ""
    time = f"T{seconds}{fraction}S" if seconds or rest else ""
    return f"{'-' if attoseconds < 0 else ''}P{f'{days}D' if days or not time else ''}{time}"


def _has_text(value: Any) -> bool:
    """Whether its class says how it reads; `object` only gives an address."""
    return _defines(value, "__str__") or _defines(value, "__repr__")


def _defines(value: Any, method: str) -> bool:
    return getattr(type(value), method) is not getattr(object, method)


def _key(key: Any) -> str:
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, Enum):
        return _key(key.value)
    if isinstance(key, (date, time)):
        return key.isoformat()
    return text(key)
