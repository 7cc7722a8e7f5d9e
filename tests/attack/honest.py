"""Somebody else than the attacker, in a process of their own: what attackers do holds up none of their clocks."""

from __future__ import annotations

import http.client
import itertools
import json
import multiprocessing
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final, NamedTuple

from tests.harness import Server
from tests.rawsocket import RawSocket

#: Where they come from.
HONEST: Final = "127.0.0.2"
#: Pings in a row when they are asked for one: what a server puts off holds up one of them.
IN_A_ROW: Final = 3
#: How many one connection asks: beyond a burst it would be closed for asking too often.
OF_ONE: Final = 60
#: Seconds after which a server that does not answer serves nobody.
PATIENCE: Final = 10.0


class Fared(NamedTuple):
    """How the other one fared for a while: the times of pings, the longest of a sign-in, and from what a task of theirs
    wrote until they read it, s, and what broke."""

    waits: list[float]
    sign_in: float
    output: float
    broken: str


NOTHING: Final = Fared([], 0.0, 0.0, "")
#: The other one's task, and the user whose it is.
HONEST_TASK: Final = "honest"
OWNER: Final = "honest-0"


class _HonestUser:
    """Pings over one connection, signs in over others, and reads what a task of theirs writes, each in a thread, until
    the pipe says that it is over. ``key``: of the task's worker; without one there is no task.

    Whatever breaks is noted, and begun anew: what one row does to this user is not the next one's fault.
    """

    def __init__(self, pipe: Pipe, port: int, tokens: list[str], key: str) -> None:
        self._pipe = pipe
        self._port = port
        #: of who owns the task
        self._first = tokens[0]
        self._tokens = itertools.cycle(tokens)
        self._key = key
        self._done = threading.Event()
        #: set while nothing is done but what is asked for
        self._resting = threading.Event()
        self._client: RawSocket | None = None
        self._other: RawSocket | None = None
        #: how many more pings it may ask
        self._left = 0
        self._reader: RawSocket | None = None
        self._noting = threading.Lock()
        self._fared = NOTHING._replace(waits=[])

    def _sign_in(self, token: str = "") -> RawSocket:
        client = RawSocket(self._port, PATIENCE, HONEST)
        client.upgrade({"Authorization": f"Bearer {token or next(self._tokens)}"})
        answer = client.message()
        if answer["type"] != "auth_success":
            client.close()
            raise ConnectionRefusedError(f"instead of auth_success: {answer}")
        return client

    def run(self) -> None:
        self._client, self._other = self._sign_in(), self._sign_in()
        work: list[tuple[Callable[[], None], float]] = [(self._ping, 0.03), (self._sign_in_again, 0.1)]
        if self._key:
            work.append((self._write_and_read, 0.1))
        threads = [threading.Thread(target=self._repeat, args=each) for each in work]
        for thread in threads:
            thread.start()
        self._pipe.send(None)
        while (asked := self._pipe.recv()) != "end":
            self._pipe.send(getattr(self, f"_do_{asked}")())
        self._done.set()
        for thread in threads:
            thread.join()
        for client in (self._client, self._other, self._reader):
            if client is not None:
                client.close()

    # -- what is asked for --------------------------------------------------------------------------------------------

    def _do_fared(self) -> Fared:
        with self._noting:
            fared, self._fared = self._fared, NOTHING._replace(waits=[])
        return fared

    def _do_rest(self) -> None:
        self._resting.set()

    def _do_work(self) -> None:
        self._resting.clear()

    def _do_ping(self) -> list[float] | str:
        """Return when each of some pings in a row was asked and answered, by the monotonic clock, or what broke."""
        try:
            if self._other is None or self._left < IN_A_ROW:
                if self._other is not None:
                    self._other.close()
                self._other, self._left = self._sign_in(), OF_ONE
            self._left -= IN_A_ROW
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

    def _write_and_read(self) -> None:
        begin = time.monotonic()
        try:
            if self._reader is None:
                self._reader = self._sign_in(self._first)
                self._reader.ask({"type": "subscribe", "id": 1, "data": {"channels": [f"output:main/{HONEST_TASK}"]}})
            mark = f"{begin} "
            self._append(mark)
            while mark not in self._reader.message()["data"].get("text", ""):
                pass
        except Exception:
            reader, self._reader = self._reader, None
            if reader is not None:
                reader.close()
            raise
        with self._noting:
            self._fared = self._fared._replace(output=max(self._fared.output, time.monotonic() - begin))

    def _append(self, text: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30, source_address=(HONEST, 0))
        try:
            path, body = f"/api/tasks/{HONEST_TASK}/output", json.dumps({"text": text})
            connection.request("POST", path, body, {"X-API-Key": self._key})
            answer = connection.getresponse()
            octets = answer.read()
            if answer.status != 200:
                raise ConnectionRefusedError(f"an append was answered {answer.status} {octets!r}")
        finally:
            connection.close()


def _named(problem: Exception) -> str:
    return f"{type(problem).__name__} {problem}".strip()


def _honest_user(pipe: Pipe, port: int, tokens: list[str], key: str) -> None:
    _HonestUser(pipe, port, tokens, key).run()


def require(server: Server, path: str, body: dict[str, Any]) -> None:
    """Have the server side do this. Raises RuntimeError where it is refused."""
    answer = server.api("POST", path, body, source=HONEST)
    if answer.status not in (200, 201):
        raise RuntimeError(f"{path} was answered {answer.status} {answer.body}")


class Honest:
    """The process. ``writes``: they have a task, which writes."""

    def __init__(self, server: Server, writes: bool = True) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        tokens = [server.token(OWNER), *(server.token(f"honest-{n}") for n in range(1, 50))]
        key = server.api_key if writes else ""
        if writes:
            require(server, "/api/tasks", {"taskId": HONEST_TASK, "userId": OWNER})
        self._process = context.Process(target=_honest_user, args=(other, server.port, tokens, key), daemon=True)
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
