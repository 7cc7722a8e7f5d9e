"""The checker of runs with events. As the checker, it knows the history alone.

What is read at the end (``/api/events``) is the outbox, in its order. What came to the receiver stands in ``attempt``
and ``attempt_over``.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from tests.simulator.checker import ENDS, Checker, Unjudged, Violation, read

#: The keys of the outbox.
OUTBOX = frozenset({"events", "events:state"})

Event = dict[str, Any]

#: An event that was tried so often is due after two minutes; before that it is due within 42 s.
LATER = 3


class EventChecker(Checker):
    """Judges one history, its events included."""

    def judge(self) -> list[Violation]:
        found = super().judge()
        at = self._lines[-1]["at"]
        pages = [call.result for call in self._calls.values() if call.what == "events" and call.outcome == "done"]
        if not pages:
            raise Unjudged("the outbox was not read at the end: events cannot be judged")
        outbox = pages[-1]["events"]
        if not pages[-1].get("lost"):
            found += self._judge_outbox(outbox, at)
        found += self._judge_attempts(outbox, at)
        return sorted(found, key=lambda each: each.at)

    def _judge_outbox(self, outbox: list[Event], at: float) -> Iterator[Violation]:
        """What happened in a write of the engine is told by one event."""
        told = Counter(map(_what, outbox))
        for what, times in told.items():
            if times > 1 and not self._losses:
                yield Violation("event-once", at, f"{what} is told by {times} events")
        for call in self._calls.values():
            if call.outcome != "done" or self._call_lost(call, OUTBOX):
                continue
            if call.what == "direct":
                what = ("message.published", call.arguments["messageId"])
            elif call.what in ENDS:
                what = ("task.finished", call.result["taskId"])
            else:
                continue
            if not told[what]:
                yield Violation("event-kept", call.answered_at, f"{what} was answered, and no event tells of it")

    def _judge_attempts(self, outbox: list[Event], at: float) -> Iterator[Violation]:
        """Each event is taken; those of a subject in the outbox' order, and one after the other."""
        before: dict[str, list[str]] = {}
        subjects: dict[str, list[str]] = defaultdict(list)
        for event in outbox:
            earlier = subjects[_subject(event)]
            before[event["id"]] = list(earlier)
            earlier.append(event["id"])
        begun: dict[int, Event] = {}
        #: by subject: the attempt that is at the receiver
        here: dict[str, Event] = {}
        taken: set[str] = set()
        for line in self._lines:
            if line["event"] == "attempt":
                begun[line["attempt"]] = line
                subject, id = line["subject"], line["id"]
                if subject in here:
                    text = f"{id} of {subject} came while {here[subject]['id']} was there"
                    yield Violation("event-alone", line["at"], text)
                here[subject] = line
                waiting = [each for each in before.get(id, ()) if each not in taken]
                # Where data was lost, what comes first in the outbox may have come into it last.
                if waiting and not self._losses:
                    yield Violation("event-order", line["at"], f"{id} of {subject} came before {waiting[0]} was taken")
            elif line["event"] == "attempt_over":
                attempt = begun[line["attempt"]]
                if here.get(attempt["subject"]) is attempt:
                    del here[attempt["subject"]]
                if line["answer"] == "taken":
                    taken.add(attempt["id"])
        tries = Counter(line["id"] for line in begun.values())
        later = {_subject(event) for event in outbox if tries[event["id"]] >= LATER and event["id"] not in taken}
        absent = [event["id"] for event in outbox if event["id"] not in taken and _subject(event) not in later]
        if absent:
            yield Violation("event-sent", at, f"{len(absent)} of {len(outbox)} were never taken: {absent[:3]}")


def _what(event: Event) -> tuple[str, str]:
    """Return what an event tells of: a message, or a task's end."""
    data = event["data"]
    return event["type"], data["taskId"] if event["type"] == "task.finished" else data["messageId"]


def _subject(event: Event) -> str:
    data = event["data"]
    subject: str = data["taskId"] if event["type"] == "task.finished" else data["channel"]
    return subject


def judge(text: str) -> list[Violation]:
    """Return what a history breaks. Raises `Unjudged`."""
    return EventChecker(read(text)).judge()
