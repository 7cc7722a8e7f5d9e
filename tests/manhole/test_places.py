"""Who may hold a connection to the console."""

from __future__ import annotations

from typing import Any

import pytest

from pushserver.manhole.places import MAX_OPERATORS, MAX_STRANGERS, ConsolePlaces, neighbourhood


class Caller:
    transport: Any = None

    def __init__(self, address: str) -> None:
        self.address = address

    def give_way(self) -> None: ...


@pytest.mark.parametrize(
    ("address", "counts_as"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::9", "2001:db8:1:2::/64"),
        ("unix", "unix"),
    ],
)
def test_what_counts_as_one_address(address: str, counts_as: str) -> None:
    assert neighbourhood(address) == counts_as


def test_of_the_address_that_has_most_the_oldest_goes() -> None:
    places = ConsolePlaces()
    operator = Caller("192.0.2.1")
    assert places.come(operator) is None
    crowd = [Caller("192.0.2.7") for _ in range(3 * MAX_STRANGERS)]
    gone = [places.come(one) for one in crowd]
    assert gone == [None] * (MAX_STRANGERS - 1) + crowd[: 2 * MAX_STRANGERS + 1]
    assert places.log_in(operator)


def test_many_addresses_each_with_one_make_way_in_the_order_in_which_they_came() -> None:
    places = ConsolePlaces()
    crowd = [Caller(f"192.0.2.{n}") for n in range(MAX_STRANGERS + 2)]
    assert [places.come(one) for one in crowd][-2:] == crowd[:2]


def test_who_is_logged_in_keeps_the_place() -> None:
    places = ConsolePlaces()
    operators = [Caller("192.0.2.1") for _ in range(MAX_OPERATORS + 1)]
    for one in operators[:-1]:
        places.come(one)
        assert places.log_in(one)
    places.come(operators[-1])
    assert not places.log_in(operators[-1])
    for _ in range(MAX_STRANGERS):
        places.come(Caller("192.0.2.2"))
    assert places.operators == set(operators[:-1])
    places.leave(operators[0])
    places.leave(operators[0])
    assert places.log_in(operators[-1])
    assert len(places) == MAX_OPERATORS + MAX_STRANGERS - 1
    made_way = Caller("192.0.2.2")
    assert not places.log_in(made_way)
