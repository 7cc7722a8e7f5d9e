"""Reads that several wait for together."""

from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from pushserver.core.errors import Unavailable
from pushserver.server.shared_reads import SharedReads


class Store:
    """What is read, and when."""

    def __init__(self) -> None:
        self.reads = SharedReads[str]()
        #: the reads that have begun, in their order
        self.begun: list[Deferred[str]] = []

    def _read(self) -> Deferred[str]:
        self.begun.append(Deferred())
        return self.begun[-1]

    def ask(self, asked: str = "a") -> Deferred[str]:
        return Deferred.fromCoroutine(self.reads.read(asked, self._read))


def result(answer: Deferred[str]) -> str | Failure:
    found: list[str | Failure] = []
    answer.addBoth(found.append)
    return found[0]


def test_who_comes_while_a_read_is_under_way_shares_the_next_one() -> None:
    store = Store()
    first, second, third = store.ask(), store.ask(), store.ask()
    assert len(store.begun) == 1
    store.begun[0].callback("before the others asked")
    assert result(first) == "before the others asked"
    assert not second.called
    fourth = store.ask()
    assert len(store.begun) == 2
    store.begun[1].callback("for two")
    assert (result(second), result(third)) == ("for two", "for two")
    assert not fourth.called
    store.begun[2].callback("for the last")
    assert result(fourth) == "for the last"
    store.ask()
    assert len(store.begun) == 4


def test_another_page_is_read_by_itself() -> None:
    store = Store()
    store.ask("a")
    other = store.ask("b")
    store.begun[1].callback("b")
    assert result(other) == "b"


def test_a_read_that_fails_fails_for_who_shared_it_and_no_one_else() -> None:
    store = Store()
    first, second, third = store.ask(), store.ask(), store.ask()
    store.begun[0].errback(Unavailable("away"))
    store_failed = result(first)
    assert isinstance(store_failed, Failure)
    store.begun[1].errback(Unavailable("still away"))
    for each in (second, third):
        failed = result(each)
        assert isinstance(failed, Failure)
        assert failed.getErrorMessage() == "still away"
    fourth = store.ask()
    store.begun[2].callback("back")
    assert result(fourth) == "back"


@pytest.mark.parametrize("who", ["first", "second", "both who share"])
def test_who_leaves_takes_nothing_from_the_others(who: str) -> None:
    store = Store()
    first, second, third = store.ask(), store.ask(), store.ask()
    leaving = {"first": [first], "second": [second], "both who share": [second, third]}[who]
    for each in leaving:
        each.cancel()
        failed = result(each)
        assert isinstance(failed, Failure)
        assert failed.check(CancelledError)
    if first not in leaving:
        store.begun[0].callback("one")
        assert result(first) == "one"
    if third in leaving:
        assert len(store.begun) == 1
        return
    store.begun[1].callback("two")
    assert result(third) == "two"


def test_who_leaves_while_the_shared_read_is_under_way_is_not_waited_for() -> None:
    store = Store()
    first, second, third = store.ask(), store.ask(), store.ask()
    store.begun[0].callback("one")
    second.cancel()
    store.begun[1].callback("two")
    assert (result(first), result(third)) == ("one", "two")
    assert isinstance(result(second), Failure)
