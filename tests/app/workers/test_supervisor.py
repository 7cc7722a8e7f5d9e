"""Several real processes behind one port, and what becomes of them."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.task import deferLater

from pushserver.app.workers import load_table
from pushserver.app.workers.supervisor import SILENCE, STARTING, Supervisor
from pushserver.config.checks import Config, load
from pushserver.server.clock import Clock
from pushserver.server.repeats import SHOWN
from tests.cluster.conftest import API_KEY, CONFIG, Deployment
from tests.cluster.talk import Talk, Talks, becomes, talking
from tests.harness import Server, free_port, taken, wait_until
from tests.manhole.test_ssh import Operator, make_key
from tests.rawsocket import RawSocket


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    place = Deployment(tmp_path_factory.mktemp("workers"))
    place.redis()
    yield place
    place.end()


@pytest.fixture(autouse=True)
def _end(site: Deployment) -> Iterator[None]:
    """Ends what a test started: the next one has the machine to itself."""
    yield
    site.end_servers()


@pytest.fixture
def talk() -> Iterator[Talks]:
    with talking() as talks:
        yield talks


def begin(
    site: Deployment, workers: int = 2, *options: str, config: str = CONFIG, prefix: str = "", **settings: Any
) -> Server:
    (redis,) = site._redis
    prefix = prefix or f"p{site.count}"
    config = f'{config}\n[redis]\nprefix = "{prefix}"' if "[redis]" not in config else config.replace(
        "[redis]", f'[redis]\nprefix = "{prefix}"')  # fmt: skip
    server = site.server("--redis", redis.url, "--workers", str(workers), *options, config=config, **settings)
    if "--listen" not in options:
        wait_until(lambda: server.log.count(" is ready") == workers)
    return server


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def nodes_of(server: Server) -> list[str]:
    return sorted(node["node"] for node in server.api("GET", "/api/nodes").body["nodes"])


def node_of(talk: Any) -> str:
    node: str = talk.welcome["data"]["node"]
    return node


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """As long as this lasts, these processes do nothing."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            wait_until(lambda pid=pid: "\nState:\tT" in Path(f"/proc/{pid}/status").read_text())
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def on_both(server: Server, talk: Talks, *channels: str, user: str = "42") -> list[Talk]:
    """Connections of one user, two to each of two workers: while one takes them, the other is stopped."""
    talks: list[Talk] = []
    for other in children(server.pid):
        with stopped(other):
            talks += [talk(server, user, *channels) for _ in range(2)]
    assert sorted(Counter(map(node_of, talks)).values()) == [2, 2]
    return talks


def leaders(server: Server) -> list[str]:
    """The nodes that have led, the first one first. A worker's line comes to the log a little later than its deeds."""
    found: list[str] = wait_until(lambda: re.findall(r"node (\S+) leads", server.log))
    return found


