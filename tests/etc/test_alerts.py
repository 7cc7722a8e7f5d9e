"""Each alert of etc/ fires by its fault, which is made on a real server that a real Prometheus scrapes.

The rules are the shipped ones, but that a minute of theirs takes two seconds here, and an hour one minute. A few faults
are made at once, each on servers of its own, and beside them one server has none.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.app.workers.test_supervisor import children
from tests.certificates import certificates
from tests.cluster.conftest import API_KEY, CONFIG, Deployment
from tests.cluster.test_explain import SlowWay
from tests.etc.prometheus import Prometheus, Target
from tests.etc.test_metrics_files import ALERTS
from tests.harness import Server, free_port, wait_until
from tests.rawsocket import Closed, RawSocket

#: Seconds until they have fired, on a machine that does other things beside.
PATIENCE = 200.0
#: Seconds by which answers of Redis are late.
LATE = 1.4
#: Where nobody answers a ping.
QUIET = '[heartbeat]\ninterval = "1h"\n'

#: A mistake in the program, which nothing from outside can make: the list of connections fails.
MISTAKE = """
import pushserver.server.listing
async def broken(*arguments):
    raise ZeroDivisionError("a mistake in the program")
pushserver.server.listing.list_connections = broken
"""


def rules(directory: Path) -> Path:
    """Return the shipped rules, with less patience."""

    def faster(match: re.Match[str]) -> str:
        number, unit = int(match[2]), match[3]
        return f"{match[1]}{number * (60 if unit == 'h' else 2)}s"

    text, count = re.subn(r"(for: |\[)(\d+)([mh])\b", faster, ALERTS.read_text())
    assert count > 20
    (directory / "rules.yml").write_text(text)
    return directory / "rules.yml"


class Faults:
    """Servers with a fault each, and what keeps them at it until the end.

    Attributes:
        targets: what is scraped, by its instance.
    """

    def __init__(self, place: Deployment, stack: ExitStack) -> None:
        self._place = place
        self._stack = stack
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self.targets: dict[str, Target] = {}
        self._server("well")
        stack.callback(self.end)

    def _server(self, name: str, *options: str, config: str = "", env: dict[str, str] | None = None) -> Server:
        """Start a server that is scraped."""
        environment = {"PUSHSERVER_SERVER__NODE_NAME": name, **(env or {})}
        server = self._place.server(*options, config=config, env=environment)
        self.targets[name] = Target(server.port, API_KEY)
        return server

    def _again_and_again(self, pause: float, work: Callable[[], object]) -> None:
        """Do something until the end, with a pause between two times, s."""

        def run() -> None:
            while not self._ended.wait(pause):
                # What a server with a fault says to it does not matter here.
                with suppress(OSError, Closed, TimeoutError):
                    work()

        self._threads.append(threading.Thread(target=run))

    def begin(self) -> None:
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._ended.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    # -- faults -------------------------------------------------------------------------------------------------------

    def redis_is_away(self) -> None:
        redis = self._place.redis()
        config = '[redis]\ncommand_timeout = "500ms"\n[[namespaces]]\nname = "news"\nhistory_size = 10\n'
        server = self._server("redis-away", "--redis", redis.url, config=config)
        redis.pause()
        self._again_and_again(0.2, lambda: server.api("POST", "/api/publish", {"channel": "news:a", "data": 1}))

    def a_node_is_killed(self) -> None:
        redis = self._place.redis()
        self._server("node-1", "--redis", redis.url)
        killed = self._server("node-2", "--redis", redis.url)
        # Once Prometheus has seen both.
        self._again_and_again(10.0, killed.kill)

    def nearly_full(self) -> None:
        server = self._server("nearly-full", config=f"[server]\nmax_connections = 10\n{QUIET}")
        for number in range(10):
            client = self._stack.enter_context(RawSocket(server.port))
            client.upgrade({"Authorization": f"Bearer {server.token(f'u{number}')}"})

    def small_store(self) -> None:
        redis = self._place.redis(maxmemory="12mb", maxmemory_policy="noeviction")
        config = '[[namespaces]]\nname = "kept"\nhistory_size = 150\n'
        server = self._server("small-store", "--redis", redis.url, config=config)
        message = {"channel": "kept:a", "data": "x" * 60_000}
        self._again_and_again(0.02, lambda: server.api("POST", "/api/publish", message))

    def certificate_ends(self) -> None:
        files = certificates(self._place.path / "pki")
        port, pem = free_port(), f"privateKey={files['key']}:certKey={files['cert']}"
        server = self._place.server("--listen", f"ssl:{port}:interface=127.0.0.1:{pem}", config="", ready=False)
        wait_until(lambda: " listens on " in server.log, 60, server.log)
        self.targets["certificate"] = Target(port, API_KEY, files["ca"])

    def redis_is_slow(self) -> None:
        way = SlowWay(self._place.redis().port)
        self._stack.callback(way.close)
        server = self._server("slow-redis", "--redis", way.url, config=CONFIG + QUIET)
        client = self._stack.enter_context(RawSocket(server.port))
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": server.token("42")}})
        client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["news:a"]}})
        way.late = LATE
        self._again_and_again(0.1, lambda: server.api("POST", "/api/publish", {"channel": "news:a", "data": 1}))

    def processor_is_taken_away(self) -> None:
        server = self._server("held-up")

        def hold() -> None:
            server.signal(signal.SIGSTOP)
            try:
                self._ended.wait(0.3)
            finally:
                server.signal(signal.SIGCONT)

        # It has to answer Prometheus in between.
        self._again_and_again(0.3, hold)

    def strangers(self) -> None:
        server = self._server("strangers", config=QUIET)

        def knock(headers: dict[str, str]) -> None:
            with RawSocket(server.port) as client:
                if client.upgrade(headers).status == 101:
                    client.ask({"type": "auth", "id": 1, "data": {"token": "nobody's"}})

        self._again_and_again(0.1, lambda: knock({}))
        self._again_and_again(0.1, lambda: knock({"Origin": "https://evil.example"}))

    def slow_readers(self) -> None:
        config = (
            f'{QUIET}[delivery]\nmax_queue_size = 65536\n[[namespaces]]\nname = "big"\nsubscribe = "authenticated"\n'
        )
        server = self._server("slow-readers", config=config)
        numbers = itertools.count()

        def wave() -> None:
            channel = f"big:{next(numbers)}"
            with ExitStack() as stack:
                for number in range(10):
                    client = stack.enter_context(RawSocket(server.port))
                    client._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
                    client.upgrade({"Authorization": f"Bearer {server.token(f'u{number}')}"})
                    client.send_message({"type": "subscribe", "id": 2, "data": {"channels": [channel]}})
                wait_until(lambda: followers(channel) == 10)
                while followers(channel):
                    server.api("POST", "/api/publish", {"channel": channel, "data": "x" * 500_000})

        def followers(channel: str) -> int:
            found = server.api("GET", f"/api/channels?pattern={channel}").body["channels"]
            return sum(each["connections"] for each in found)

        self._again_and_again(0.0, wave)

    def mistake(self) -> None:
        folder = self._place.path / "mistake"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(MISTAKE)
        path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
        server = self._server("mistake", env={"PYTHONPATH": path})
        self._again_and_again(10.0, lambda: server.api("GET", "/api/operators/connections"))

    def ingest_is_flooded(self) -> None:
        redis = self._place.redis()
        self._server("flooded", "--redis", redis.url, config=CONFIG)
        command = '{"method": "publish", "params": {"channel": "news:a", "data": 1}}'
        flood = "for i = 1, 4000 do redis.call('XADD', KEYS[1], '*', 'cmd', ARGV[1]) end"

        def add() -> None:
            if int(redis.command("XLEN", "push:ingest").strip(":\r\n")) < 4_000:
                redis.command("EVAL", flood, "1", "push:ingest", command)

        self._again_and_again(0.1, add)

    def workers_that_end(self) -> None:
        server = self._server("workers", "--redis", self._place.redis().url, "--workers", "2")

        def kill() -> None:
            """The newest of two: the other one answers Prometheus."""
            _, *newest = children(server.pid)
            for worker in newest:
                os.kill(worker, signal.SIGKILL)

        self._again_and_again(1.0, kill)


#: Which are made at once (none that takes a whole core is beside one that is about how fast a server is), and what is
#: due: the alerts, each with its instance, "" where it is about all of them.
TOGETHER: dict[str, dict[Callable[[Faults], None], set[tuple[str, str]]]] = {
    "unavailable": {
        Faults.redis_is_away: {("PushserverNotReady", "redis-away"), ("PushserverApiFails", "redis-away")},
        Faults.a_node_is_killed: {("PushserverDown", "node-2"), ("PushserverNodeMissing", "")},
        Faults.certificate_ends: {("PushserverCertificateEnds", "certificate")},
        Faults.nearly_full: {("PushserverNearlyFull", "nearly-full")},
    },
    "slow": {
        Faults.redis_is_slow: {("PushserverSlowEngine", "slow-redis"), ("PushserverSlowDelivery", "slow-redis")},
        Faults.processor_is_taken_away: {("PushserverReactorLag", "held-up")},
    },
    "refused": {
        Faults.small_store: {("PushserverStoreNearlyFull", "small-store")},
        Faults.strangers: {("PushserverSignInsFail", "strangers"), ("PushserverRefusesPages", "strangers")},
        Faults.mistake: {("PushserverInternalErrors", "mistake")},
    },
    "flooded": {Faults.ingest_is_flooded: {("PushserverIngestLags", "flooded")}},
    "unread": {Faults.slow_readers: {("PushserverSlowConsumers", "slow-readers")}},
    "ending": {Faults.workers_that_end: {("PushserverWorkersRestart", "workers")}},
}
#: What may come with them, since the same fault is theirs too.
BESIDES = {
    ("PushserverSlowEngine", "redis-away"),
    ("PushserverSlowDelivery", "redis-away"),
    ("PushserverReactorLag", "flooded"),
    ("PushserverDown", "workers"),
    ("PushserverNotReady", "workers"),
}
#: Of all servers where the machine has more to do than it can: a server without a fault may have them too.
OF_THE_MACHINE = {"PushserverDown", "PushserverReactorLag", "PushserverSlowDelivery", "PushserverSlowEngine"}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.end()


def test_every_alert_has_its_fault() -> None:
    due = {alert for faults in TOGETHER.values() for each in faults.values() for alert, _ in each}
    assert due == set(re.findall(r"alert: (\w+)", ALERTS.read_text()))


@pytest.mark.full
@pytest.mark.parametrize("names", TOGETHER)
def test_each_fires_by_its_fault_on_a_real_server_and_no_other(names: str, place: Deployment, tmp_path: Path) -> None:
    with ExitStack() as stack:
        faults = Faults(place, stack)
        for make in TOGETHER[names]:
            make(faults)
        due = set().union(*TOGETHER[names].values())
        prometheus = Prometheus(tmp_path, faults.targets, rules(tmp_path))
        stack.callback(prometheus.end)
        faults.begin()
        end = time.monotonic() + PATIENCE
        while missing := due - (fired := prometheus.fired()):
            assert time.monotonic() < end, missing
            time.sleep(0.5)
    of_the_machine = {alert for alert, name in fired if name == "well"}
    assert of_the_machine <= OF_THE_MACHINE
    assert {each for each in fired - due - BESIDES if each[0] not in of_the_machine} == set()
