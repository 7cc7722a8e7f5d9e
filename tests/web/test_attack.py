"""A short form of ``make attack``: each row, with few sockets, and each text, over tcp and the embedded engine."""

from __future__ import annotations

from contextlib import ExitStack

from tests.attack.__main__ import Attack, Plan, cells
from tests.attack.attackers import GONE, Vigil
from tests.attack.results import CHANNELS, EACH_MEMORY, Growth, Result, TextResult, worst, worst_text
from tests.attack.rows import ROWS
from tests.attack.texts import TEXTS


def test_nobody_else_pays_for_an_attack() -> None:
    plan = Plan(ROWS, TEXTS, 1, None, True)
    with ExitStack() as stack:
        attack = Attack(stack, "tcp", "embedded", 1)
        results = [attack.carry_out(row, 0.1, 0.1) for row in ROWS]
        texts = [attack.send_text(text, 1) for text in plan.texts_over("tcp", "embedded")]
    for result in results:
        # Times are for `make attack`, on a machine of its own.
        assert not result.broken, result.line()
        assert result.memory <= result.most_memory, result.line()
        assert not result.growth.channels_over, result.line()
        assert result.sign_in < 5, result.line()
        assert result.sent == max(1, result.row.sockets // 10)
    for said in texts:
        assert not said.broken, said.line()
        assert said.median < 1, said.line()
    assert len(texts) > 50


def test_a_text_goes_where_there_is_a_way_for_it() -> None:
    plan = Plan(ROWS, TEXTS, 1, None, True)
    over = {way: {text.name for text in plan.texts_over(*way)} for way in (("ssl", "embedded"), ("tcp", "redis"))}
    assert over["ssl", "embedded"] - over["tcp", "redis"] == {"a greeting of TLS"}
    assert {text.name for text in TEXTS if text.redis} == over["tcp", "redis"] - over["ssl", "embedded"]


def test_what_is_said_of_a_row_is_the_worst_of_all() -> None:
    stranger, user = ROWS[0], ROWS[-1]
    none = Growth(0, 0, 8.0)
    good = Result(stranger, "tcp", "embedded", 1, 0.5, 0.1, 0.001, 0.02, 1 << 20, none, 12.0, "")
    slow = good._replace(transport="ssl", sign_in=3.0, p99=0.2, gone=200.0)
    assert (good.holds, slow.faults) == (True, ["sign-in", "ping", "sockets"])
    assert good.line().startswith("holds  tcp")
    assert slow.line().endswith("sign-in, ping, sockets")
    assert worst([good, slow]) == (
        "sign-in 3000 ms, ping p99 200 ms, +1 MB, gone 200 s;"
        " fails: ping (ssl, embedded), sign-in (ssl, embedded), sockets (ssl, embedded)"
    )
    filled = good._replace(row=user, memory=100 << 20, growth=Growth(13_500_000, 3, 8.0), gone=None)
    assert filled.faults == ["store"]
    assert "store 1.5 MB/s, 3 channels" in worst([filled])
    many = good._replace(row=user, growth=Growth(0, CHANNELS * 2 + 1, 60.0))
    assert many.faults == ["channels"]
    assert many._replace(growth=Growth(0, CHANNELS * 2, 60.0)).holds


def test_a_few_connections_are_judged_by_what_each_holds() -> None:
    (row,) = [row for row in ROWS if row.name == "a few of a user's connections ask for all, and read nothing"]
    few = Result(
        row, "tcp", "redis", row.sockets, 0.5, 0.1, 0.001, 0.02, EACH_MEMORY * row.sockets, Growth(0, 0, 8.0), 1, ""
    )
    assert few.holds
    assert few._replace(memory=few.memory + 1).faults == ["memory"]


def test_what_is_said_of_a_text() -> None:
    good = TextResult(TEXTS[0], "tcp", "embedded", [0.001, 0.002, 0.4], 0.001, 0.002, "")
    assert (good.holds, good.median, good.growth) == (True, 0.002, 2.0)
    slow = good._replace(engine="redis", waits=[0.03, 0.04, 0.05], whole=0.003)
    assert slow.faults == ["ping", "grows"]
    assert slow.line().endswith("ping, grows")
    assert worst_text([good, slow]) == (
        "ping 40 ms, twice the text 3.0 times; fails: grows (tcp, redis), ping (tcp, redis)"
    )
    assert good._replace(waits=[], half=0.0, whole=0.0, broken="ConnectionError gone").faults == [
        "ConnectionError gone", "ping", "grows",
    ]  # fmt: skip
    assert cells([], [good]) == {f"64 KiB: {TEXTS[0].name}": "ping 2 ms, twice the text 2.0 times"}


class Socketed:
    """An attacker with so many sockets left."""

    def __init__(self) -> None:
        self.sockets = 3
        self.ended = False

    def left(self) -> int:
        return self.sockets

    def end(self) -> None:
        self.ended = True


def test_when_the_last_socket_of_a_row_is_gone_is_seen_while_other_rows_go_on() -> None:
    vigil = Vigil()
    first, second = Socketed(), Socketed()
    vigil.add(first, 10)  # type: ignore[arg-type]
    vigil.look(15)
    assert (vigil.gone, vigil.done) == ({}, False)
    first.sockets = 0
    vigil.add(second, 20)  # type: ignore[arg-type]
    vigil.look(22)
    vigil.look(50)
    assert (vigil.gone, first.ended, second.ended) == ({0: 12}, True, False)
    vigil.look(21 + GONE + 10)
    assert vigil.gone == {0: 12, 1: GONE + 11}
    assert (vigil.done, second.ended) == (True, True)


def test_of_the_sockets_of_a_server_that_is_killed_nothing_is_told() -> None:
    vigil = Vigil()
    first, second = Socketed(), Socketed()
    first.sockets = 0
    for one in (first, second):
        vigil.add(one, 10)  # type: ignore[arg-type]
    vigil.look(11)
    vigil.give_up()
    assert (vigil.gone, vigil.done, second.ended) == ({0: 1, 1: None}, True, True)
