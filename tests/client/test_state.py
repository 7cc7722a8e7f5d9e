"""What can be chosen, in seconds and in the older milliseconds."""

from __future__ import annotations

import pytest

from pushserver.client import Backoff, Client, ClientService, Options, RequestFailed, Retry, Settings


def test_both_ways_begin_with_the_same() -> None:
    assert Settings().options() == Options()
    assert Retry().backoff() == Backoff()


def test_seconds_are_seconds() -> None:
    retry = Retry(first=0.5, next=2.0, factor=2.0, cap=30.0)
    options = Settings(connect_timeout=1.5, request_timeout=2, token_timeout=3, retry=retry, max_attempts=4).options()
    assert (options.connect_timeout, options.request_timeout, options.token_timeout) == (1_500, 2_000, 3_000)
    assert options.backoff == Backoff(first=2_000, factor=2.0, cap=30_000, alone=500)
    assert options.max_attempts == 4
    assert RequestFailed("RATE_LIMITED", "slow", 1_500).retry_in == 1.5
    assert RequestFailed("NOT_FOUND", "none").retry_in is None


@pytest.mark.parametrize("kind", [Client, ClientService])
@pytest.mark.parametrize("token", ["", b"token", 42])
def test_what_is_no_token(kind: type, token: object) -> None:
    with pytest.raises(ValueError, match="a token is text"):
        kind("ws://127.0.0.1/ws", token=token)


@pytest.mark.parametrize("kind", [Client, ClientService])
def test_one_way_at_a_time(kind: type) -> None:
    with pytest.raises(ValueError, match="not both"):
        kind("ws://127.0.0.1/ws", settings=Settings(), options=Options())
