"""Scripts, in Lua 5.1 as Redis runs them: `redis.call`, `redis.pcall`, `redis.sha1hex`, `struct`, `cmsgpack`,
`cjson.decode`."""

from __future__ import annotations

import json
import struct as packing
from collections.abc import Sequence
from hashlib import sha1
from typing import Any

from lupa.lua51 import LuaError, LuaRuntime, lua_type

from . import commands
from .values import Database, RedisError, Reply, Status

#: What `struct` calls its kinds, in the words of Python's module, by size.
_SIZES = {1: "B", 2: "H", 4: "I", 8: "Q"}

#: What scripts may not call.
_DENIED = {b"SUBSCRIBE", b"UNSUBSCRIBE", b"EVAL", b"EVALSHA", b"SCRIPT", b"WAIT", b"INFO"}


class Scripts:
    """Runs scripts on a database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lua = LuaRuntime(encoding=None, unpack_returned_tuples=True, register_eval=False)
        self._functions: dict[bytes, Any] = {}
        #: whether the script that runs has written something
        self._begun = False
        self._table = self._lua.table_from
        self._lua.globals()[b"redis"] = self._table(
            {
                b"call": self._call,
                b"pcall": self._protected,
                b"sha1hex": lambda text: sha1(_bytes(text)).hexdigest().encode(),
                b"error_reply": lambda text: self._table({b"err": text}),
                b"status_reply": lambda text: self._table({b"ok": text}),
            }
        )
        self._lua.globals()[b"struct"] = self._table({b"pack": _pack, b"unpack": _unpack})
        self._lua.globals()[b"cjson"] = self._table({b"decode": lambda text: self._from_json(json.loads(text))})
        self._lua.globals()[b"cmsgpack"] = self._table({b"pack": self._encode, b"unpack": self._decode})

    def load(self, text: bytes) -> bytes:
        """Keep a script; return its digest. Raises `RedisError` where it is none."""
        digest = sha1(text).hexdigest().encode()
        if digest not in self._functions:
            try:
                self._functions[digest] = self._lua.compile(text)
            except LuaError as problem:
                raise RedisError(f"ERR Error compiling script: {problem}") from None
        return digest

    def forget(self) -> None:
        self._functions.clear()

    def knows(self, digest: bytes) -> bool:
        return digest in self._functions

    def run(self, digest: bytes, keys: Sequence[bytes], arguments: Sequence[bytes]) -> Reply:
        """Return what a kept script replies. Raises `RedisError`."""
        function = self._functions.get(digest.lower())
        if function is None:
            raise RedisError("NOSCRIPT No matching script. Please use EVAL.")
        self._begun = False
        scope = self._lua.globals()
        scope[b"KEYS"], scope[b"ARGV"] = self._table(list(keys)), self._table(list(arguments))
        try:
            return self._reply(function())
        except LuaError as problem:
            raise RedisError(f"ERR {problem}") from None

    # -- what scripts call --------------------------------------------------------------------------------------------

    def _call(self, *parts: Any) -> Any:
        words = [_bytes(part) for part in parts]
        if words[0].upper() in _DENIED:
            raise RedisError("ERR This Redis command is not allowed from script")
        reply = commands.run(self._database, words, self._begun)
        self._begun = self._begun or commands.COMMANDS[words[0].upper()][3]
        return self._value(reply)

    def _protected(self, *parts: Any) -> Any:
        try:
            return self._call(*parts)
        except RedisError as problem:
            return self._table({b"err": str(problem).encode()})

    def _value(self, reply: Reply) -> Any:
        """Return a reply as scripts get it."""
        if reply is None:
            return False
        if isinstance(reply, Status):
            return self._table({b"ok": bytes(reply)})
        if isinstance(reply, list):
            return self._table([self._value(each) for each in reply])
        return reply

    def _reply(self, value: Any) -> Reply:
        """Return what a script returned as a reply."""
        if value is None or value is False:
            return None
        if value is True:
            return 1
        if isinstance(value, int | float):
            return int(value)
        if isinstance(value, bytes):
            return value
        if lua_type(value) != "table":
            return None
        if value[b"err"] is not None:
            raise RedisError(value[b"err"].decode())
        if value[b"ok"] is not None:
            return Status(value[b"ok"])
        found: list[Reply] = []
        while (each := value[len(found) + 1]) is not None:
            found.append(self._reply(each))
        return found

    def _from_json(self, value: Any) -> Any:
        """Return parsed JSON as scripts get it; null is a table, as good as any value that is not nil."""
        if isinstance(value, str):
            return value.encode()
        if isinstance(value, dict):
            return self._table({name.encode(): self._from_json(each) for name, each in value.items()})
        if isinstance(value, list):
            return self._table([self._from_json(each) for each in value])
        return self._table({}) if value is None else value

    # -- cmsgpack -----------------------------------------------------------------------------------------------------

    def _encode(self, value: Any) -> bytes:
        if value is None:
            return b"\xc0"
        if isinstance(value, bool):
            return b"\xc3" if value else b"\xc2"
        if isinstance(value, int):
            return _encode_integer(value)
        if isinstance(value, float):
            short = packing.unpack(">f", packing.pack(">f", value))[0] == value
            return packing.pack(">Bf", 0xCA, value) if short else packing.pack(">Bd", 0xCB, value)
        if isinstance(value, bytes):
            return _head(len(value), (0xA0, 32), ((0xD9, "B"), (0xDA, "H"), (0xDB, "I"))) + value
        pairs = list(value.items())
        numbers = [key for key, _ in pairs if isinstance(key, int) and key > 0]
        if len(numbers) == len(pairs) and max(numbers, default=0) == len(pairs):
            items = [self._encode(value[at + 1]) for at in range(len(pairs))]
            return _head(len(pairs), (0x90, 16), ((0xDC, "H"), (0xDD, "I"))) + b"".join(items)
        items = [self._encode(part) for pair in pairs for part in pair]
        return _head(len(pairs), (0x80, 16), ((0xDE, "H"), (0xDF, "I"))) + b"".join(items)

    def _decode(self, octets: bytes) -> Any:
        value, _ = self._take(octets, 0)
        return value

    def _take(self, octets: bytes, at: int) -> tuple[Any, int]:
        kind = octets[at]
        if kind < 0x80 or kind >= 0xE0:
            return kind - (256 if kind >= 0xE0 else 0), at + 1
        simple = {0xC0: None, 0xC2: False, 0xC3: True}
        if kind in simple:
            return simple[kind], at + 1
        if kind in _NUMBERS:
            form = ">" + _NUMBERS[kind]
            return packing.unpack_from(form, octets, at + 1)[0], at + 1 + packing.calcsize(form)
        size, at = _size(kind, octets, at)
        if kind in (0xD9, 0xDA, 0xDB) or 0xA0 <= kind < 0xC0:
            return octets[at : at + size], at + size
        found = self._lua.table()
        array = kind in (0xDC, 0xDD) or 0x90 <= kind < 0xA0
        for number in range(size):
            key: Any = number + 1
            if not array:
                key, at = self._take(octets, at)
            found[key], at = self._take(octets, at)
        return found, at


def _bytes(value: Any) -> bytes:
    """Return an argument of a command as Redis takes it from a script."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RedisError("ERR Lua redis lib command arguments must be strings or integers")
    return b"%.17g" % value


