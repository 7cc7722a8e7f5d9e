"""The tables say what a record says; the pages have what the newest stored record says, and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path as File

import pytest

from bench.scoreboard import report
from bench.scoreboard.paths import BY_NAME, PATHS, PROOF
from bench.scoreboard.records import Record, Round, Run
from bench.scoreboard.report import (
    BEGIN,
    BRIEF,
    END,
    PAGES,
    all_met,
    current,
    history,
    main,
    newest,
    part,
    plots,
    summary,
    text,
    whole,
    write,
)

RUN = Run("2026-11-26", "2 cores (Xeon), Linux 6.18, load 0.3", "python -m bench scoreboard", "abc", "full")


def record(cpu: float, rounds: int = 7, load: float = 0.4) -> Record:
    """A record of fan-outs in which ours costs this and Centrifugo 5."""
    made = Record(RUN, {"pushserver": "1.1", "Centrifugo": "6.9.1"}, {"pushserver": "plain", "Centrifugo": "tuned"})
    for number in range(1, rounds + 1):
        facts = {"load": load, "other": 0.01, "seconds": 2.0, "frame": 185.0}
        figures = {"pushserver": {"cpu": cpu + number / 100}, "Centrifugo": {"cpu": 5.0}}
        made.rounds.setdefault("fanout", {})[number] = Round(figures, dict.fromkeys(figures, facts))
    made.missing["fanout"] = {"sockudo": "could not install: sockudo"}
    return made


FANOUT = BY_NAME["fanout"]


def test_a_table_names_versions_ranges_frames_and_targets() -> None:
    assert text(record(2.5), FANOUT, red=False).splitlines()[:5] == [
        "Fan-out to 1,000 connections, one publication a turn",
        "                    µs of CPU for a delivery  bytes of a frame",
        "  pushserver 1.1          2.54 (2.51 - 2.57)               185",
        "  Centrifugo 6.9.1        5.00 (5.00 - 5.00)               185",
        "  µs of CPU for a delivery: 0.51 (0.50 - 0.51) × Centrifugo, target ≤ 0.6 × Centrifugo: met, 7 rounds",
    ]


def test_a_table_of_tiny_sizes_says_so() -> None:
    tiny = record(2.5)
    tiny.run = replace(RUN, sizes="quick")
    assert text(tiny, FANOUT).startswith(
        "Fan-out to 1,000 connections, one publication a turn [quick sizes: no figures]\n"
    )


def test_who_is_missing_is_named_and_its_target_not_measured() -> None:
    table = text(record(2.5), FANOUT, red=False)
    assert "  sockudo: not measured: could not install: sockudo" in table.splitlines()
    assert "  µs of CPU for a delivery: target ≤ 0.8 × sockudo: not measured" in table.splitlines()
    assert not all_met(record(2.5), [FANOUT])


def test_what_is_missed_is_red() -> None:
    (line,) = [line for line in text(record(3.3), FANOUT, red=True).splitlines() if "MISSED" in line]
    assert line.startswith("\x1b[31m")
    assert line.endswith("\x1b[0m")
    assert "\x1b" not in text(record(2.5), FANOUT, red=True)


def test_a_planted_slowdown_has_to_be_missed() -> None:
    def proof(same: float, slower: float) -> Record:
        made = Record(RUN)
        for number in range(1, 8):
            figures = {"pushserver": 1.0, "the same build": same, "slower by a tenth": slower}
            made.rounds.setdefault("proof", {})[number] = Round(
                {name: {"cpu": cpu * (1 + number / 100)} for name, cpu in figures.items()},
                {name: {"load": 0.4, "other": 0.01, "seconds": 2.0} for name in figures},
            )
        return made

    assert all_met(proof(1.0, 1.1), [PROOF])
    lines = text(proof(1.0, 1.1), PROOF, red=True).splitlines()
    assert any("the same build: " in line and line.endswith("met, 7 rounds") for line in lines)
    (line,) = [line for line in lines if "MISSED, as it must be" in line]
    assert line.startswith("\x1b[31m  slower by a tenth: ")
    assert not all_met(proof(1.1, 1.1), [PROOF])
    assert not all_met(proof(1.0, 1.0), [PROOF])


SIGN_IN = BY_NAME["sign-in-redis"]


def sign_ins(ours: float, floor: float, rounds: int = 7) -> Record:
    """A record of sign-ins in which ours and the floor under it cost this, and Centrifugo 100."""
    made = Record(RUN, {"Twisted and Autobahn": "26 and 26"})
    for number in range(1, rounds + 1):
        costs = {"pushserver": ours, "Centrifugo": 100.0, "Twisted and Autobahn": floor}
        figures = {name: {"cpu": cpu + number / 100, "wait": 1.0, "redis": 0.0} for name, cpu in costs.items()}
        made.rounds.setdefault("sign-in-redis", {})[number] = Round(figures, {name: {"load": 0.4} for name in figures})
    return made


@pytest.mark.parametrize(
    ("floor", "reached", "said"),
    [
        (150.0, "1.50 (1.50 - 1.50)", "misses the target too"),
        (60.0, "0.60 (0.60 - 0.60)", "keeps the target"),
    ],
)
def test_a_target_that_was_missed_is_shown_without_our_part(floor: float, reached: str, said: str) -> None:
    lines = text(sign_ins(300.0, floor), SIGN_IN, red=True).splitlines()
    line = f"  Twisted and Autobahn: µs of CPU for a client: {reached} × Centrifugo: {said}, 7 rounds"
    assert line in lines
    # Of `wait`, which is missed too.
    assert len([each for each in lines if each.startswith("  Twisted and Autobahn: ms for a client")]) == 1


def test_what_is_not_missed_is_not_shown_without_our_part() -> None:
    floors = [text(made, SIGN_IN) for made in (sign_ins(50.0, 40.0), sign_ins(300.0, 150.0, rounds=6))]
    assert not any("Twisted and Autobahn: µs" in table for table in floors)
    alone = sign_ins(300.0, 150.0)
    alone.missing["sign-in-redis"] = {"Twisted and Autobahn": "it ended"}
    assert "Twisted and Autobahn: µs" not in text(alone, SIGN_IN)


def test_only_who_has_a_row_is_explained() -> None:
    table = text(sign_ins(90.0, 50.0), SIGN_IN, red=False)
    assert "  Twisted and Autobahn: asks nothing of Redis" in table.splitlines()
    assert "txredisapi" not in table


def test_a_load_client_that_may_be_the_limit_is_named() -> None:
    assert "the load client may be the limit" not in text(record(2.5), FANOUT)
    said = "  pushserver: the load client may be the limit: it used 90% of its core"
    assert said in text(record(2.5, load=0.9), FANOUT).splitlines()


def test_a_path_that_ended_early_says_why() -> None:
    ended = record(2.5)
    ended.stopped["fanout"] = "something else used 0.40 of a core"
    assert "  ended early: something else used 0.40 of a core" in text(ended, FANOUT).splitlines()


def test_the_whole_names_the_run_and_the_configurations() -> None:
    said = whole(record(2.5))
    assert said.startswith("2026-11-26, 2 cores (Xeon), Linux 6.18, load 0.3, commit abc, full sizes: python -m bench")
    assert said.endswith("Configurations\n  pushserver 1.1: plain\n  Centrifugo 6.9.1: tuned")


def test_the_history_has_a_line_for_each_figure() -> None:
    assert history([record(2.5), record(3.0)]).splitlines() == [
        "History, the newest first",
        "  fanout, µs of CPU for a delivery: 2026-11-26 2.54, 2026-11-26 3.04",
    ]


def test_a_plot_has_who_was_measured_ours_first() -> None:
    (plot,) = plots(record(2.5))
    assert (plot.name, plot.title) == ("fanout-cpu", FANOUT.title)
    assert [peer for peer, _ in plot.rows] == ["pushserver", "Centrifugo"]
    assert plot.rows[1][1] == (5.0,) * 7


def test_the_readmes_say_the_same_in_their_languages() -> None:
    lines = {page: summary(record(2.5), page).splitlines() for page in ("README.md", "README.zh-CN.md")}
    row = "| Centrifugo 6.9.1 | 0.51 (0.50 - 0.51) | ≤ 0.6 × Centrifugo | met |"
    assert [line.endswith(row) for line in lines["README.md"]] == [False, False, True]
    assert [line.endswith(row) for line in lines["README.zh-CN.md"]] == [False, False, True]


def test_each_path_with_a_target_has_its_words_in_both_languages() -> None:
    named = {path.name if path.name in BRIEF else path.name.partition("-")[0] for path in PATHS if path.targets}
    assert named == BRIEF.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_has_what_the_newest_record_says(page: File) -> None:
    assert current(page.read_text()) == part(page, newest()), "python -m bench --report --write makes it"


def test_a_page_is_written_between_its_marks(tmp_path: File) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write(page, record(2.5))
    assert page.read_text() == f"before\n{BEGIN}\n{summary(record(2.5), 'README.md')}\n{END}\nafter\n"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no marks"):
        write(page, record(2.5))


def test_a_quick_run_is_never_what_the_pages_say(tmp_path: File, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    line = '{"run": {"date": "D", "machine": "m", "command": "c", "commit": "x", "sizes": "%s"}}\n'
    (tmp_path / "2026-11-27.jsonl").write_text(line % "quick")
    assert newest() is None
    (tmp_path / "2026-11-26.jsonl").write_text(line % "full")
    found = newest()
    assert found is not None
    assert found.run.sizes == "full"


def test_a_file_that_is_no_record_is_one_line(tmp_path: File, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken").write_text("what?\n")
    assert main([str(tmp_path / "broken")]) == 1
    assert re.fullmatch(r"not a record of the scoreboard: .*\n", capsys.readouterr().err)


@pytest.mark.full
def test_the_plots_are_pictures(tmp_path: File) -> None:
    # matplotlib is for these pictures alone, and so not in the environment of the other tests.
    import subprocess
    import sys

    program = (
        "from tests.bench.scoreboard.test_report import record\n"
        "from bench.scoreboard.report import draw, plots\n"
        "from pathlib import Path\n"
        f"for plot in plots(record(2.5)): draw(plot, Path({str(tmp_path)!r}))\n"
    )
    subprocess.run(["make", "scoreboard-plots", "ARGS="], check=True)
    subprocess.run([sys.executable, "-c", program], check=True, env={"PYTHONPATH": "build/plots", "PATH": ""})
    assert (tmp_path / "fanout-cpu.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
