"""Output as values: what may be appended, and how pieces are cut and joined."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core import output
from pushserver.core.errors import Invalid
from pushserver.core.output import OutputKind, OutputPublication, Producer, ProducerConflict, appended

WORDS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def publications(texts: list[str]) -> list[OutputPublication]:
    made: list[OutputPublication] = []
    at = 0
    for text in texts:
        content = output.literal(OutputKind.TEXT, text.encode())
        made.append(appended("output:main/t", "e", (at, at + len(text.encode())), content, 1_000))
        at += len(text.encode())
    return made


def told(publication: OutputPublication) -> Any:
    return json.loads(bytes(output.told(publication).data))


@given(st.lists(WORDS, min_size=1, max_size=8), st.data())
def test_what_is_merged_and_cut_is_the_same_text(texts: list[str], data: st.DataObject) -> None:
    whole = "".join(texts)
    joined = output.merged(publications(texts))
    assert told(joined) == {"text": whole}
    assert (joined.before, joined.offset) == (0, len(whole.encode()))
    characters = data.draw(st.integers(0, len(whole)))
    at = len(whole[:characters].encode())
    rest = output.cut(joined, at)
    assert rest.before == at
    assert told(rest) == ({"text": whole[characters:]} if whole[characters:] else {})


@given(st.lists(st.lists(st.integers() | WORDS | st.none(), min_size=1, max_size=4), min_size=1, max_size=5))
def test_items_are_merged_whole(parts: list[list[Any]]) -> None:
    made = [output.new_output("main", None, part, 1_000) for part in parts]
    ends = [sum(map(len, parts[: n + 1])) for n in range(len(parts))]
    every = [item for part in parts for item in part]
    joined = output.merged(
        [
            appended("output:main/t", "e", (end - new.count, end), output.literal(new.kind, new.body), 1_000)
            for new, end in zip(made, ends, strict=True)
        ]
    )
    assert told(joined) == {"items": every}
    assert json.loads(output.literal(OutputKind.ITEMS, b"".join(new.body for new in made))) == every
    rest = output.cut(joined, 1)
    assert told(rest) == ({"items": every[1:]} if ends[-1] > 1 else {})


@given(WORDS, st.integers(1, 40))
def test_a_cut_leaves_whole_characters(text: str, limit: int) -> None:
    octets = text.encode()
    end = output.whole_characters(octets, limit)
    assert 0 < end <= max(limit, 4)
    assert text.startswith(octets[:end].decode())
    lines = b"".join(b"%d\n" % n for n in range(20))
    end = output.whole_items(lines, limit)
    assert lines[:end].endswith(b"\n")
    assert end <= max(limit, 2)


def test_the_end_takes_one_position_that_clients_do_not_see() -> None:
    (text,) = publications(["one"])
    end = appended("output:main/t", "e", (3, 3), None, 2_000, closes=True)
    assert (end.offset, end.reached, told(end)) == (4, 3, {"closed": True})
    joined = output.merged([text, end])
    assert (joined.before, joined.offset, told(joined)) == (0, 4, {"text": "one", "closed": True})
    assert output.told(joined).offset == 3
    assert told(output.cut(joined, 3)) == {"closed": True}


@pytest.mark.parametrize(
    ("name", "text", "items"),
    [
        ("main", None, None),
        ("main", "a", [1]),
        ("main", "", None),
        ("main", None, []),
        ("main", "\ud800", None),
        ("", "a", None),
        ("A", "a", None),
        ("a/b", "a", None),
        ("a" * 33, "a", None),
    ],
)
def test_what_cannot_be_appended(name: str, text: str | None, items: list[Any] | None) -> None:
    with pytest.raises(Invalid):
        output.new_output(name, text, items, 1_000)


def test_a_producers_appends_follow_each_other() -> None:
    for known, producer in ((None, Producer("p", 5, 0)), ((5, 0), Producer("p", 5, 1)), ((5, 1), Producer("p", 6, 0))):
        assert not output.is_repeat(known, producer)
        output.check_next(known, producer)
    assert output.is_repeat((5, 1), Producer("p", 5, 1))
    assert output.is_repeat((5, 1), Producer("p", 5, 0))
    assert not output.is_repeat((5, 1), Producer("p", 4, 0))
    for known, producer in ((None, Producer("p", 0, 1)), ((5, 1), Producer("p", 6, 2))):
        with pytest.raises(Invalid):
            output.check_next(known, producer)
    for producer in (Producer("p", 5, 3), Producer("p", 4, 2)):
        with pytest.raises(ProducerConflict) as conflict:
            output.check_next((5, 1), producer)
        assert (conflict.value.epoch, conflict.value.expected) == (5, 2)
