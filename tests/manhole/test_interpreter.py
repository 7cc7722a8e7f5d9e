from __future__ import annotations

import signal
import sys
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from pushserver.core.errors import NotFound
from pushserver.manhole import interpreter
from pushserver.manhole.interpreter import Deadline, Interpreter, Quit, Stopped
from pushserver.manhole.tables import VerbAnswer, line


class FakeVerbs:
    def __init__(self) -> None:
        self.named: dict[str, Any] = {"stats": lambda: succeed(VerbAnswer(7, *line("seven"))), "status": print}


class Login:
    def __init__(self) -> None:
        self.said = ""
        self.interpreter = Interpreter(FakeVerbs(), self.write, lambda: 80, False, "admin")  # type: ignore[arg-type]

    def write(self, text: str) -> None:
        self.said += text

    def type(self, *lines: str) -> str:
        self.said = ""
        for text in lines:
            self.more, self.pending = self.interpreter.push(text)
        return self.said


@pytest.fixture
def login() -> Login:
    return Login()


def test_expressions_are_shown_and_remembered(login: Login) -> None:
    assert login.type("6 * 7") == "42\n"
    assert login.type("_ + 1") == "43\n"
    assert login.type("None") == ""
    assert login.type("x = 1") == ""


def test_statements_may_have_several_lines(login: Login) -> None:
    login.type("for i in range(2):")
    assert login.more
    assert login.type("  print(i)", "") == "0\n1\n"
    assert not login.more


def test_a_verbs_answer_prints_itself_and_is_what_goes_on(login: Login) -> None:
    assert login.type("stats()") == "seven\n"
    assert login.type("_.value") == "7\n"


def test_an_answer_that_comes_later_is_printed_then(login: Login) -> None:
    later: Deferred[Any] = Deferred()
    login.interpreter.namespace["ask"] = lambda: later
    assert login.type("ask()") == ""
    [pending] = login.pending
    later.callback("here")
    assert login.said == "'here'\n"
    assert pending.result is True


def test_what_fails_says_why_and_is_told(login: Login) -> None:
    login.interpreter.namespace["ask"] = lambda: fail(NotFound("no such task"))
    assert login.type("ask()") == "NOT_FOUND: no such task\n"
    assert login.pending[0].result is False
    login.interpreter.namespace["ask"] = lambda: fail(ZeroDivisionError("oh"))
    assert login.type("ask()") == "ZeroDivisionError: oh\n"


def test_mistakes_show_where_they_are_and_nothing_of_ours(login: Login) -> None:
    said = login.type("1/0")
    assert "ZeroDivisionError" in said
    assert "shell.py" not in said
    said = login.type("not python at all")
    assert "SyntaxError" in said
    assert "codeop" not in said
    assert not login.more


def test_an_exception_that_cannot_be_shown_is_named(login: Login) -> None:
    login.type("class Bad(Exception):", "  def __str__(self): 1/0", "")
    assert "Bad" in login.type("raise Bad()")


@pytest.mark.parametrize(("text", "status"), [("exit()", 0), ("quit(3)", 3), ("raise SystemExit('why')", 1)])
def test_leaving_ends_the_login(login: Login, text: str, status: int) -> None:
    with pytest.raises(Quit) as left:
        login.type(text)
    assert left.value.status == status


def test_output_without_end_is_stopped(login: Login, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interpreter, "MAX_OUTPUT", 1_000)
    said = login.type("while True: print('again')", "")
    assert "stopped: more than 1000 characters" in said
    assert len(said) < 1_100
    assert len(login.type("'x' * 5000")) < 1_100


@pytest.mark.parametrize(
    "text",
    [
        "while True: pass",
        "[x for x in iter(int, 1)]",
        "while 1:\n try: 1/0\n except: x = 1",
        "import time; time.sleep(60)",
    ],
)
def test_a_statement_without_end_is_stopped(login: Login, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(interpreter, "MAX_RUNNING", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    well, pending = login.interpreter.run(text)
    assert not well
    assert pending == []
    assert "stopped: it ran for more than 0.05 s" in login.said
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_code_that_is_not_the_statements_own_is_never_interrupted() -> None:
    ended: list[int] = []

    def ours() -> None:
        signal.raise_signal(signal.SIGALRM)
        ended.append(1)
        # The next one comes soon.
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)

    names = {"ours": ours}
    code = compile("ours()\nwhile True: pass", interpreter.FILENAME, "exec")
    with pytest.raises(Stopped), Deadline(60):
        exec(code, names)
    assert ended == [1]


def test_a_text_shows_each_of_its_expressions(login: Login) -> None:
    well, _ = login.interpreter.run("x = 2\nx\nfor i in range(2): i + 10")
    assert well
    assert login.said == "2\n10\n11\n"
    assert login.interpreter.run("x =")[0] is False


@pytest.mark.parametrize(
    ("text", "added", "names"),
    [
        ("sta", "t", ["stats", "status"]),
        ("stats", "(", ["stats"]),
        ("print(stats", "(", ["stats"]),
        ("nothing_like_it", "", []),
        ("", "", []),
        ("sys.getrecursionl", "imit", ["getrecursionlimit"]),
        ("sys.path.", "", None),
        ("here.nothing.x", "", []),
    ],
)
def test_names_are_completed(login: Login, text: str, added: str, names: list[str] | None) -> None:
    login.interpreter.namespace["sys"] = sys
    said, found = login.interpreter.complete(text)
    assert said == added
    assert found == names if names is not None else "append" in found


def test_each_login_has_names_of_its_own() -> None:
    one, other = Login(), Login()
    one.type("secret = 1")
    assert "NameError" in other.type("secret")
