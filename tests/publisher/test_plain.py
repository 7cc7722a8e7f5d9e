"""Any value becomes what JSON carries."""

from __future__ import annotations

import math
import os
from collections import OrderedDict, deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.publisher.plain import MAX_DEPTH, plain, text

LIMIT = 100_000


class Lazy:
    """As Django's translations: no str, but with a text."""

    def __str__(self) -> str:
        return "lazy text"

    def __iter__(self) -> Any:
        return iter("lazy text")


class Colour(Enum):
    RED = "red"


class Broken:
    def __str__(self) -> str:
        raise ZeroDivisionError


@dataclass
class Point:
    x: int
    y: float


class Scalar:
    """As numpy's: a number by `tolist`."""

    dtype = SimpleNamespace(kind="f")

    def tolist(self) -> float:
        return 0.5


class Wide:
    """As numpy's longdouble, or its complex one: itself by `tolist`."""

    def __init__(self, kind: str) -> None:
        self.dtype = SimpleNamespace(kind=kind)

    def tolist(self) -> Wide:
        return self

    def __float__(self) -> float:
        return 1.5

    def __str__(self) -> str:
        return "1.5+2j"


class Moments:
    """As numpy's datetime64 array: integers by `tolist`, texts by way of `astype`."""

    dtype = SimpleNamespace(kind="M")

    def tolist(self) -> list[int]:
        return [1]

    def astype(self, kind: type) -> Any:
        assert kind is str
        return SimpleNamespace(tolist=lambda: ["2026-01-01"])


class Moment(Moments):
    """As numpy's datetime64 itself, or an array of one that has no length: a text by way of `astype`."""

    def astype(self, kind: type) -> Any:
        return SimpleNamespace(tolist=lambda: "2026-01-01")


class NoMoment(Moments):
    def astype(self, kind: type) -> Any:
        return SimpleNamespace(tolist=lambda: "NaT")


class Durations:
    """As numpy's timedelta64 array: integers of its unit, the least one for none; None where it is masked."""

    def __init__(self, unit: str, counts: Any) -> None:
        self.dtype = SimpleNamespace(kind="m", str=f"<m8{unit}")
        self.counts = counts

    def tolist(self) -> Any:
        return self.counts

    def astype(self, kind: str) -> Any:
        assert kind == "int64"
        return SimpleNamespace(tolist=lambda: self.counts)


class NaTType(datetime):
    """As pandas': a datetime that is none."""


class Series(Moments):
    """As pandas': its `tolist` has moments, and its `astype` gives texts that are not ISO 8601."""

    def isna(self) -> None: ...

    def tolist(self) -> list[Any]:
        return [datetime(2026, 1, 1, 10), NaTType(1, 1, 1)]


class PandasTimedelta(timedelta):
    nanoseconds = 500


