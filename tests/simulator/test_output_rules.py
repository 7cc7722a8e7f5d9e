"""Each rule of outputs finds what breaks it, and nothing in a history where all is well."""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulator.output_rules import OutputRules

TASK, EPOCH = "o1", "g.e"


class Story:
    """A task that writes `ab`, `é` and, with its end, `z`; and one reader."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []
        for seq, text in enumerate(("ab", "é")):
            asked = {"taskId": TASK, "text": text, "producer": {"id": "w", "epoch": 0, "seq": seq}}
            self.call("task.output", asked, {"offset": 0})
        self.call("task.complete", {"taskId": TASK, "output": {"text": "z"}}, {"taskId": TASK})

    def add(self, event: str, **fields: Any) -> None:
        self.lines.append({"at": 10.0 * len(self.lines), "event": event, **fields})

    def call(self, what: str, arguments: Any, result: Any) -> None:
        self.add("call", call=len(self.lines), what=what, arguments=arguments)
        self.add("answer", call=len(self.lines) - 1, outcome="done", result=result)

    def told(self, text: str, offset: int, **more: Any) -> None:
        known = {"reader": "reader-1", "channel": f"output:main/{TASK}", "answer": False, "epoch": EPOCH}
        self.add("output", **known | {"text": text, "offset": offset} | more)

    def broken(self, *, kept: str = "abéz", start: int = 0, position: int = 5, closed: bool = True) -> set[str]:
        """End it: what is kept, and where the reader stands. Return the rules that were broken."""
        page = {"text": kept, "offset": start + len(kept.encode()), "epoch": EPOCH, "start": start, "closed": True}
        self.call("output", f"/api/tasks/{TASK}/output", page)
        where = {"reader": "reader-1", "channel": f"output:main/{TASK}", "subscribed": True, "closed": closed}
        self.add("reader", **where, position=[position, EPOCH])
        return {rule for rule, _, _ in OutputRules(self.lines).judge()}


def test_a_whole_output_in_parts_breaks_nothing() -> None:
    story = Story()
    story.told("a", 1, start=0, answer=True)
    story.told("bé", 4)
    story.told("z", 5, closed=True)
    assert story.broken() == set()


def test_what_was_trimmed_or_begun_anew_may_be_told() -> None:
    story = Story()
    story.told("a", 1, start=0, answer=True, epoch="other")
    story.told("a", 1, start=0, reset=True)
    story.told("z", 5, start=4, trimmed=True, closed=True)
    assert story.broken(kept="z", start=4) == set()


@pytest.mark.parametrize("lost", [True, False])
def test_the_end_may_follow_what_lost_data_left(lost: bool) -> None:
    story = Story()
    if lost:
        story.add("data_lost", since=0)
    story.told("ab", 2, start=0, reset=True, answer=True)
    story.told("z", 3, closed=True)
    assert (story.broken(kept="abz", position=3) == set()) is lost


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ("output-prefix", [("ac", 2, {})]),
        ("output-prefix", [("b", 1, {})]),
        ("output-once", [("ab", 2, {}), ("b", 2, {})]),
        ("output-once", [("ab", 2, {}), ("z", 5, {})]),
        ("output-told", [("ab", 2, {}), ("é", 4, {"epoch": "other"})]),
        ("output-told", [("ab", 2, {}), ("é", 4, {"start": 1, "trimmed": True})]),
        ("output-closed", [("abé", 4, {"closed": True})]),
        ("output-closed", [("abéz", 5, {"closed": True}), ("", 5, {})]),
    ],
)
def test_a_reader_is_told_something_wrong(rule: str, told: list[tuple[str, int, dict[str, Any]]]) -> None:
    story = Story()
    for text, offset, more in told:
        story.told(text, offset, **more)
    assert rule in story.broken()


def test_what_is_kept_is_not_what_was_written_or_less() -> None:
    assert "output-kept" in Story().broken(kept="abxyz")
    assert "output-kept" in Story().broken(kept="ab")


def test_a_reader_stands_elsewhere_in_the_end() -> None:
    assert "output-last" in Story().broken(position=4)
    assert "output-last" in Story().broken(closed=False)
