"""Token buckets by key."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pushserver.core.rate_limit
from pushserver.core.errors import Code, Refused
from pushserver.core.rate_limit import SMALL, KeyedTokenBuckets, SharedTokenBuckets


@given(st.lists(st.integers(0, 2_000), max_size=100), st.floats(0.1, 20))
def test_never_more_than_the_rate_and_one_burst(pauses: list[int], per_second: float) -> None:
    buckets = KeyedTokenBuckets(per_second)
    now = taken = 0
    for pause in pauses:
        now += pause
        wait = buckets.wait("a", now)
        taken += not wait
        assert wait >= 0
    assert taken <= max(1.0, per_second) + now * per_second / 1000 + 1e-6


def test_who_waits_as_told_gets_in() -> None:
    buckets = KeyedTokenBuckets(2)
    assert [buckets.wait("a", 0) for _ in range(3)] == [0, 0, 500]
    assert buckets.wait("a", 500) == 0
    assert buckets.wait("b", 0) == 0
    with pytest.raises(Refused) as refused:
        buckets.take("a", 500, "things")
    assert (refused.value.code, refused.value.retry_after) == (Code.RATE_LIMITED, 500)


def test_no_limit_and_a_clock_that_is_set_back() -> None:
    assert KeyedTokenBuckets(0).wait("a", 0) == 0
    buckets = KeyedTokenBuckets(2)
    buckets.wait("a", 10_000_000)
    assert buckets.wait("a", 0) == 0


def test_the_longest_unused_key_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pushserver.core.rate_limit, "MAX_KEYS", 2)
    buckets = KeyedTokenBuckets(1)
    for key in "abc":
        buckets.wait(key, 0)
    assert list(buckets._buckets) == ["b", "c"]


def test_what_costs_more_than_the_bucket_holds_is_owed() -> None:
    buckets = KeyedTokenBuckets(10)
    assert buckets.wait("a", 0, cost=25) == 0
    assert buckets.wait("a", 0) == 1_600
    assert buckets.wait("a", 1_600) == 0
    assert KeyedTokenBuckets(1, burst=5).wait("a", 0, cost=5) == 0


@settings(max_examples=30)
@given(
    st.integers(2, 8),
    st.floats(0.5, 20),
    st.lists(st.integers(0, 40), min_size=8, max_size=8),
)
def test_one_users_rate_holds_over_nodes(count: int, per_second: float, demands: list[int]) -> None:
    """Each node is asked for so many tokens a second, and told once a second what the others gave."""
    nodes = [SharedTokenBuckets(per_second) for _ in range(count)]
    given_in: list[int] = []
    for second in range(20):
        given = 0
        for at, (node, demand) in enumerate(zip(nodes, demands, strict=False)):
            given += sum(not node.wait("a", second * 1000 + n * 1000 // demand) for n in range(demand))
            reported = node.report(1)
            for other in nodes[:at] + nodes[at + 1 :]:
                for key, cost in reported.items():
                    other.drain(key, second * 1000 + 999, cost)
        given_in.append(given)
    # What is too little to be reported is nothing beside the rest, and nobody gets less than with one bucket.
    most = 20 * per_second + max(1.0, per_second) * (1 + 2 * count)
    assert sum(given_in) <= most * (1 + SMALL * count)
    wanted = min(sum(demands[:count]), per_second)
    assert sum(given_in) >= 20 * wanted / 1.5 - count


def test_what_was_given_back_is_not_reported() -> None:
    here = SharedTokenBuckets(1, burst=2)
    assert [here.wait("a", 0) for _ in range(3)] == [0, 0, 1_000]
    here.give_back("a", 0)
    assert here.report(1) == {"a": 1}
    assert here.report(1) == {}
    assert here.wait("a", 0) == 0
    there = SharedTokenBuckets(1, burst=2)
    there.drain("a", 0, 5)
    assert there.wait("a", 0) == 4_000
    there.adopt(1)
    assert there.wait("a", 0) == 0


def test_where_there_is_no_limit_nothing_is_counted() -> None:
    buckets = SharedTokenBuckets(0)
    assert buckets.wait("a", 0) == 0
    buckets.drain("a", 0, 100)
    buckets.give_back("a", 0)
    assert buckets.wait("a", 0) == 0
    assert buckets.report(1) == {}
