"""What is asked of a history, and how much of it one reply holds."""

from __future__ import annotations

import pytest
from msgspec import Raw

from pushserver.core import operations
from pushserver.core.errors import Code, Refused
from pushserver.core.positions import Position
from pushserver.core.publication import Publication
from pushserver.protocols.centrifuge import history
from pushserver.protocols.centrifuge.messages import StreamPosition


def kept(number: int, size: int) -> tuple[Publication, ...]:
    data = Raw(b'"%b"' % (b"x" * (size - 2)))
    return tuple(
        Publication(type="message", channel="kept:a", data=data, timestamp=0, message_id=f"m{n}").positioned(n, "e")
        for n in range(1, number + 1)
    )


@pytest.mark.parametrize(("limit", "count"), [(None, 0), (0, 0), (7, 7), (1_000, 1_000), (1_001, 1_000), (-1, 1_000)])
def test_a_page_has_a_thousand_at_most(limit: int | None, count: int) -> None:
    asked = history.asked("kept:a", limit, StreamPosition(3, "e"), True)
    assert asked == operations.ReadHistory("kept:a", count, Position(3, "e"), True)


def test_a_position_has_an_epoch() -> None:
    assert history.asked("kept:a", 1, StreamPosition(), None).since is None
    with pytest.raises(Refused) as refused:
        history.asked("kept:a", 1, StreamPosition(3), None)
    assert refused.value.code is Code.CONFLICT


def test_a_reply_ends_at_768_kib_and_says_where_the_channel_stands() -> None:
    read = kept(40, 65_536)
    # As it is read where more is kept than one reply of any protocol has room for.
    page = history.page(operations.HistoryRead(read, 40, "e", 90, more=True))
    assert len(page.publications) == 768 * 1024 // (65_536 + history.AROUND)
    assert [p.offset for p in page.publications] == [*range(1, len(page.publications) + 1)]
    assert (page.offset, page.epoch) == (90, "e")


def test_one_message_has_room_in_any_case() -> None:
    assert len(history.fitting(kept(2, history.MAX_HISTORY_SIZE + 1))) == 1


def test_a_message_that_leaves_no_room_for_the_reply_around_it_is_told_without_its_data() -> None:
    for size, whole in ((990_000, True), (999_000, False)):
        (told,) = history.page(operations.HistoryRead(kept(1, size), 1, "e", 1)).publications
        assert (bytes(told.data) != b"null", "truncated" not in told.tags) == (whole, whole)
