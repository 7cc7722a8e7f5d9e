"""A short form of ``make attack``: each row, with few sockets, over tcp and the embedded engine."""

from __future__ import annotations

from contextlib import ExitStack

from tests.attack import GONE, MEMORY, ROWS, USER_MEMORY, Attack, Result, Vigil, worst


def test_nobody_else_pays_for_an_attack() -> None:
    with ExitStack() as stack:
        attack = Attack(stack, "tcp", "embedded", 1)
        results = [attack.strike(row, 0.1, 0.1) for row in ROWS]
    for result in results:
        # Times are for `make attack`, on a machine of its own.
        assert not result.broken, result.line()
        assert result.memory <= (USER_MEMORY if result.row.user else MEMORY), result.line()
        assert result.sign_in < 5, result.line()
        assert result.sent == max(1, result.row.sockets // 10)


def test_what_is_said_of_a_row_is_the_worst_of_all() -> None:
    stranger, user = ROWS[0], ROWS[-1]
    good = Result(stranger, "tcp", "embedded", 1, 0.5, 0.1, 0.001, 0.02, 1 << 20, 0.0, 12.0, "")
    slow = good._replace(transport="ssl", sign_in=3.0, p99=0.2, gone=200.0)
    assert (good.holds, slow.faults) == (True, ["sign-in", "ping", "sockets"])
    assert good.line().startswith("holds  tcp")
    assert slow.line().endswith("sign-in, ping, sockets")
    assert worst([good, slow]) == (
        "sign-in 3000 ms, ping p99 200 ms, +1 MB, gone 200 s;"
        " fails: ping (ssl, embedded), sign-in (ssl, embedded), sockets (ssl, embedded)"
    )
    filled = good._replace(row=user, memory=100 << 20, growth=1.5e6, gone=None)
    assert filled.faults == ["store"]
    assert "store 1.5 MB/s" in worst([filled])


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
