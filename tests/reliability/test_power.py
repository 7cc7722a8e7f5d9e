"""What a disk may have that lost its power, of writes that are given; and a server's own writes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.reliability.power import DATABASE, FILES, SECTOR, Operation, after, parse, play

LOG = FILES[1]


def write(at: float, octets: bytes, offset: int = 0) -> Operation:
    return Operation(at, at + 0.1, "write", LOG, offset, octets)


def sync(at: float) -> Operation:
    return Operation(at, at + 0.1, "sync", LOG)


def outcomes(done: list[Operation], moment: float) -> set[bytes]:
    chance = random.Random(1)
    return {after({LOG: b""}, done, moment, chance)[LOG] for _ in range(2_000)}


def test_what_was_synced_is_there() -> None:
    done = [write(1, b"a" * 600), sync(2)]
    assert outcomes(done, 3) == {b"a" * 600}


def test_what_was_not_synced_may_be_there_in_part() -> None:
    done = [write(1, b"a" * 2 * SECTOR), sync(2), write(3, b"b" * 2 * SECTOR), write(4, b"c", 2 * SECTOR)]
    found = outcomes(done, 5)
    old, new = b"a" * SECTOR, b"b" * SECTOR
    assert found == {
        head + tail for head in (old + old, new + new, old + new, new + old) for tail in (b"", b"c", b"\0")
    }


def test_what_began_later_is_not_there() -> None:
    assert outcomes([write(1, b"a"), sync(2), write(3, b"b")], 2.5) == {b"a"}


@pytest.mark.parametrize("began", [1.05, 2.95])
def test_a_sync_holds_for_what_was_written_before_it_began_and_only_once_it_is_over(began: float) -> None:
    assert outcomes([write(1, b"a"), sync(began)], 3) == {b"a", b"", b"\0"}


def test_a_truncation_is_like_a_write() -> None:
    done = [write(1, b"abc"), sync(2), Operation(3, 3.1, "truncate", LOG, 1)]
    assert outcomes(done, 4) == {b"abc", b"a"}


def test_what_strace_records_is_read() -> None:
    path = "".join(f"\\x{octet:02x}" for octet in f"/state/{DATABASE}".encode())
    lines = [
        f'10.5 pwrite64(7<{path}>, "\\x61\\x62", 2, 4096) = 2 <0.25>',
        '10.6 pwrite64(8<\\x2f\\x78>, "\\x61", 1, 0) = 1 <0.1>',
        f"11.0 fdatasync(7<{path}>) = 0 <0.5>",
        f"12.0 ftruncate(7<{path}>, 100) = 0 <0.5>",
        "--- SIGTERM ---",
    ]
    assert list(parse(iter(lines))) == [
        Operation(10.5, 10.75, "write", DATABASE, 4096, b"ab"),
        Operation(11.0, 11.5, "sync", DATABASE),
        Operation(12.0, 12.5, "truncate", DATABASE, 100),
    ]


@pytest.mark.full
def test_what_was_answered_outlives_lost_power(tmp_path: Path) -> None:
    books = play(tmp_path, int(os.environ.get("SEED", "1")), cuts=100, seconds=3)
    print(books)
    assert not books["broken"]
    assert books["messages answered"] > 20
    assert books["syncs"] > 10
