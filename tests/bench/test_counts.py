"""What a client costs in calls is told by part of the program, and is what the client costs."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.counts import (
    DEFERREDS,
    PARTS,
    PARTS_OF_REQUESTS,
    REST_OF_ALL,
    VISITS,
    Calls,
    Function,
    ProfiledFloor,
    functions,
    main,
    part_of,
    read_calls,
    read_instructions,
    shares,
    table,
)
from tools.trees import ROOT

HUB: Function = ("/pushserver/server/hub.py", 1, "begin")
TOKEN: Function = ("/pushserver/core/tokens.py", 2, "verify")
DEFER: Function = ("/twisted/internet/defer.py", 3, "callback")
BACK: Function = ("/twisted/internet/defer.py", 4, "_runCallbacks")
LEN: Function = ("~", 0, "<built-in method builtins.len>")
LOST: Function = ("~", 0, "<built-in method builtins.iter>")

CALLS: Calls = {
    HUB: (10, {}),
    TOKEN: (2, {}),
    # Of C, by both; and by what is in no part itself.
    LEN: (8, {HUB: 3, TOKEN: 1, DEFER: 4}),
    # In a circle, begun by one of them.
    DEFER: (4, {HUB: 2, BACK: 2}),
    BACK: (2, {DEFER: 2}),
    LOST: (1, {}),
}


def test_what_is_called_is_counted_for_the_part_that_calls_it() -> None:
    assert shares(CALLS) == pytest.approx({"subscriptions": 10 + 3 + 4 + 4 + 2, "token": 2 + 1, REST_OF_ALL: 1})


def test_deferreds_can_be_told_apart() -> None:
    apart = shares(CALLS, {**DEFERREDS, **PARTS})
    assert apart == pytest.approx({"subscriptions": 13, "token": 3, "Deferreds and coroutines": 10, REST_OF_ALL: 1})


def test_every_module_of_the_server_is_in_a_part_and_every_part_has_modules() -> None:
    modules = [str(file) for file in (ROOT / "pushserver").rglob("*.py")]
    found = {part_of(file) for file in modules if part_of(file, DEFERREDS) is None}
    assert None not in found
    assert found == set(PARTS)
    assert {part_of(file, PARTS_OF_REQUESTS) for file in modules} >= {"head, body, answer", "the call", "publishing"}


def test_a_table_has_the_calls_of_one_client() -> None:
    assert list(table("sign-in", CALLS, {HUB: (4, {})}, 2, VISITS["sign-in"])) == [
        "sign-in: 14 calls for a client; Twisted and Autobahn alone: 2",
        "  subscriptions                    12    85%      2",
        "  token                             2    11%      -",
        "  everything else                   0     4%      -",
        "  of all: Deferreds and coroutines      5    37%",
    ]
    assert list(functions(CALLS, 2, 2)) == [
        "       5.0  pushserver/server/hub.py:1 begin",
        "       4.0  ~:0 <built-in method builtins.len>",
    ]


def test_instructions_are_those_of_the_summary(tmp_path: Path) -> None:
    file = tmp_path / "instructions.1"
    file.write_text("version: 1\nevents: Ir\n\nfn=main\n1 5\n\ntotals: 1234\n")
    assert read_instructions(file) == 1234
    file.write_text("version: 1\n")
    with pytest.raises(ValueError, match="nothing"):
        read_instructions(file)


@pytest.mark.parametrize("words", [["no-such-path"], ["--clients", "many"]])
def test_words_that_mean_nothing_are_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert "usage: python -m bench counts" in capsys.readouterr().err


@pytest.mark.full
def test_twice_the_clients_have_twice_the_calls() -> None:
    few, many = (sum(shares(VISITS["sign-in"].take(ProfiledFloor, n, read_calls)).values()) for n in (20, 40))
    assert many / few == pytest.approx(2, rel=0.15)
