"""The rules of outputs: judges what a history says of tasks that write, and of who reads along.

It imports nothing of the server, and nothing of the simulator.

What a task writes is known: the texts of its appends, in the order of their numbers, and the one that comes with its
end. So each part that a reader is told is compared with what stands there, wherever it came from.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

Line = dict[str, Any]
#: The rule, when (ms), and what was seen.
Broken = tuple[str, float, str]

PREFIX = "output:main/"


@dataclass
class _Read:
    """What a reader has."""

    position: tuple[int, str] | None = None
    closed: bool = False


class OutputRules:
    """Judges the outputs of one history."""

    def __init__(self, lines: list[Line]) -> None:
        self._lines = lines
        self._calls: dict[int, Line] = {}
        self._answers: dict[int, Line] = {}
        self._losses = [line for line in lines if line["event"] == "data_lost"]
        for line in lines:
            if line["event"] == "call":
                self._calls[line["call"]] = line
            elif line["event"] == "answer":
                self._answers[line["call"]] = line
        #: by task: all that it wrote, as it may be kept, and the bytes of it that were answered
        self._written: dict[str, list[bytes]] = {}
        self._answered: dict[str, int] = {}
        #: by task: what was read of it in the end
        self._finals: dict[str, Any] = {}
        self._find_written()

    def _find_written(self) -> None:
        parts: dict[str, dict[int, bytes]] = defaultdict(dict)
        done: dict[str, set[int]] = defaultdict(set)
        ends: dict[str, bytes] = {}
        for number, call in self._calls.items():
            answer = self._answers.get(number, {})
            if call["what"] == "task.output":
                asked = call["arguments"]
                seq = asked["producer"]["seq"]
                parts[asked["taskId"]][seq] = asked["text"].encode()
                if answer.get("outcome") == "done":
                    done[asked["taskId"]].add(seq)
            elif call["what"] == "output" and answer.get("outcome") == "done":
                self._finals[call["arguments"].split("/")[3]] = answer["result"]
            elif call["what"] == "task.complete" and "output" in call["arguments"]:
                ends[call["arguments"]["taskId"]] = call["arguments"]["output"]["text"].encode()
        for task, texts in parts.items():
            ordered = [texts[seq] for seq in sorted(texts)]
            # Where data was lost, its last appends may be gone, and the text of its end follows what is left.
            fewest = 0 if self._losses else len(ordered)
            end = ends.get(task, b"")
            self._written[task] = [b"".join(ordered[:n]) + end for n in range(len(ordered), fewest - 1, -1)]
            self._answered[task] = sum(len(texts[seq]) for seq in done[task])

    def _wrote(self, task: str, begins: int, offset: int, text: bytes) -> bool:
        """Return whether a task wrote this there."""
        return any(each[begins:offset] == text for each in self._written.get(task, [b""]))

    def judge(self) -> Iterator[Broken]:
        """Yield what was broken."""
        readers: dict[str, _Read] = defaultdict(_Read)
        for line in self._lines:
            if line["event"] == "output":
                yield from self._told(readers[line["reader"]], line)
            elif line["event"] == "reader":
                yield from self._last(line)
        for task, page in self._finals.items():
            yield from self._kept(task, page)

    def _told(self, read: _Read, line: Line) -> Iterator[Broken]:
        at, offset, epoch = line["at"], line["offset"], line["epoch"]
        task, text = line["channel"].removeprefix(PREFIX), line["text"].encode()
        who, begins = f"{line['reader']} of {task}", offset - len(text)
        known, closed = read.position, read.closed
        read.position, read.closed = (offset, epoch), line.get("closed", False)
        if begins < 0 or not self._wrote(task, begins, offset, text):
            yield "output-prefix", at, f"{who} was told {text[:40]!r} at {begins}, where something else was written"
        anew = known is None or line.get("reset", False)
        if not anew and known is not None and known[1] != epoch:
            yield "output-told", at, f"{who}: epoch {known[1]} became {epoch} without a word"
        elif anew or line.get("trimmed", False):
            if begins != line.get("start", 0) and text:
                yield "output-told", at, f"{who} was to begin at {line.get('start', 0)}, and began at {begins}"
            if not anew and known is not None and begins <= known[0]:
                yield (
                    "output-told",
                    at,
                    f"{who} stood at {known[0]}, and was told that what lay before {begins} is gone",
                )
        elif known is not None and begins != known[0]:
            yield "output-once", at, f"{who} stood at {known[0]}, and was told what begins at {begins}"
        elif closed and (text or not read.closed):
            yield "output-closed", at, f"{who} was told more behind the end"
        page = self._finals.get(task)
        whole = max(self._answered.get(task, 0), page["offset"] if page and page["epoch"] == epoch else 0)
        if read.closed and offset < whole and not self._losses:
            yield "output-closed", at, f"{who} was told the end at {offset}, and {whole} bytes were written"

    def _last(self, line: Line) -> Iterator[Broken]:
        page = self._finals.get(line["channel"].removeprefix(PREFIX))
        if page is None:
            return
        who, newest = line["reader"], [page["offset"], page["epoch"]]
        position = None if line["position"] is None else list(line["position"])
        if not line["subscribed"]:
            yield "output-last", line["at"], f"{who} does not follow {line['channel']} in the end"
        elif position != newest:
            yield "output-last", line["at"], f"{who} stands at {position}, the newest of {line['channel']} is {newest}"
        elif line["closed"] != page["closed"]:
            yield "output-last", line["at"], f"{who} knows {line['channel']} as closed: {line['closed']}"

    def _kept(self, task: str, page: Any) -> Iterator[Broken]:
        at, start, offset = self._lines[-1]["at"], page["start"], page["offset"]
        if not self._wrote(task, start, offset, page["text"].encode()):
            yield "output-kept", at, f"{task} keeps something else from {start} to {offset} than was written"
        if offset < self._answered.get(task, 0) and not self._losses:
            yield "output-kept", at, f"{task} has {offset} bytes, and {self._answered[task]} were answered"
