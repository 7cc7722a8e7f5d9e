"""Token buckets by key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pushserver.core.rate_limit
from pushserver.core.errors import Code, Refused
from pushserver.core.rate_limit import KeyedTokenBuckets


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
