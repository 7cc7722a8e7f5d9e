"""Somebody else than the attacker, in a process of their own: what attackers do holds up none of their clocks."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Final, NamedTuple

from tests.harness import Server
from tests.rawsocket import RawSocket

#: Where they come from.
HONEST: Final = "127.0.0.2"
#: Pings in a row when they are asked for one: what a server puts off holds up one of them.
IN_A_ROW: Final = 3
#: Seconds after which a server that does not answer serves nobody.
PATIENCE: Final = 10.0


class Fared(NamedTuple):
    """How the other one fared for a while: the times of pings, the longest of a sign-in, s, and what broke."""

    waits: list[float]
    sign_in: float
    broken: str


class _HonestUser:
    """Pings over one connection, and signs in over others, each in a thread, until the pipe says that it is over.

    Whatever breaks is noted, and begun anew: what one row does to this user is not the next one's fault.
    """

    def __init__(self, pipe: Pipe, port: int, tokens: list[str]) -> None:
        self._pipe = pipe
        self._port = port
        self._tokens = itertools.cycle(tokens)
        self._done = threading.Event()
        #: set while nothing is done but what is asked for
        self._resting = threading.Event()
        self._client: RawSocket | None = None
        self._other: RawSocket | None = None
        self._noting = threading.Lock()
        self._fared = Fared([], 0.0, "")

    def _sign_in(self) -> RawSocket:
        client = RawSocket(self._port, PATIENCE, HONEST)
        client.upgrade({"Authorization": f"Bearer {next(self._tokens)}"})
        answer = client.message()
        if answer["type"] != "auth_success":
            client.close()
            raise ConnectionRefusedError(f"instead of auth_success: {answer}")
        return client

    def run(self) -> None:
        self._client, self._other = self._sign_in(), self._sign_in()
        pinging = threading.Thread(target=self._repeat, args=(self._ping, 0.03))
        signing = threading.Thread(target=self._repeat, args=(self._sign_in_again, 0.1))
        for thread in (pinging, signing):
            thread.start()
        self._pipe.send(None)
        while (asked := self._pipe.recv()) != "end":
            self._pipe.send(getattr(self, f"_do_{asked}")())
        self._done.set()
        for thread in (pinging, signing):
            thread.join()
        for client in (self._client, self._other):
            if client is not None:
                client.close()

    # -- what is asked for --------------------------------------------------------------------------------------------

    def _do_fared(self) -> Fared:
        with self._noting:
            fared, self._fared = self._fared, Fared([], 0.0, "")
        return fared

    def _do_rest(self) -> None:
        self._resting.set()

    def _do_work(self) -> None:
        self._resting.clear()

    def _do_ping(self) -> list[float] | str:
        """Return when each of some pings in a row was asked and answered, by the monotonic clock, or what broke."""
        try:
            if self._other is None:
                self._other = self._sign_in()
            moments = [time.monotonic()]
            for number in range(IN_A_ROW):
                self._other.ask({"type": "ping", "id": number})
                moments.append(time.monotonic())
        except Exception as problem:
            if self._other is not None:
                self._other.close()
            self._other = None
            return _named(problem)
        return moments

    # -- meanwhile ----------------------------------------------------------------------------------------------------

    def _repeat(self, what: Callable[[], None], pause: float) -> None:
        while not self._done.wait(pause):
            if self._resting.is_set():
                continue
            try:
                what()
            except Exception as problem:
                with self._noting:
                    self._fared = self._fared._replace(broken=_named(problem))

    def _ping(self) -> None:
        begin = time.monotonic()
        try:
            if self._client is None:
                self._client = self._sign_in()
            self._client.ask({"type": "ping", "id": str(begin)})
        except Exception:
            client, self._client = self._client, None
            if client is not None:
                client.close()
            raise
        with self._noting:
            self._fared.waits.append(time.monotonic() - begin)

    def _sign_in_again(self) -> None:
        begin = time.monotonic()
        self._sign_in().close()
        with self._noting:
            self._fared = self._fared._replace(sign_in=max(self._fared.sign_in, time.monotonic() - begin))


def _named(problem: Exception) -> str:
    return f"{type(problem).__name__} {problem}".strip()


def _honest_user(pipe: Pipe, port: int, tokens: list[str]) -> None:
    _HonestUser(pipe, port, tokens).run()


class Honest:
    """The process."""

    def __init__(self, server: Server) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        tokens = [server.token(f"honest-{n}") for n in range(50)]
        self._process = context.Process(target=_honest_user, args=(other, server.port, tokens), daemon=True)
        self._process.start()
        other.close()
        self._pipe.recv()

    def fared(self) -> Fared:
        """Return how it went since this was last asked."""
        self._pipe.send("fared")
        fared: Fared = self._pipe.recv()
        return fared

    def rest(self) -> None:
        """Have them do nothing of their own from now on, until `work`."""
        self._pipe.send("rest")
        self._pipe.recv()

    def work(self) -> None:
        self._pipe.send("work")
        self._pipe.recv()

    def wait_from(self, moment: float) -> float:
        """Return the longest wait of some pings in a row, s, of the first one since this moment of the monotonic clock.
        Raises ConnectionError where they were not answered."""
        self._pipe.send("ping")
        moments: list[float] | str = self._pipe.recv()
        if isinstance(moments, str):
            raise ConnectionError(moments)
        return max(after - before for before, after in itertools.pairwise([moment, *moments[1:]]))

    def end(self) -> None:
        self._pipe.send("end")
        self._process.join(15)
        self._process.kill()
        self._process.join()
        self._pipe.close()
