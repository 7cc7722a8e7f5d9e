"""What a run needs is counted before anything is started, and what does not suffice is named in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.scale.limits import Machine, plan, this_machine
from bench.servers import ADDRESSES, NotAvailable

#: The machine that the run was made for.
LARGE = Machine(files=20_000, ports=28_232, memory=20 << 20)


def test_sixty_thousand_on_four_workers() -> None:
    laid_out = plan(60_000, 4, 18_000, LARGE)
    assert laid_out.per_client == (15_000,) * 4
    assert laid_out.most_of_worker == 15_900
    assert laid_out.addresses == 1_000


def test_a_small_run_has_several_clients_too() -> None:
    laid_out = plan(201, 2, 1_000, Machine(1_024, 28_232, 2 << 20))
    assert laid_out.per_client == (101, 100)
    assert laid_out.addresses == ADDRESSES


def test_clients_have_no_more_connections_than_descriptors() -> None:
    assert plan(2_000, 4, 1_000, Machine(1_000, 28_232, 2 << 20)).per_client == (667, 667, 666)


@pytest.mark.parametrize(
    ("connections", "workers", "files", "machine", "said"),
    [
        (60_000, 4, 18_000, replace(LARGE, files=4_096), "18000 descriptors, and a process may have 4096"),
        (60_000, 3, 18_000, LARGE, "60000 connections on 3 workers need 21400 descriptors of each, and it has 18000"),
        (10, 2, 100, replace(LARGE, files=150), "a client needs more than 200 descriptors"),
        (60_000, 4, 18_000, Machine(20_000, 100, 20 << 20), "an address needs 60 ports .* and 50 may be used"),
        (60_000, 4, 18_000, Machine(20_000, 28_232, 1 << 20), "needs up to 2943 MiB of memory, and 1024 are free"),
    ],
)
def test_what_does_not_suffice(connections: int, workers: int, files: int, machine: Machine, said: str) -> None:
    with pytest.raises(NotAvailable, match=said) as refused:
        plan(connections, workers, files, machine)
    assert "\n" not in str(refused.value)


def test_this_machine_says_what_it_has() -> None:
    there = this_machine()
    assert there.files > 0
    assert there.ports > 0
    assert there.memory > 0
