"""The checker of events finds what breaks each rule; and the mutants of events still apply."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.simulator.checker import FORMAT, Unjudged
from tests.simulator.event_rules import judge
from tests.simulator.events import MUTANTS, main, plan_of
from tests.simulator.mutants import ROOT, Mutant, apply


class Story:
    """A history of direct messages and what the backend was told of them."""

    def __init__(self) -> None:
        device = {"name": "phone", "user": "ann", "acks": True, "positions": False, "channels": []}
        self.lines: list[dict[str, Any]] = []
        self.outbox: list[dict[str, Any]] = []
        self._attempts = self._calls = 0
        self.add("begin", format=FORMAT, seed=1, nodes=["n1"], devices=[device], settings={})

    def add(self, event: str, **fields: Any) -> None:
        self.lines.append({"at": 10.0 * len(self.lines), "event": event, **fields})

    def call(self, what: str, arguments: Any, result: Any) -> None:
        self._calls += 1
        self.add("call", call=self._calls, by="phone", to="n1", what=what, arguments=arguments)
        self.add("answer", call=self._calls, outcome="done", result=result)

    def direct(self, key: str, to: str = "bob", told: int = 1) -> None:
        self.call("direct", {"targetId": to, "messageId": key}, {})
        for number in range(told):
            data = {"channel": f"user:{to}", "messageId": key}
            self.outbox.append({"id": key * (number + 1), "type": "message.published", "data": data})

    def begin(self, key: str, to: str = "bob") -> int:
        self._attempts += 1
        self.add("attempt", attempt=self._attempts, id=key, subject=f"user:{to}")
        return self._attempts

    def over(self, attempt: int, answer: str = "taken") -> None:
        self.add("attempt_over", attempt=attempt, answer=answer)

    def send(self, *keys: str, answer: str = "taken") -> None:
        for key in keys:
            self.over(self.begin(key), answer)

    def broken(self) -> list[str]:
        self.add("mended")
        self.add("settled")
        self.call("events", "/api/events?limit=1000", {"events": self.outbox, "last": "x"})
        self.add("device", device="phone", user="ann", connected=True, wanted=True)
        self.add("end", lines=len(self.lines) + 1)
        return [each.rule for each in judge("".join(json.dumps(line) + "\n" for line in self.lines))]


def test_what_holds() -> None:
    story = Story()
    for key in "abc":
        story.direct(key)
    story.send("a")
    story.send("b", answer="503")
    story.send("b", "c", "c")
    assert story.broken() == []


def test_what_nobody_told_or_two_told() -> None:
    story = Story()
    story.direct("a", told=0)
    story.direct("b", told=2)
    story.send("b", "bb")
    assert story.broken() == ["event-kept", "event-once"]


def test_what_was_never_taken() -> None:
    story = Story()
    story.direct("a")
    story.direct("b", "cy")
    story.send("a", answer="late")
    assert story.broken() == ["event-sent"]


def test_what_is_due_later_is_not_missed_yet() -> None:
    story = Story()
    story.direct("a")
    story.direct("b")
    story.send("a", "a", "a", answer="hung up")
    assert story.broken() == []


def test_what_came_before_its_turn() -> None:
    story = Story()
    story.direct("a")
    story.direct("b")
    story.send("a", answer="503")
    story.send("b", "a")
    assert story.broken() == ["event-order"]


def test_two_of_one_subject_at_a_time() -> None:
    story = Story()
    story.direct("a")
    story.direct("b", "cy")
    first, other = story.begin("a"), story.begin("b", "cy")
    again = story.begin("a")
    for attempt in (first, other, again):
        story.over(attempt)
    assert story.broken() == ["event-alone"]


def test_an_outbox_that_was_not_read_is_not_judged() -> None:
    story = Story()
    story.add("settled")
    story.call("nodes", "/api/nodes", {"nodes": []})
    story.add("device", device="phone", user="ann", connected=True, wanted=True)
    story.add("end", lines=len(story.lines) + 1)
    with pytest.raises(Unjudged, match="the outbox was not read"):
        judge("".join(json.dumps(line) + "\n" for line in story.lines))


def test_a_plan_is_the_seeds_and_more() -> None:
    plan = plan_of(3)
    assert plan == plan_of(3)
    assert sum(step.with_.get("key", "").startswith("e") for step in plan.steps) == 15
    assert plan.settings["events"]["types"] == ["message.published", "task.finished"]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_each_mutant_still_applies(mutant: Mutant, tmp_path: Path) -> None:
    for name in {change[0] for change in mutant.changes}:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "pushserver" / name, tmp_path / name)
    apply(mutant, tmp_path)


@pytest.mark.full
def test_fresh_seeds_tell_the_backend_what_is_promised() -> None:
    command = [sys.executable, "-m", "tests.simulator.events", "--from", "1", "--seeds", "100"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "100 seeds, 0 of them" in done.stdout


@pytest.mark.full
def test_every_mutant_is_found() -> None:
    assert main(["--mutants"]) == 0
