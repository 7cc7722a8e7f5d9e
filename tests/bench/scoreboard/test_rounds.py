"""The rounds of a path: in turns, again on a busy machine, on after an interruption, and what becomes of who fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path as File

import pytest

from bench.measure import Progress
from bench.scoreboard import rounds
from bench.scoreboard.clients import Wrong
from bench.scoreboard.meters import QUICK, Meter, Stage, Taken
from bench.scoreboard.paths import Path
from bench.scoreboard.peers import Centrifugo, Nats, Ours, Peer
from bench.scoreboard.records import Book, Run
from bench.scoreboard.report import text, usable_peers
from bench.scoreboard.rounds import PAUSE, TRIES, Rounds
from bench.scoreboard.verdicts import LEAST_ROUNDS, Target
from bench.servers import NotAvailable
from tools.trees import ROOT

#: What the rounds waited until they were taken again.
Paused = list[float]


@pytest.fixture(autouse=True)
def paused(monkeypatch: pytest.MonkeyPatch) -> Paused:
    waited: Paused = []
    monkeypatch.setattr(rounds.time, "sleep", waited.append)
    return waited


RUN = Run("2026-11-26", "2 cores", "a command", "abc", "quick")


def quiet(cpu: float, other: float = 0.0) -> Taken:
    return Taken({"cpu": cpu}, {"load": 0.2, "other": other, "seconds": 1.0}, other <= 0.1)


@dataclass
class Play:
    """A path whose peers cost what the test says; it tells who was started, measured and stopped."""

    costs: dict[str, Callable[[], Taken]]
    said: list[str] = field(default_factory=list)

    def path(self, *targets: Target, peers: tuple[type[Peer], ...] = (Ours, Centrifugo)) -> Path:
        return Path("played", "Played", {"cpu": "µs"}, peers, self.prepare, targets)

    def prepare(self, stage: Stage, kind: type[Peer]) -> Meter:
        self.said.append(f"start {kind.name}")
        stage.stack.callback(self.said.append, f"stop {kind.name}")

        def meter() -> Taken:
            self.said.append(kind.name)
            return self.costs[kind.name]()

        return meter

    def measured(self) -> list[str]:
        return [word for word in self.said if " " not in word]


@pytest.fixture
def book(tmp_path: File) -> Iterator[Book]:
    book = Book(tmp_path / "played.jsonl", RUN)
    yield book
    book.close()


def steady(ours: float = 1.0, theirs: float = 2.0) -> Play:
    return Play({"pushserver": lambda: quiet(ours), "Centrifugo": lambda: quiet(theirs), "NATS": lambda: quiet(3.0)})


def take(book: Book, path: Path, least: int = 2, most: int = 2) -> None:
    Rounds(book, QUICK, least, most, Progress()).take(path, lambda kind: f"1.0 of {kind.name}")


def test_the_peers_take_turns_forth_and_back(book: Book) -> None:
    play = steady()
    take(book, play.path())
    assert play.said == [
        *("start pushserver", "start Centrifugo"),
        *("pushserver", "Centrifugo", "Centrifugo", "pushserver"),
        *("stop Centrifugo", "stop pushserver"),
    ]
    assert book.record.figures("played", "cpu", "pushserver", "Centrifugo") == [(1.0, 2.0)] * 2
    assert book.record.versions == {"pushserver": "1.0 of pushserver", "Centrifugo": "1.0 of Centrifugo"}


def test_a_round_is_taken_again_when_something_else_was_at_work(book: Book) -> None:
    others = iter([0.5, 0.3, 0.0, 0.0])
    play = steady()
    play.costs["Centrifugo"] = lambda: quiet(2.0, next(others))
    take(book, play.path())
    assert play.measured() == ["pushserver", *["Centrifugo"] * 3, "Centrifugo", "pushserver"]
    taken = book.record.rounds["played"]
    assert taken[1].facts["Centrifugo"]["again"] == 2
    assert "again" not in taken[2].facts["Centrifugo"]


def test_a_machine_that_never_rests_ends_the_path_in_one_line(book: Book, paused: Paused) -> None:
    play = steady()
    play.costs["Centrifugo"] = lambda: quiet(2.0, 0.4)
    take(book, play.path())
    assert play.measured() == ["pushserver", *["Centrifugo"] * TRIES]
    # What works for a while and then rests has the time for it.
    assert paused == [PAUSE * times for times in (1, 2, 4, 8)]
    assert book.record.stopped == {"played": "something else used 0.40 of a core or more in 5 tries: 0.10 is allowed"}
    assert book.record.figures("played", "cpu", "pushserver", "Centrifugo") == []
    assert play.said[-2:] == ["stop Centrifugo", "stop pushserver"]


def test_a_run_goes_on_where_it_was(book: Book) -> None:
    class Interrupted(BaseException):
        pass

    def interrupted() -> Taken:
        if len(play.measured()) == 3:
            raise Interrupted
        return quiet(2.0)

    play = steady()
    play.costs["Centrifugo"] = interrupted
    with pytest.raises(Interrupted):
        take(book, play.path(), 3, 3)
    assert play.said[-2:] == ["stop Centrifugo", "stop pushserver"]
    play = steady()
    take(book, play.path(), 3, 3)
    # The second round was not whole, and is taken once more.
    assert play.measured() == ["Centrifugo", "pushserver", "pushserver", "Centrifugo"]
    play = steady()
    take(book, play.path(), 3, 3)
    assert play.said == []


@pytest.mark.parametrize(
    ("problem", "said"),
    [
        (NotAvailable("Centrifugo ended: out of memory"), "Centrifugo ended: out of memory"),
        (Wrong("connections received 9 to 10 messages, not 10 each"), "Wrong: connections received 9 to 10 messages"),
        (RuntimeError("the load client\nended"), "RuntimeError: the load client ended"),
        (ConnectionResetError("gone"), "ConnectionResetError: gone"),
        (NotAvailable(f"{ROOT}/build/peers/x: it is not there"), "build/peers/x: it is not there"),
    ],
)
def test_a_peer_that_cannot_go_on_has_no_figure_of_what_is_left(book: Book, problem: Exception, said: str) -> None:
    def failing() -> Taken:
        if play.measured().count("Centrifugo") == 2:
            raise problem
        return quiet(2.0)

    play = steady()
    play.costs["Centrifugo"] = failing
    path = play.path(Target("cpu", 0.9, "Centrifugo"), peers=(Ours, Centrifugo, Nats))
    take(book, path, 3, 3)
    assert book.record.missing["played"]["Centrifugo"].startswith(said)
    assert usable_peers(book.record, path) == ["pushserver", "NATS"]
    assert len(book.record.figures("played", "cpu", "pushserver", "NATS")) == 3
    table = text(book.record, path)
    assert f"Centrifugo: not measured: {said}" in table
    assert "target ≤ 0.9 × Centrifugo: not measured" in table


def test_a_peer_that_cannot_be_had_is_named(book: Book) -> None:
    def install(kind: type[Peer]) -> str:
        if kind is Centrifugo:
            raise NotAvailable("missing: go")
        return "1.0"

    play = steady()
    path = play.path()
    Rounds(book, QUICK, 2, 2, Progress()).take(path, install)
    assert book.record.missing["played"] == {"Centrifugo": "missing: go"}
    assert play.measured() == ["pushserver", "pushserver"]


def test_who_cannot_be_had_is_asked_for_once_and_who_is_left_out_never(book: Book) -> None:
    asked: list[str] = []

    def install(kind: type[Peer]) -> str:
        asked.append(kind.name)
        if kind is Centrifugo:
            raise NotAvailable("could not install centrifugo: missing: go")
        return "1.0"

    play = steady()
    taking = Rounds(book, QUICK, 1, 1, Progress())
    taking.leave_out(Nats)
    path = play.path(peers=(Ours, Centrifugo, Nats))
    taking.take(path, install)
    taking.take(replace(path, name="another"), install)
    assert asked == ["pushserver", "Centrifugo", "pushserver"]
    why = {"Centrifugo": "could not install centrifugo: missing: go", "NATS": "left out"}
    assert book.record.missing == {"played": why, "another": why}


def test_without_ours_there_is_nothing_to_measure(book: Book) -> None:
    def dying() -> Taken:
        raise NotAvailable("pushserver did not start")

    play = steady()
    play.costs["pushserver"] = dying
    take(book, play.path())
    assert play.measured() == ["pushserver", "Centrifugo"]
    assert book.record.missing["played"] == {"pushserver": "pushserver did not start"}


def test_an_open_target_gets_more_rounds_and_not_without_end(book: Book) -> None:
    costs = iter([1.8, 2.2] * 20)
    play = steady()
    play.costs["pushserver"] = lambda: quiet(next(costs))
    take(book, play.path(Target("cpu", 1.0, "Centrifugo")), LEAST_ROUNDS, LEAST_ROUNDS + 3)
    assert len(book.record.rounds["played"]) == LEAST_ROUNDS + 3


def test_a_figure_of_nothing_decides_nothing_and_ends_nothing(book: Book) -> None:
    path = steady(ours=0.0).path(Target("cpu", 1.0, "Centrifugo"))
    take(book, path, LEAST_ROUNDS, LEAST_ROUNDS)
    assert "target ≤ 1 × Centrifugo: not measured" in text(book.record, path)


def test_a_target_that_is_decided_gets_no_more(book: Book) -> None:
    take(book, steady().path(Target("cpu", 0.6, "Centrifugo")), LEAST_ROUNDS, LEAST_ROUNDS + 3)
    assert len(book.record.rounds["played"]) == LEAST_ROUNDS


def test_what_a_round_starts_is_no_more_ours_after_it() -> None:
    with ExitStack() as stack:
        stage = Stage(stack, QUICK)
        stage.ours.sessions.add(1)
        own = stage.round()
        with own.stack:
            own.ours.clients.add(2)
            own.stack.callback(own.ours.clients.discard, 2)
        assert (stage.ours.sessions, stage.ours.clients) == ({1}, set())