#: The kinds of numbers in MessagePack, in the words of `struct`.
_NUMBERS = {
    0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q",
}  # fmt: skip


def _encode_integer(value: int) -> bytes:
    if 0 <= value < 128:
        return bytes((value,))
    if -32 <= value < 0:
        return packing.pack(">b", value)
    kinds = (
        ((0xCC, "B", 2**8), (0xCD, "H", 2**16), (0xCE, "I", 2**32), (0xCF, "Q", 2**64))
        if value >= 0
        else ((0xD0, "b", 2**7), (0xD1, "h", 2**15), (0xD2, "i", 2**31), (0xD3, "q", 2**63))
    )
    kind, form, _ = next(each for each in kinds if -each[2] <= value < each[2])
    return packing.pack(f">B{form}", kind, value)


def _head(size: int, fixed: tuple[int, int], kinds: Sequence[tuple[int, str]]) -> bytes:
    first, most = fixed
    if size < most:
        return bytes((first | size,))
    kind, form = next(each for each in kinds if size < 256 ** packing.calcsize(each[1]))
    return packing.pack(f">B{form}", kind, size)


def _size(kind: int, octets: bytes, at: int) -> tuple[int, int]:
    """Return the size of a text, an array or a map, and where it begins."""
    forms = {0xD9: "B", 0xDA: "H", 0xDB: "I", 0xDC: "H", 0xDD: "I", 0xDE: "H", 0xDF: "I"}
    if kind in forms:
        form = ">" + forms[kind]
        return packing.unpack_from(form, octets, at + 1)[0], at + 1 + packing.calcsize(form)
    return kind & (0x1F if kind >= 0xA0 else 0x0F), at + 1


def _form(text: bytes) -> str:
    """Return a format of Lua's `struct` in the words of Python's."""
    form = "<"
    letters = text.decode()
    at = 0
    while at < len(letters):
        letter = letters[at]
        at += 1
        digits = ""
        while at < len(letters) and letters[at].isdigit():
            digits += letters[at]
            at += 1
        if letter in "<>":
            form = letter + form[1:]
        elif letter in "Ii":
            kind = _SIZES[int(digits or 4)]
            form += kind if letter == "I" else kind.lower()
        elif letter in "Bb":
            form += letter
        else:
            raise RedisError(f"ERR invalid format option '{letter}'")
    return form


def _pack(text: bytes, *values: Any) -> bytes:
    return packing.pack(_form(text), *map(int, values))


def _unpack(text: bytes, octets: bytes, at: int = 1) -> tuple[Any, ...]:
    form = _form(text)
    if len(octets) < at - 1 + packing.calcsize(form):
        raise RedisError("ERR data string too short")
    return (*packing.unpack_from(form, octets, at - 1), at + packing.calcsize(form))
