"""Clients of a load come from many addresses, each always from the same."""

from __future__ import annotations

from tests.loopback import ADDRESSES, source


def test_clients_come_from_many_addresses_each_always_from_the_same() -> None:
    assert len({source(number) for number in range(100)}) == ADDRESSES
    assert len({source(f"u{number}") for number in range(1_000)}) == ADDRESSES
    assert source("ann") == source("ann")
    assert source(ADDRESSES) == source(0) == "127.0.1.1"