class Frame:
    """As pandas' DataFrame."""

    columns = ("a", 2)

    def itertuples(self, index: bool, name: None) -> Any:
        return iter([(1, math.nan), (2, 0.5)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"n": 1, "t": True, "z": None, "s": "ü"}, {"n": 1, "t": True, "z": None, "s": "ü"}),
        (math.nan, None),
        (-math.inf, None),
        (2**63 - 1, 2**63 - 1),
        (2**70, str(2**70)),
        (Decimal("1.50"), "1.50"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Path("/a/b"), "/a/b"),
        (Lazy(), "lazy text"),
        (ValueError("boom"), "boom"),
        (Colour.RED, "red"),
        (date(2026, 1, 2), "2026-01-02"),
        (datetime(2026, 1, 2, 3, tzinfo=UTC), "2026-01-02T03:00:00+00:00"),
        (timedelta(seconds=90), "PT90S"),
        ({3}, [3]),
        ((1, (2,)), [1, [2]]),
        (range(3), [0, 1, 2]),
        (deque([1]), [1]),
        ((n for n in (1, 2)), [1, 2]),
        (OrderedDict(a=1), {"a": 1}),
        (b"\x00\xff", "AP8="),
        (Point(1, math.nan), {"x": 1, "y": None}),
        (Scalar(), 0.5),
        ([Wide("f"), Wide("c")], [1.5, "1.5+2j"]),
        (Moments(), ["2026-01-01"]),
        (Moment(), "2026-01-01"),
        (NoMoment(), None),
        ([NoMoment(), {"at": NoMoment()}], [None, {"at": None}]),
        (Durations("[s]", 90), "PT90S"),
        (Durations("[s]", -(2**63)), None),
        (
            Durations("[ms]", [[1500, -1, None], [-(2**63), 0, 90_000_000]]),
            [["PT1.5S", "-PT0.001S", None], [None, "P0D", "P1DT3600S"]],
        ),
        (Durations("[25s]", [3]), ["PT75S"]),
        (Durations("[W]", 2), "P14D"),
        (Durations("[M]", -3), "-P3M"),
        (Durations("", [3, -(2**63)]), [3, None]),
        (Series(), ["2026-01-01T10:00:00", None]),
        (PandasTimedelta(microseconds=1), "PT0.0000015S"),
        (timedelta(days=1, seconds=7200, microseconds=5), "P1DT7200.000005S"),
        (timedelta(days=-2), "-P2D"),
        (timedelta(0), "P0D"),
        (Frame(), [{"a": 1, "2": None}, {"a": 2, "2": 0.5}]),
        ({1: "a", (1, 2): "b", None: "c"}, {"1": "a", "(1, 2)": "b", "null": "c"}),
        ({True: "d"}, {"true": "d"}),
        ({Colour.RED: 1, date(2026, 1, 2): 2}, {"red": 1, "2026-01-02": 2}),
        (os.fsdecode(b"caf\xe9.txt"), "caf\ufffd.txt"),
        ("\ud83d\ude00", "\U0001f600"),
    ],
)
def test_each_has_its_form(value: Any, expected: Any) -> None:
    found = plain(value, LIMIT)
    assert (found.value, found.truncated) == (expected, False)
    msgspec.json.encode(found.value)


def test_what_has_no_form_is_left_out_and_the_rest_kept() -> None:
    cycle: dict[str, Any] = {"n": 1}
    cycle["me"] = cycle
    found = plain({"cycle": cycle, "object": object(), "broken": Broken(), "list": [object(), 2]}, LIMIT)
    assert found.value == {"cycle": {"n": 1}, "broken": "Broken", "list": [None, 2]}
    assert found.truncated
    assert plain(object(), LIMIT) == plain(object(), LIMIT)


def test_the_same_value_twice_is_no_cycle() -> None:
    shared = [1]
    assert plain([shared, shared], LIMIT).value == [[1], [1]]


def test_depth_is_bounded() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    found = plain(deep, LIMIT)
    assert found.truncated
    assert msgspec.json.encode(found.value).count(b"[") == MAX_DEPTH


@pytest.mark.parametrize(
    "value",
    ["x" * 10**6, "\x00" * 10**6, "ü" * 10**6, ["abc"] * 10**6, {str(n): n for n in range(10**5)}, b"x" * 10**6],
    ids=["text", "escaped text", "two bytes", "list", "object", "bytes"],
)
def test_size_is_bounded(value: Any) -> None:
    found = plain(value, 10_000)
    assert found.truncated
    assert 1_000 < len(msgspec.json.encode(found.value)) <= 11_000


def test_a_file_is_not_read() -> None:
    with Path(__file__).open() as file:
        plain(file, LIMIT)
        assert file.tell() == 0


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
)


@given(_values, st.integers(10, 1_000))
def test_everything_can_be_encoded_and_is_not_much_larger_than_allowed(value: Any, limit: int) -> None:
    found = plain(value, limit)
    assert len(msgspec.json.encode(found.value)) <= limit + 100 or not found.truncated


@given(st.text(st.characters(min_codepoint=0xD000, max_codepoint=0xE000)))
def test_every_text_can_be_encoded(value: str) -> None:
    text(value).encode()
