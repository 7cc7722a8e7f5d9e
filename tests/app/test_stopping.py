"""SIGTERM at any moment of a server's life: it ends cleanly, in time, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.app.workers.test_supervisor import alive, children
from tests.cluster.conftest import API_KEY, CONFIG, SECRET, Deployment
from tests.harness import Server, start, wait_until
from tests.rawsocket import RawSocket

#: Seconds that an end may take beside the drain, on a machine that does other things as well.
IN_TIME = 20.0
#: How often a start is ended, at moments that chance chooses.
ENDS = 6

KINDS = ["embedded", "workers"]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(tmp_path)
    yield made
    made.end()


def options(kind: str, place: Deployment) -> list[str]:
    return [] if kind == "embedded" else ["--redis", place.redis().url, "--workers", "2"]


def wait_whole(server: Server, kind: str) -> None:
    """Wait until also the last worker takes connections."""
    if kind == "workers":
        wait_until(lambda: server.log.count(" is ready") >= 2)


def processes(server: Server) -> list[int]:
    """The server's own, and its workers."""
    try:
        return [server.pid, *children(server.pid)]
    except OSError:
        return [server.pid]


def ends(server: Server, seconds: float = IN_TIME) -> None:
    """Whatever it was doing, it ends by SIGTERM within so many seconds, with all its processes."""
    all_of_it = processes(server)
    began = time.monotonic()
    server.signal(signal.SIGTERM)
    assert server.wait() == -signal.SIGTERM, server.log
    assert time.monotonic() - began < seconds
    # Who was made while it ended is among its group.
    assert not any(map(alive, all_of_it))
    with pytest.raises(ProcessLookupError):
        os.killpg(server.pid, 0)
    assert "Traceback" not in server.log, server.log


def signed_in(stack: ExitStack, server: Server, count: int) -> list[RawSocket]:
    clients = [stack.enter_context(RawSocket(server.port)) for _ in range(count)]
    for number, client in enumerate(clients):
        client.upgrade()
        client.ask({"type": "auth", "id": 1, "data": {"token": server.token(f"u{number}")}})
    return clients


@pytest.mark.full
@pytest.mark.parametrize("kind", KINDS)
def test_while_it_starts(kind: str, place: Deployment) -> None:
    chosen = options(kind, place)
    began = time.monotonic()
    whole = place.server(*chosen)
    wait_whole(whole, kind)
    takes = time.monotonic() - began
    ends(whole)
    chance = random.Random(1)
    for _ in range(ENDS):
        after = chance.uniform(0.2, 1.0) * takes
        server = start(
            whole.place, *chosen, config=CONFIG, port=whole.port, secret=SECRET, api_key=API_KEY, ready=False
        )
        try:
            # Any moment is one to be asked to end.
            threading.Event().wait(after)
            all_of_it = processes(server)
            server.signal(signal.SIGTERM)
            assert server.wait(IN_TIME) == -signal.SIGTERM, server.log
            assert not any(map(alive, all_of_it))
        finally:
            server.stop()
    again = start(whole.place, *chosen, config=CONFIG, port=whole.port, secret=SECRET, api_key=API_KEY)
    try:
        wait_whole(again, kind)
        ends(again)
    finally:
        again.stop()


@pytest.mark.parametrize("workers", [(), ("--workers", "2")], ids=["one", "workers"])
def test_while_it_waits_for_a_redis_that_does_not_answer(workers: tuple[str, ...], place: Deployment) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        # Longer than the end may take.
        config = '[redis]\nconnect_timeout = "60s"\ncommand_timeout = "60s"\n'
        server = place.server("--redis", url, *workers, config=config, ready=False)
        silent.settimeout(60)
        with closing(silent.accept()[0]):
            ends(server)


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_drains(kind: str, place: Deployment) -> None:
    server = place.server(*options(kind, place))
    wait_whole(server, kind)
    with ExitStack() as stack:
        clients = signed_in(stack, server, 20)
        assert server.api("POST", "/api/drain", {"over": "10m"}).body == {"draining": True, "connections": 20}
        codes: list[int | None] = []
        readers = [threading.Thread(target=lambda c=c: codes.append(c.close_code())) for c in clients]
        for reader in readers:
            reader.start()
        ends(server)
        for reader in readers:
            reader.join(IN_TIME)
    assert codes == [3001] * 20


@pytest.mark.parametrize("kind", KINDS)
def test_while_it_reloads(kind: str, place: Deployment) -> None:
    server = place.server(*options(kind, place))
    wait_whole(server, kind)
    file = server.place / "pushserver.toml"
    with ExitStack() as stack:
        (client,) = signed_in(stack, server, 1)
        for number in range(3):
            file.write_text(CONFIG + f"[inbox]\nmax_messages = {number + 10}\n")
            server.signal(signal.SIGHUP)
        ends(server)
        assert client.close_code() == 3001


def test_while_a_reload_waits_for_a_worker_that_does_nothing(place: Deployment) -> None:
    server = place.server(*options("workers", place))
    wait_whole(server, "workers")
    one, _ = children(server.pid)
    os.kill(one, signal.SIGSTOP)
    server.signal(signal.SIGHUP)
    # What the worker has for its drain, what it is given beyond, and the kill.
    ends(server, 1 + 10 + IN_TIME)
    assert "is killed" in server.log


def memory(pid: int) -> int:
    """Bytes that a process has of its own."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def open_files(pid: int) -> list[str]:
    """What each descriptor of a process is, without the numbers that differ each time."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{name}").partition(":")[0])
        except FileNotFoundError:
            # The one of this very listing.
            continue
    return sorted(found)


@pytest.mark.full
def test_workers_that_come_and_go_leave_nothing_to_those_who_follow(place: Deployment) -> None:
    server = place.server(*options("workers", place))
    wait_whole(server, "workers")

    def held() -> tuple[list[str], list[list[str]]]:
        return open_files(server.pid), [open_files(child) for child in sorted(children(server.pid))]

    def replace() -> None:
        """All workers once by a restart, and one of them by its end."""
        assert server.api("POST", "/api/restart-workers").status == 200
        wait_until(lambda: not server.api("GET", "/api/restart-workers", timeout=60).body["running"], 60)
        assert server.api("GET", "/api/restart-workers").body["problem"] == ""
        ready = server.log.count(" is ready")
        os.kill(children(server.pid)[0], signal.SIGKILL)
        wait_until(lambda: server.log.count(" is ready") == ready + 1, 60)
        wait_until(lambda: len(children(server.pid)) == 2)

    before = held()
    # What Python keeps for the next ones: as much as it took at most, which the first times differ in.
    for _ in range(3):
        replace()
    first = memory(server.pid)
    for _ in range(4):
        replace()
    assert held()[0] == before[0]
    # One more or less is a connection that comes or goes just then; what is inherited grows each time.
    most = max(map(len, before[1]))
    wait_until(lambda: max(map(len, held()[1])) <= most, describe=f"more than {most}")
    assert memory(server.pid) - first < 1 << 20
    ends(server)
