"""The load table: who has how many connections, and who should let others go first."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from pushserver.app.workers.load_table import FRESH, LEAD, LoadTable, make


class Time:
    now = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def tables(time: Time) -> Iterator[list[LoadTable]]:
    """The same rows as three workers see them."""
    descriptor = make(3)
    tables = [LoadTable(descriptor, 3, own, time) for own in range(3)]
    os.close(descriptor)
    yield tables
    for table in tables:
        table.close()


def test_each_worker_sees_at_once_what_the_others_have(tables: list[LoadTable]) -> None:
    tables[0].note(5, 6)
    tables[1].note(7, 7)
    assert [table.elsewhere() for table in tables] == [7, 5, 12]


def test_whoever_is_gone_has_nothing(tables: list[LoadTable]) -> None:
    tables[0].note(5, 6)
    tables[2].clear(0)
    assert tables[1].elsewhere() == 0


def test_who_is_ahead_lets_others_go_first(tables: list[LoadTable]) -> None:
    tables[1].note(0, 10)
    tables[2].note(0, 90)
    assert not tables[0].ahead(10 + LEAD)
    assert tables[0].ahead(11 + LEAD)


def test_with_many_connections_a_few_per_cent_are_no_lead(tables: list[LoadTable]) -> None:
    tables[1].note(0, 1000)
    tables[2].note(0, 1000)
    assert not tables[0].ahead(1050)
    assert tables[0].ahead(1051)


def test_nobody_waits_for_a_worker_that_says_nothing(tables: list[LoadTable], time: Time) -> None:
    assert not tables[0].ahead(1000)
    tables[1].note(0, 0)
    assert tables[0].ahead(1000)
    time.now += FRESH + 1
    assert not tables[0].ahead(1000)