def test_verbs_reach_the_connections_of_every_worker(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    assert len(children(server.pid)) == 2
    talks = on_both(server, talk, "news:x")
    assert sorted(set(map(node_of, talks))) == nodes_of(server)
    assert len(server.api("GET", "/api/connections?userId=42").body["connections"]) == len(talks)
    server.api("POST", "/api/publish", {"channel": "news:x", "data": {"n": 1}})
    for each in talks:
        each.push("message", n=1)
    assert server.api("POST", "/api/disconnect", {"userId": "42"}).body == {"closed": len(talks)}
    assert {each.closed() for each in talks} == {3503}


@pytest.mark.full
def test_connections_spread(site: Deployment, talk: Talks) -> None:
    """However the machine divides its time: whoever comes late is served by whoever has fewer."""
    server = begin(site)
    spread: Counter[str] = Counter()

    def enough() -> bool:
        spread[node_of(talk(server, "42"))] += 1
        return len(spread) == 2 and min(spread.values()) >= 15

    wait_until(enough, 60)


def test_a_worker_that_dies_takes_only_its_own_along_and_comes_back(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    talks = on_both(server, talk)
    victim, other = children(server.pid)
    os.kill(victim, signal.SIGKILL)
    # Again, before it has lived long: with a pause.
    (again,) = wait_until(lambda: set(children(server.pid)) - {victim, other})
    os.kill(again, signal.SIGKILL)
    wait_until(lambda: "and starts again in 0.25 s" in server.log)
    ready = server.log.count(" is ready")
    # Whoever comes now is served by the other, at once.
    newcomers = [talk(server, "42") for _ in range(12)]
    wait_until(lambda: server.log.count(" is ready") > ready)
    assert len(set(children(server.pid)) - {victim, other, again}) == 1
    for each in (*newcomers, *(each for each in talks if node_of(each).endswith("-2"))):
        each.barrier()
    assert "process ended by signal 9" in server.log
    assert re.findall(r"and starts again in (\S+) s", server.log) == ["0.0", "0.25"]


def test_a_worker_that_is_asked_to_end_drains_and_is_replaced(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    talks = on_both(server, talk)
    os.kill(children(server.pid)[0], signal.SIGTERM)
    for each in talks:
        if node_of(each).endswith("-1"):
            each.push("going_away")
            assert each.closed() == 3001
        else:
            each.barrier()
    wait_until(lambda: server.log.count(" is ready") == 3)


def test_sigterm_drains_all(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    talks = on_both(server, talk)
    workers = children(server.pid)
    server.signal(signal.SIGTERM)
    for each in talks:
        each.push("going_away")
        assert each.closed() == 3001
    assert server.wait() == -signal.SIGTERM
    assert not any(map(alive, workers))
    assert server.log.count("has stopped") == 2
    assert "Traceback" not in server.log


def test_what_is_refused_again_and_again_is_summed_up_over_all_workers(site: Deployment) -> None:
    server = begin(site)
    for number, other in enumerate(children(server.pid)):
        with stopped(other):
            for _ in range(3 * SHOWN):
                with RawSocket(server.port, source=f"127.0.0.{number + 1}") as client:
                    assert client.upgrade({"Origin": "https://evil.example"}).status == 403
    server.signal(signal.SIGTERM)
    server.wait()
    lines = [line for line in server.log.splitlines() if "event=connection_refused" in line]
    assert len(lines) == SHOWN + 1, lines
    assert "50 more of these within 60 s, from 2 addresses; the busiest: 127.0.0.2 (30), 127.0.0.1 (20)" in lines[-1]
    assert "worker-" not in lines[-1]


def test_an_interrupt_of_the_whole_terminal_drains_too(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    client = talk(server, "42")
    os.killpg(server.pid, signal.SIGINT)
    client.push("going_away")
    assert client.closed() == 3001
    server.wait()
    assert server.log.count("has stopped") == 2


def test_workers_end_with_their_supervisor(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    client = talk(server, "42")
    workers = children(server.pid)
    server.signal(signal.SIGKILL)
    server.wait()
    client.push("going_away")
    assert client.closed() == 3001
    wait_until(lambda: not any(map(alive, workers)))


@pytest.mark.full
def test_entries_outlive_a_supervisor_that_is_killed_while_a_worker_carries_them_out(site: Deployment) -> None:
    prefix = f"p{site.count}"
    server = begin(site)
    (redis,) = site._redis
    workers = children(server.pid)
    for n in range(60):
        command = {"method": "notify", "params": {"userId": "42", "data": {"n": n}}}
        redis.command("XADD", f"{prefix}:ingest", "*", "cmd", json.dumps(command))
        if n == 30:
            server.signal(signal.SIGKILL)
    server.wait()
    wait_until(lambda: not any(map(alive, workers)))
    again = begin(site, prefix=prefix)
    # The lease of a worker that could not give it back has to end.
    wait_until(lambda: redis.command("XLEN", f"{prefix}:ingest") == ":0\r\n", 30, again.log)
    kept = again.api("GET", "/api/inbox?userId=42").body["messages"]
    assert [message["data"]["n"] for message in kept] == list(range(60))


def test_the_limit_of_connections_is_that_of_all(site: Deployment, talk: Talks) -> None:
    server = begin(site, config=CONFIG.replace("[server]", "[server]\nmax_connections = 5"))
    talks = [talk(server, "42") for _ in range(5)]
    for _ in range(4):
        with pytest.raises(Exception, match="503"):
            talk.guest(server)
    talks[0].leave()
    becomes(lambda: len(server.api("GET", "/api/connections?userId=42").body["connections"]), 4)
    talk(server, "42").barrier()


def test_a_unix_socket_is_shared_and_survives_a_worker(site: Deployment, tmp_path: Path) -> None:
    path = tmp_path / "push.sock"
    server = begin(site, 2, "--listen", f"unix:{path}:mode=600", ready=False)

    def health() -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return client.recv(1000)

    wait_until(lambda: server.log.count(" is ready") == 2)
    assert b"200 OK" in health()
    os.kill(children(server.pid)[0], signal.SIGTERM)
    wait_until(lambda: server.log.count(" is ready") == 3)
    assert path.stat().st_mode & 0o777 == 0o600
    assert b"200 OK" in health()
    server.terminate()
    assert not path.exists()


def test_no_secret_is_on_a_workers_command_line(site: Deployment) -> None:
    server = begin(site)
    for pid in children(server.pid):
        line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        assert line[1:3] == [b"-m", b"pushserver.app.workers.worker"]
        assert server.secret.encode() not in b" ".join(line)
        assert server.api_key.encode() not in b" ".join(line)
    # The log says who speaks, and no secret.
    assert re.search(r"\[worker-2 pushserver\.app\.service\.PushService#info\] node \S+-2 listens on", server.log)
    assert server.secret not in server.log


def test_a_port_that_is_taken_is_said_in_one_line(site: Deployment, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = begin(site, 2, "--listen", f"tcp:{taken.getsockname()[1]}:interface=127.0.0.1", ready=False)
        assert server.wait() == 1
    assert "pushserver: cannot listen on" in server.log
    assert "Traceback" not in server.log


def test_what_no_worker_can_start_with_ends_the_whole(site: Deployment, tmp_path: Path) -> None:
    (redis,) = site._redis
    server = site.server(
        "--workers", "2", "--redis", f"redis://nobody:wrong@127.0.0.1:{redis.port}/0", ready=False, config=""
    )
    assert server.wait() == 1
    assert re.search(r"^pushserver: .+", server.log, re.MULTILINE)
    assert "Traceback" not in server.log
    assert "wrong@" not in server.log


def test_development_mode_greets_once(site: Deployment, talk: Talks) -> None:
    server = begin(site, 2, dev=True)
    wait_until(lambda: "pushserver in development mode" in server.log)
    assert server.log.count("pushserver in development mode") == 1
    server.secret = ""
    token = re.search(r"^\s+token\s+(\S+)$", server.log, re.MULTILINE)
    assert token is not None
    client = talk.guest(server)
    assert client.ask("auth", token=token[1])["type"] == "auth_success"
    assert (server.state_dir / "address").read_text().strip() == f"{server.url}/"
    server.terminate()
    assert not (server.state_dir / "address").exists()


def test_a_console_that_nobody_placed_finds_a_free_port(site: Deployment) -> None:
    with taken(8022):
        server = begin(site, 2, "--manhole", "", dev=True)
        said = wait_until(lambda: re.search(r"ssh -p (\d+) admin@127\.0\.0\.1", server.log))
        assert said[1] != "8022"
        with socket.create_connection(("127.0.0.1", int(said[1])), timeout=30) as console:
            assert console.recv(8) == b"SSH-2.0-"


def test_one_leads_and_another_takes_over(site: Deployment) -> None:
    server = begin(site)

    def led() -> list[str]:
        return re.findall(r"node (\S+) leads", server.log)

    (first,) = wait_until(led)
    number = int(first.rpartition("-")[2])
    os.kill(children(server.pid)[number - 1], signal.SIGKILL)
    wait_until(lambda: len(led()) == 2)
    assert led()[1] != first


def _metrics(server: Server) -> dict[str, float]:
    said = server.api("GET", "/metrics")
    assert said.status == 200, said
    lines = [line.rpartition(" ") for line in said.body.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_one_scrape_shows_the_totals_and_no_counter_goes_back(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    talks = on_both(server, talk)
    # What a worker does not tell in time is shown as it was told last.
    becomes(lambda: _metrics(server)["pushserver_connections"], len(talks))
    # Whichever worker answers.
    for _ in range(6):
        said = _metrics(server)
        assert said["pushserver_connections"] == len(talks)
        assert said["pushserver_connections_opened_total"] == said["pushserver_connections_total"] == len(talks)
        assert said["pushserver_ready"] == 1
        assert sum(name.startswith("pushserver_info{") for name in said) == 2
    total = server.api("GET", "/api/stats").body["total"]
    assert total["connections"]["current"] == len(talks), total
    os.kill(children(server.pid)[0], signal.SIGKILL)
    wait_until(lambda: server.log.count(" is ready") == 3)
    after = _metrics(server)
    growing = [name for name in said if "_total" in name]
    assert [name for name in growing if after.get(name, 0) < said[name]] == []
    becomes(lambda: _metrics(server)["pushserver_connections"], sum(node_of(each)[-2:] == "-2" for each in talks))


def test_one_console_reaches_every_worker_and_survives_its_own(site: Deployment, talk: Talks, tmp_path: Path) -> None:
    key, port = make_key(tmp_path / "key"), free_port()
    config = f'{CONFIG}\n[manhole]\nlisten = "tcp:{port}:interface=127.0.0.1"\nauthorized_keys = "{key}.pub"\n'
    server = begin(site, config=config)
    talks = on_both(server, talk)
    nodes = {node_of(each) for each in talks}
    operator = Operator(server, port, key)
    said = operator.run_command("connections('42')")
    assert said.returncode == 0, said.stderr
    assert all(said.stdout.count(node) == sum(node_of(each) == node for each in talks) for node in nodes), said.stdout
    (leader,) = leaders(server)
    os.kill(children(server.pid)[int(leader.rpartition("-")[2]) - 1], signal.SIGKILL)
    # Whoever knocks while nobody leads waits for the next; it is the same host, with the same key.
    said = operator.run_command("disconnect('42')")
    assert said.returncode == 0, said.stderr
    for each in talks:
        if node_of(each) != leader:
            assert each.closed() == 3503


def test_a_worker_that_cannot_be_made_is_made_once_that_is_possible(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (5, most))
    os.kill(children(server.pid)[0], signal.SIGKILL)
    wait_until(lambda: server.log.count("cannot be started") >= 2)
    assert re.findall(r"cannot be started \(.*Too many open files.*next try in (\S+) s", server.log)[:2] == [
        "0.25",
        "0.5",
    ]
    held = len(os.listdir(f"/proc/{server.pid}/fd"))
    wait_until(lambda: server.log.count("cannot be started") >= 4)
    assert len(os.listdir(f"/proc/{server.pid}/fd")) == held
    # The other one works meanwhile.
    talk(server, "42").barrier()
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
    wait_until(lambda: server.log.count(" is ready") == 3)


def test_sigterm_ends_a_supervisor_that_cannot_make_a_worker(site: Deployment) -> None:
    server = begin(site)
    _, most = resource.prlimit(server.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (5, most))
    for child in children(server.pid):
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: server.log.count("cannot be started") >= 2)
    # What measures the coverage writes a file at the end: descriptors and signal come while the server stands still.
    server.signal(signal.SIGSTOP)
    server.signal(signal.SIGTERM)
    resource.prlimit(server.pid, resource.RLIMIT_NOFILE, (most, most))
    server.signal(signal.SIGCONT)
    assert server.wait() == -signal.SIGTERM


@pytest.mark.full
def test_a_worker_that_hangs_is_killed_and_replaced(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    victim = children(server.pid)[0]
    os.kill(victim, signal.SIGSTOP)
    began = time.monotonic()
    wait_until(lambda: "has been silent for 10 s and is killed [event=worker_hung]" in server.log, 60)
    assert time.monotonic() - began >= 8
    wait_until(lambda: server.log.count(" is ready") == 3)
    assert not alive(victim)
    said = _metrics(server)
    assert (said["pushserver_worker_hangs_total"], said["pushserver_worker_restarts_total"]) == (1, 1)
    talk(server, "42").barrier()


class Silent:
    """A worker that is only looked at."""

    number = 1
    noted_at = silent_looks = 0

    def __init__(self) -> None:
        self.signals: list[str] = []

    def signal(self, name: str) -> None:
        self.signals.append(name)


def test_there_is_one_place_beside_the_workers_and_no_more() -> None:
    clock, config = task.Clock(), Config()
    supervisor = Supervisor(clock, config, None, 2, lambda: config, None, Clock(clock))
    supervisor._children = dict.fromkeys((1, 2, 3), Silent())  # type: ignore[arg-type]
    with pytest.raises(OSError, match="has not ended"):
        supervisor.start_beside()


def test_looks_are_counted_and_not_seconds() -> None:
    """A supervisor that was held up itself has not looked meanwhile, so that it kills nobody for it."""
    clock, now, silent = task.Clock(), [0], Silent()
    config = Config()
    supervisor = Supervisor(clock, config, None, 1, lambda: config, None, Clock(clock))
    descriptor = load_table.make(1)
    table = load_table.LoadTable(descriptor, 1, 0, lambda: now[0])
    os.close(descriptor)
    supervisor._load_table, supervisor._children = table, {1: silent}  # type: ignore[dict-item]
    for looks in (STARTING, SILENCE):
        for _ in range(looks - 1):
            supervisor._look()
        assert silent.signals == []
        now[0] += 3_600_000
        table.note(1, 1)
        supervisor._look()
    for _ in range(SILENCE):
        supervisor._look()
    assert silent.signals == ["KILL"]
    supervisor._look()
    assert silent.signals == ["KILL"]
    table.close()


def test_draining_is_for_all_workers(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    talks = on_both(server, talk)
    assert server.api("POST", "/api/drain", {"over": "soon"}).status == 400
    said = server.api("POST", "/api/drain", {"over": "0s"})
    assert (said.status, said.body) == (200, {"draining": True, "connections": len(talks)})
    assert {each.closed() for each in talks} == {3001}
    for _ in range(8):
        assert server.api("GET", "/readyz").body == {"status": "unavailable", "reason": "draining"}
        with pytest.raises(Exception, match="503"):
            talk.guest(server)
    # Their sockets may be closing still.
    becomes(lambda: server.api("POST", "/api/drain").body, {"draining": True, "connections": 0})
    assert server.api("DELETE", "/api/drain").body == {"draining": False}
    on_both(server, talk)
    for each in [talk(server, "42") for _ in range(4)]:
        each.barrier()


def operate_on_both(server: Server) -> None:
    """Have each of two workers write down that an operator stepped in."""
    key = [("X-API-Key", API_KEY)]
    with ExitStack() as stack:
        nodes: set[str] = set()
        while len(nodes) < 2:
            # As long as they stand, the other worker is more likely to take the next one.
            connection = stack.enter_context(RawSocket(server.port))
            connection.request("GET", "/api/stats", headers=key)
            node = connection.response().json["node"]["node"]
            if node not in nodes:
                nodes.add(node)
                connection.request("POST", "/api/disconnect", b'{"userId":"nobody"}', key)
                assert connection.response().status == 200


def test_a_reload_counts_on_each_worker_or_on_none(site: Deployment, talk: Talks) -> None:
    server = begin(site)
    path = server.place / "pushserver.toml"
    text = path.read_text()
    talks = on_both(server, talk)
    path.write_text(text + '\n[[namespaces]]\nname = "fresh"\n')
    assert server.api("POST", "/api/reload").body == {"changed": ["namespaces"], "restartNeeded": []}
    for each in talks:
        assert each.ask("subscribe", channels=["fresh:1"])["data"]["rejected"] == {}
    for level in ("error", "info"):
        path.write_text(text + f'\n[[namespaces]]\nname = "fresh"\n[log]\nlevel = "{level}"\n')
        assert server.api("POST", "/api/reload").body == {"changed": ["log.level"], "restartNeeded": []}
        operate_on_both(server)
    # A worker's lines come in their order: the first ones were not written.
    wait_until(lambda: server.log.count("/api/disconnect") >= 2)
    assert server.log.count("/api/disconnect") == 2
    # A mistake, and a worker that does not answer: nothing changes.
    path.write_text(text + '\n[[namespaces]]\nname = "fresh"\nhistory_sise = 3\n')
    refused = server.api("POST", "/api/reload")
    assert (refused.status, "history_sise: unknown key" in refused.body["error"]["message"]) == (400, True)
    path.write_text(text)
    victim, _ = children(server.pid)
    os.kill(victim, signal.SIGSTOP)
    server.signal(signal.SIGHUP)
    wait_until(lambda: "nothing has changed: no answer from" in server.log)
    os.kill(victim, signal.SIGCONT)
    for each in talks:
        assert each.ask("subscribe", channels=["fresh:2"])["data"]["rejected"] == {}
    server.signal(signal.SIGHUP)
    wait_until(lambda: server.log.count("the configuration was reloaded") == 3)
    for each in talks:
        assert list(each.ask("subscribe", channels=["fresh:3"])["data"]["rejected"]) == ["fresh:3"]
    # Who starts later starts with it.
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: server.log.count(" is ready") == 3)
    for each in on_both(server, talk):
        assert list(each.ask("subscribe", channels=["fresh:3"])["data"]["rejected"]) == ["fresh:3"]


async def test_a_start_without_a_process_tries_again_and_can_be_stopped(tmp_path: Path) -> None:
    from twisted.internet import reactor

    class Poor:
        """A reactor that has no process left."""

        def __getattr__(self, name: str) -> Any:
            return getattr(reactor, name)

        def spawnProcess(self, *arguments: Any, **named: Any) -> None:
            raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    config = load(
        None, {}, {"server.state_dir": str(tmp_path), "server.listen": ["tcp:0:interface=127.0.0.1"]}, dev=True
    )
    poor: Any = Poor()

    async def started_and_stopped() -> None:
        supervisor = Supervisor(poor, config, None, 2, lambda: config, None, Clock(poor))
        supervisor.startService()
        assert supervisor._starting is not None
        await supervisor._starting
        assert sorted(supervisor._restarts) == [1, 2]
        await supervisor.stopService()
        assert supervisor._restarts == {}

    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    # The reactor itself opens something for its first listening port.
    await started_and_stopped()
    before = opened()
    await started_and_stopped()
    deadline = poor.seconds() + 30
    # What was opened closes in the reactor's next turns.
    while opened() > before:
        assert poor.seconds() < deadline
        await deferLater(poor, 0.01)
