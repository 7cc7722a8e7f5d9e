"""What a terminal sends, taken apart into keys. It takes anything: what is no key is passed over.

text        UTF-8, one printable character each
CSI         ESC [ parameters final        arrows, Home, End, Delete, Insert; ECMA-48 section 5.4
SS3         ESC O final                   the same in application mode
control     one byte below 0x20, or 0x7F
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from enum import Enum, auto
from typing import Final


class Key(Enum):
    """A key that is no character."""

    LEFT = auto()
    RIGHT = auto()
    UP = auto()
    DOWN = auto()
    HOME = auto()
    END = auto()
    BACKSPACE = auto()
    DELETE = auto()
    INSERT = auto()
    DELETE_WORD = auto()
    DELETE_BEFORE = auto()
    DELETE_AFTER = auto()
    TAB = auto()
    ENTER = auto()
    REDRAW = auto()
    INTERRUPT = auto()
    END_OF_INPUT = auto()
    QUIT = auto()


_CONTROL: Final = {
    "\x01": Key.HOME,
    "\x02": Key.LEFT,
    "\x03": Key.INTERRUPT,
    "\x04": Key.END_OF_INPUT,
    "\x05": Key.END,
    "\x06": Key.RIGHT,
    "\x08": Key.BACKSPACE,
    "\t": Key.TAB,
    "\n": Key.ENTER,
    "\x0b": Key.DELETE_AFTER,
    "\x0c": Key.REDRAW,
    "\r": Key.ENTER,
    "\x0e": Key.DOWN,
    "\x10": Key.UP,
    "\x15": Key.DELETE_BEFORE,
    "\x17": Key.DELETE_WORD,
    "\x1c": Key.QUIT,
    "\x7f": Key.BACKSPACE,
}
_FINAL: Final = {"A": Key.UP, "B": Key.DOWN, "C": Key.RIGHT, "D": Key.LEFT, "H": Key.HOME, "F": Key.END}
_NUMBERED: Final = {
    "1": Key.HOME,
    "2": Key.INSERT,
    "3": Key.DELETE,
    "4": Key.END,
    "7": Key.HOME,
    "8": Key.END,
}
#: Characters of a control sequence's parameters that are remembered; none that means something has more.
_MAX_PARAMETERS: Final = 16


class _State(Enum):
    TEXT = auto()
    RETURNED = auto()  # after "\r": a "\n" behind it belongs to it
    ESCAPED = auto()
    CSI = auto()
    SS3 = auto()


class Keyboard:
    """One terminal's keys. A sequence or a character may come in pieces."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._state = _State.TEXT
        self._parameters = ""

    def take(self, octets: bytes) -> Iterator[Key | str]:
        """Return the keys and the printable characters that the octets bring."""
        for one in self._decoder.decode(octets):
            key = self._take(one)
            if key is not None:
                yield key

    def _take(self, one: str) -> Key | str | None:
        state, self._state = self._state, _State.TEXT
        match state:
            case _State.ESCAPED if one in "[O":
                self._state = _State.CSI if one == "[" else _State.SS3
                self._parameters = ""
                return None
            case _State.ESCAPED if one != "\x1b":
                # Meta and a character means nothing here.
                return _CONTROL.get(one) if one < " " else None
            case _State.SS3 if one >= " ":
                return _FINAL.get(one)
            case _State.CSI if " " <= one <= "?":
                self._parameters = (self._parameters + one)[:_MAX_PARAMETERS]
                self._state = _State.CSI
                return None
            case _State.CSI if one >= "@":
                number = self._parameters.partition(";")[0]
                return _NUMBERED.get(number) if one == "~" else _FINAL.get(one)
            case _State.RETURNED if one == "\n":
                return None
        if one == "\x1b":
            self._state = _State.ESCAPED
            return None
        if one == "\r":
            self._state = _State.RETURNED
        if one in _CONTROL:
            return _CONTROL[one]
        return one if one.isprintable() else None
