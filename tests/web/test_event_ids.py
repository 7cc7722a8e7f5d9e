"""Event ids: every position in few bytes, for as many channels as a connection may have, and never over 4 KiB."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core.positions import Position
from pushserver.web.event_ids import MAX_ID, EventIds, positions_of

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=50)
standings = st.dictionaries(names, st.tuples(st.integers(0, 2**53 - 1), st.text(max_size=20)), max_size=30)


@given(standings)
def test_what_was_put_in_comes_out(positions: dict[str, tuple[int, str]]) -> None:
    ids = EventIds()
    ids.update(positions)
    found = positions_of(ids.id().decode(), positions)
    assert found == {name: Position(offset, epoch) for name, (offset, epoch) in positions.items()}


def test_120_channels_with_long_names_and_epochs_of_their_own_fit() -> None:
    ids = EventIds()
    channels = [f"news:{n:03d}" + "x" * 92 for n in range(120)]
    for n, channel in enumerate(channels):
        ids.set(channel, 1_000_000 + n, f"{n:012x}")
    assert len(ids.id()) < 4096
    assert len(positions_of(ids.id().decode(), channels)) == 120


def test_what_does_not_fit_is_what_was_quiet_longest() -> None:
    ids = EventIds()
    channels = [f"news:{n}" for n in range(2000)]
    for n, channel in enumerate(channels):
        ids.set(channel, n + 1, f"epoch-{n % 3}")
    ids.set("news:0", 5000, "epoch-0")
    assert len(ids.id()) <= MAX_ID
    found = positions_of(ids.id().decode(), channels)
    assert found["news:0"] == Position(5000, "epoch-0")
    assert "news:1999" in found
    assert "news:1" not in found


def test_unsubscribing_shrinks_it() -> None:
    ids = EventIds()
    for n in range(1000):
        ids.set(f"news:{n}", n, f"epoch-{n}")
    ids.keep(["news:7"])
    assert len(ids.id()) < 40
    assert positions_of(ids.id().decode(), ["news:7", "news:8"]) == {"news:7": Position(7, "epoch-7")}
    for n in range(1000):
        # Epochs that were left behind are forgotten, too.
        ids.set("news:7", n, f"again-{n}")
    assert len(ids.id()) < 600


def test_an_id_of_an_earlier_version_is_read() -> None:
    old = urlsafe_b64encode(msgspec.json.encode({"news:a": (3, "e")})).rstrip(b"=").decode()
    assert positions_of(old, ["news:a", "news:b"]) == {"news:a": Position(3, "e")}
    assert positions_of(old, ["news:b"]) == {}


@given(st.binary(max_size=60))
def test_rubbish_is_no_position(octets: bytes) -> None:
    found = positions_of(urlsafe_b64encode(octets).decode(), ["a"])
    assert set(found) <= {"a"} or octets[:1] == b"{"
