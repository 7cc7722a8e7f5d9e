"""The prompt in a terminal emulator: at every key, with output that comes meanwhile, the screen shows the line."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pyte
import pytest

from pushserver.manhole.interpreter import Interpreter
from pushserver.manhole.terminal import Terminal
from tests.manhole.typing_model import KEYS, Model, keys

WIDTH, HEIGHT = 40, 24


class NoVerbs:
    def __init__(self) -> None:
        self.named: dict[str, Any] = {"connections": print, "connection": print, "stats": print}


class Emulated:
    """A terminal emulator with a prompt in it."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.screen = pyte.HistoryScreen(width, height, history=10_000)
        self._stream = pyte.ByteStream(self.screen)
        self.status: int | None = None
        self.watching = False
        self.octets = 0
        self.terminal = Terminal(self._write, (width, height), "hello", self._interpreter, self)

    def _write(self, octets: bytes) -> None:
        self.octets += len(octets)
        self._stream.feed(octets)

    def _interpreter(self, write: Callable[[str], None], width: Callable[[], int]) -> Interpreter:
        return Interpreter(NoVerbs(), write, width, False, "admin")  # type: ignore[arg-type]

    def stop_watching(self) -> bool:
        was, self.watching = self.watching, False
        return was

    def finish(self, status: int) -> None:
        self.status = status

    def type(self, text: str) -> None:
        self.terminal.receive(text.encode())

    @property
    def above(self) -> list[str]:
        """What was printed: all rows, those that left the screen too, without the prompt's."""
        left = ["".join(row[x].data for x in range(self.screen.columns)).rstrip() for row in self.screen.history.top]
        return left + [row.rstrip() for row in self.screen.display]

    def shows(self, model: Model) -> None:
        """Fails unless the screen shows the model's line, the cursor where it is, and nothing below."""
        rows, row, column = model.rows(self.screen.columns)
        first = self.screen.cursor.y - row
        shown = [line.rstrip() for line in self.screen.display]
        assert shown[first : first + len(rows)] == [one.rstrip() for one in rows]
        assert (self.screen.cursor.y, self.screen.cursor.x) == (first + row, column)
        assert "".join(shown[first + len(rows) :]) == ""


@pytest.mark.parametrize("seed", range(2))
def test_a_thousand_keys_with_output_between_them(seed: int) -> None:
    emulated, model, random = Emulated(), Model(), Random(seed)
    emulated.type("#")
    model.press("#")
    for number, name in enumerate(keys(seed, 1_000)):
        if random.random() < 0.2:
            line = f"<{number}> " + "x" * random.randrange(0, 2 * WIDTH)
            emulated.terminal.print(line + "\n")
            assert line.rstrip() in "".join(row.rstrip() for row in emulated.screen.display)
        if len(model.line) > 100 or random.random() < 0.02:
            # Only a comment is entered, so that nothing is carried out.
            for key in ("home", "#", "end"):
                model.press(key)
                emulated.type(KEYS.get(key, key))
            emulated.type("\r")
            model.press_enter()
        model.press(name)
        emulated.type(KEYS.get(name, name))
        emulated.shows(model)


def test_every_octet_in_any_order_raises_nothing() -> None:
    emulated, random = Emulated(), Random(1)
    for _ in range(500):
        emulated.terminal.receive(random.randbytes(random.randrange(1, 6)).replace(b"\x04", b"").replace(b"\x1c", b""))
    emulated.type("\x03")
    emulated.shows(Model())


def test_keys_may_come_in_pieces() -> None:
    emulated, model = Emulated(), Model()
    for octet in "ab\x1b[D\x1b[1;5Cé房\x1b[3~".encode():
        emulated.terminal.receive(bytes([octet]))
    for name in ("a", "b", "left", "right", "é", "房", "delete"):
        model.press(name)
    emulated.shows(model)


def test_a_line_higher_than_the_screen_shows_where_the_cursor_is() -> None:
    emulated = Emulated(20, 4)
    emulated.type("".join(f"{n:03d}," for n in range(100)))
    assert "099," in "".join(emulated.screen.display)
    emulated.type(KEYS["home"])
    assert emulated.screen.display[0].startswith("push> 000,")
    assert (emulated.screen.cursor.y, emulated.screen.cursor.x) == (0, 6)
    emulated.terminal.print("meanwhile\n")
    assert any("push> 000," in row for row in emulated.screen.display)


def test_a_window_that_changes_is_drawn_anew() -> None:
    emulated, model = Emulated(), Model()
    for one in "abcdefgh" * 9:
        model.press(one)
        emulated.type(one)
    emulated.screen.resize(HEIGHT, 60)
    emulated.terminal.resize(60, HEIGHT)
    emulated.shows(model)
    emulated.terminal.resize(0, 0)
    emulated.type("x")


def test_completion_adds_or_lists() -> None:
    emulated, model = Emulated(), Model()
    emulated.type("con\t")
    for one in "connection":
        model.press(one)
    emulated.shows(model)
    emulated.type("\t")
    emulated.shows(model)
    assert "connection  connections" in emulated.above
    emulated.type("\x15sta\t")
    assert emulated.screen.display[emulated.screen.cursor.y].startswith("push> stats(")
    emulated.type("\x15\tx")
    assert emulated.screen.display[emulated.screen.cursor.y].startswith("push>     x")


def test_statements_print_below_and_the_prompt_comes_back() -> None:
    emulated = Emulated()
    emulated.type("6 * 7\rfor i in range(2):\r  print(i)\r\r")
    rows = [row for row in emulated.above if row]
    assert rows == [
        "hello",
        "push> 6 * 7",
        "42",
        "push> for i in range(2):",
        "  ...   print(i)",
        "  ...",
        "0",
        "1",
        "push>",
    ]


def test_an_interrupt_ends_what_is_watched_first_and_then_the_line() -> None:
    emulated = Emulated()
    emulated.type("for i in x:\rabc")
    emulated.watching = True
    emulated.type("\x03")
    assert emulated.screen.display[emulated.screen.cursor.y].startswith("  ... abc")
    emulated.type("\x03")
    emulated.shows(Model())
    assert "KeyboardInterrupt" in emulated.above


def test_leaving() -> None:
    for text, status in (("\x04", 0), ("\x1c", 0), ("exit(3)\r", 3), ("abc\x04\x15\x04", 0)):
        emulated = Emulated()
        emulated.type(text)
        assert emulated.status == status
        before = emulated.octets
        emulated.type("late\r")
        emulated.terminal.print("late")
        assert emulated.octets == before


def test_a_key_that_fails_costs_the_line_and_says_so(
    monkeypatch: pytest.MonkeyPatch, flush_errors: Callable[..., list[Any]]
) -> None:
    emulated = Emulated()

    def broken(*arguments: Any) -> Any:
        raise RuntimeError("broken")

    emulated.type("abc")
    with monkeypatch.context() as patch:
        patch.setattr(emulated.terminal._interpreter, "complete", broken)
        emulated.type("\t")
    assert len(flush_errors(RuntimeError)) == 1
    assert any("something went wrong here" in row for row in emulated.above)
    emulated.shows(Model())
    emulated.type("1 + 1\r")
    assert "2" in emulated.above
