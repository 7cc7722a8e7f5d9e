"""What a task writes: text, or items, sent from the background as it comes.

Pieces are gathered and sent as one append, the first at once and what follows every 40 ms. Each output has a producer
of its own in each process, so that a repeat after a lost answer appends nothing twice.
"""

from __future__ import annotations

import io
from typing import Any, Final, Protocol

from pushserver.publisher import commands, plain
from pushserver.publisher.commands import Command
from pushserver.publisher.errors import PublishError
from pushserver.publisher.outbox import APPEND_LIMIT, OutputEntry

#: The characters of an output's name, and how many it has at most.
_LETTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
_LONGEST: Final = 32
#: Characters below which text is not cut further.
LEAST_TEXT: Final = 512


class WritingTask(Protocol):
    """A task, as far as its outputs need it."""

    def write(self, text: Any, name: str) -> None:
        """Append text to an output."""

    def emit(self, item: Any, name: str) -> None:
        """Append an item to an output of items."""


class OutputProducer:
    """One output of a task in one process: what it appends, in order."""

    def __init__(self, task_id: str, name: str, kind: str) -> None:
        self.task_id = task_id
        self.name = name
        self.kind = kind
        self.entry: OutputEntry | None = None
        #: characters or items that were not taken, and not said so yet
        self.lost = 0
        #: whether some of what was written is missing in what was sent
        self.incomplete = False
        self._id = commands.new_id()
        self._seq = 0

    def append(self, pieces: list[Any], left_out: int) -> Command:
        left_out, self.lost = left_out + self.lost, 0
        self.incomplete = self.incomplete or left_out > 0
        if self.kind == "text":
            content: dict[str, Any] = {"text": "".join([is_left_out(left_out), *pieces] if left_out else pieces)}
        else:
            content = {"items": pieces}
        return self._next(content)

    def renumbered(self, command: Command, error: PublishError) -> Command | None:
        """Return a refused append as the first of another producer, where the server knows less of this one than it has
        answered: as after data that went back."""
        # A gap; or the server has nothing of this producer, so that any number but 0 is wrong.
        unknown = error.expected is not None or error.code == "INVALID_MESSAGE"
        if not unknown or command.params["producer"]["seq"] == 0:
            return None
        self.incomplete = True
        self._id, self._seq = commands.new_id(), 0
        return self._next({name: command.params[name] for name in ("text", "items") if name in command.params})

    def halved(self, command: Command) -> tuple[Command, list[Any]] | None:
        """Return the first half of an append that was too large, and the pieces of the other; None where it is one
        item, or text that is short already."""
        kind = "text" if "text" in command.params else "items"
        content = command.params[kind]
        middle = len(content) // 2
        if middle < (LEAST_TEXT if kind == "text" else 1):
            return None
        rest = content[middle:]
        first = Command(command.method, {**command.params, kind: content[:middle]})
        return first, [rest] if kind == "text" else rest

    def left_out(self, command: Command) -> None:
        """Note that an append never came to the server: what follows has its number, and says what is missing."""
        self.lost += len(command.params["text" if "text" in command.params else "items"])
        self.incomplete = True
        self._seq = command.params["producer"]["seq"]

    def _next(self, content: dict[str, Any]) -> Command:
        seq, self._seq = self._seq, self._seq + 1
        return commands.output(self.task_id, self.name, content, self._id, seq)


class OutputWriter(io.TextIOBase):
    """A file that writes to an output of a task: for ``print(file=)``, `logging.StreamHandler`, ``redirect_stdout``.

    It never raises, and closing it changes nothing: the end of the task closes its outputs.
    """

    def __init__(self, task: WritingTask, name: str) -> None:
        self._task = task
        self.name = name

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        said = plain.text(text)
        self._task.write(said, self.name)
        return len(said)

    def emit(self, item: Any) -> None:
        """Append an item, to an output of items."""
        self._task.emit(item, self.name)

    def close(self) -> None:
        """Nothing is held here."""


def is_left_out(size: int) -> str:
    """Return what stands in the place of so many characters that are not sent."""
    return f"\n[{size} characters left out]\n"


def is_name(name: Any) -> bool:  # Any: whatever the job gives
    """Return whether the server takes this for the name of an output."""
    return isinstance(name, str) and 0 < len(name) <= _LONGEST and _LETTERS.issuperset(name)


def pieces(text: str) -> list[str]:
    """Cut a text into what one append may hold."""
    return [text[at : at + APPEND_LIMIT] for at in range(0, len(text), APPEND_LIMIT)]
