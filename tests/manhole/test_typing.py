"""The real ``ssh`` in a terminal emulator: 1,000 keys while all is watched, and an operator who does not read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyte
import pytest

from tests.harness import Server, free_port, wait_until
from tests.manhole.test_ssh import Operator, make_key
from tests.manhole.typing_model import KEYS, Model, keys
from tests.rawsocket import RawSocket

WIDTH, HEIGHT, SEED = 80, 24, 20261125


@pytest.fixture
def operator(start_server: Callable[..., Server], tmp_path: Path) -> Operator:
    key, port = make_key(tmp_path / "key"), free_port()
    # The clients here answer no ping of the heartbeat.
    config = (
        '[heartbeat]\ninterval = "1h"\n[rate_limits]\nmessages_per_second = 100000\nburst = 100000\n'
        '[[namespaces]]\nname = "live"\n'
    )
    server = start_server(
        "--manhole",
        f"tcp:{port}:interface=127.0.0.1",
        config=config,
        env={"PUSHSERVER_MANHOLE__AUTHORIZED_KEYS": f"{key}.pub"},
    )
    return Operator(server, port, key)


class Window:
    """A terminal emulator with ``ssh`` in it."""

    def __init__(self, operator: Operator) -> None:
        self.screen = pyte.Screen(WIDTH, HEIGHT)
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self._fd = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "xterm"
            os.execvp("ssh", operator.command("-tt"))
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", HEIGHT, WIDTH, 0, 0))
        self.seen = b""

    def read(self, seconds: float) -> None:
        """Show what comes within so long, if anything does."""
        if select.select([self._fd], [], [], seconds)[0]:
            octets = os.read(self._fd, 65_536)
            self.seen += octets
            self._stream.feed(octets)

    def type(self, text: str) -> None:
        os.write(self._fd, text.encode())

    def until(self, what: Callable[[], object], deadline: float = 60.0) -> None:
        """Read until it is so."""
        end = time.monotonic() + deadline
        while not what():
            assert time.monotonic() < end, "\n".join(self.screen.display)
            self.read(0.05)

    def shows(self, model: Model) -> bool:
        """Whether the screen shows the model's line, the cursor where it is, and nothing below."""
        rows, row, column = model.rows(WIDTH)
        first = self.screen.cursor.y - row
        shown = [line.rstrip() for line in self.screen.display]
        return (
            first >= 0
            and shown[first : first + len(rows)] == [one.rstrip() for one in rows]
            and self.screen.cursor.x == column
            and "".join(shown[first + len(rows) :]) == ""
        )

    def close(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._fd)


@pytest.fixture
def window(operator: Operator) -> Iterator[Window]:
    window = Window(operator)
    yield window
    window.close()


class Busy:
    """User 42, whose messages are watched, and the number of those that came."""

    def __init__(self, operator: Operator) -> None:
        self._server = operator.server
        self._client = RawSocket(operator.server.port, timeout=60)
        self._client.upgrade()
        self._client.ask({"type": "auth", "id": 1, "data": {"token": operator.server.token("42")}})
        self._client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["live:load"]}})
        self._ended = threading.Event()
        self.sent = 0
        self.came: list[int] = []
        self._threads = [threading.Thread(target=self._publish), threading.Thread(target=self._read)]
        for thread in self._threads:
            thread.start()

    def _publish(self) -> None:
        while not self._ended.wait(0.01):
            self._send(self.sent)
            self.sent += 1
        self._send(None)

    def _send(self, data: int | None) -> None:
        assert self._server.api("POST", "/api/publish", {"channel": "live:load", "data": data}).status == 200

    def _read(self) -> None:
        while (data := self._client.message()["data"]) is not None:
            self.came.append(data)

    def end(self) -> list[int]:
        """Return what came, once all that was sent has."""
        self._ended.set()
        for thread in self._threads:
            thread.join(60)
        self._client.close()
        return self.came


def test_a_thousand_keys_while_a_user_and_the_log_are_watched(operator: Operator, window: Window) -> None:
    model = Model()
    window.until(lambda: window.shows(model))
    busy = Busy(operator)
    try:
        window.type("trace(42)\rlog('debug')\r")
        model.before += ["trace(42)", "log('debug')"]
        window.until(lambda: b"live:load" in window.seen)
        model.press("#")
        window.type("#")
        for number, name in enumerate(keys(SEED, 1_000)):
            if number % 100 == 99:
                for key in ("home", "#", "end"):
                    model.press(key)
                    window.type(KEYS.get(key, key))
                window.type("\r")
                model.press_enter()
            model.press(name)
            window.type(KEYS.get(name, name))
            if number % 10 == 9:
                window.until(lambda: window.shows(model))
        window.until(lambda: window.shows(model))
        window.type("\x15untrace()\r")
        window.until(lambda: b"2 stopped" in window.seen)
    finally:
        came = busy.end()
    assert came == list(range(busy.sent))
    assert len(came) > 20
    assert "Traceback" not in operator.server.log
    assert "could not be taken" not in operator.server.log
    # Nobody is left behind, and the user can be traced again.
    wait_until(lambda: operator.run_command("connections('42')").stdout.strip() == "not connected")


def memory(pid: int) -> int:
    """Bytes of a process in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.full
def test_an_operator_who_does_not_read_costs_little_and_the_user_nothing(operator: Operator, window: Window) -> None:
    window.until(lambda: window.shows(Model()))
    with RawSocket(operator.server.port, timeout=60) as client:
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": operator.server.token("42")}})
        window.type("trace(42)\r")
        window.until(lambda: b"42 from" in window.seen)

        def pings(numbers: range) -> None:
            for at in range(numbers.start, numbers.stop, 100):
                batch = [{"type": "ping", "id": n, "data": {"x": "x" * 1_000}} for n in range(at, at + 100)]
                for message in batch:
                    client.send_message(message)
                assert [client.message()["id"] for _ in batch] == [message["id"] for message in batch]

        pings(range(1_000))
        os.kill(window.pid, signal.SIGSTOP)
        before = memory(operator.server.pid)
        pings(range(1_000, 21_000))
        grown = memory(operator.server.pid) - before
        os.kill(window.pid, signal.SIGCONT)
        window.until(lambda: b"lines were left out" in window.seen, 60)
        assert grown < 8 * 1024 * 1024
        window.type("\x03")
        window.until(lambda: b"lines were shown" in window.seen)
        assert client.ask({"type": "ping", "id": "last", "data": {}})["type"] == "pong"
