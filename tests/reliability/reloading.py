"""Every kind of setting changed by a reload, while clients, publishers and a stream hold.

    python -m tests.reliability.reloading [--seed 1] [--clients 200] [--only PART ...] [--write]

    workers    two workers on Redis
    embedded   one process

Each change is written into the file, the server is told by its API, by SIGHUP or by `pushctl reload`, as the seed
chooses, and every worker is asked until the change counts there. Exit status 1 where that took longer than a second, or
where a client, a call or a stream noticed anything. --write puts the figures into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import itertools
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt

from tests.app.test_reload import toml
from tests.certificates import certificates
from tests.cluster.conftest import API_KEY, SECRET, Deployment
from tests.harness import ROOT, Server, free_port, wait_until
from tests.rawsocket import RawSocket
from tests.reliability.crowd import NAMESPACE
from tests.reliability.replacing import Outcome, load, publishers
from tests.tables import write_column

PAGE: Final = ROOT / "docs" / "reliability.md"
TITLE: Final = "Reloaded under load"
#: Seconds within which a change counts on every worker.
AT_ONCE: Final = 1.0
#: Connections that are made anew where one cannot choose its worker.
TRIES: Final = 8
#: Seconds after which a change does not come any more.
PATIENCE: Final = 60.0

OTHER_SECRET: Final = "another secret of the test, which is long enough"
OTHER_KEY: Final = "another-key-of-the-test"
ORIGIN: Final = "https://app.example"

Sections = dict[str, dict[str, Any]]


class Visit(RawSocket):
    """A connection that HTTP has used, and the worker that it is on."""

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.request("GET", "/api/stats", headers=[("X-API-Key", API_KEY)])
        self.node: str = self.response().json["node"]["node"]

    def status(self, method: str, path: str, body: Any = None, key: str = API_KEY) -> int:
        """Call the API; return the status."""
        octets = b"" if body is None else json.dumps(body).encode()
        self.request(method, path, octets, [("X-API-Key", key)])
        return self.response().status


class Stage:
    """The server, its file, and what is asked of it."""

    def __init__(self, place: Path, site: Deployment, options: Sequence[str], chance: random.Random) -> None:
        self._chance = chance
        self.files = place / "served"
        self.files.mkdir()
        self.pki = [certificates(place / name) for name in ("first", "second")]
        self.show(0)
        self._second = ssl.PEM_cert_to_DER_cert(self.pki[1]["cert"].read_text())
        # Without the many certificates of the system, which take their time to read.
        self._anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._anybody.check_hostname, self._anybody.verify_mode = False, ssl.CERT_NONE
        self.tls_port = free_port()
        secure = f"ssl:{self.tls_port}:interface=127.0.0.1:privateKey={self.files}/key:certKey={self.files}/cert"
        port = free_port()
        self._sections: Sections = {
            "server": {"listen": [f"tcp:{port}:interface=127.0.0.1", secure]},
            "auth": {"secret": SECRET},
            "api": {"keys": [API_KEY]},
            "log": {"format": "json", "level": "warn"},
            "roles": {"editor": []},
        }
        self._namespaces = ""
        self.server = site.server(
            *options, "--listen", f"tcp:{port}:interface=127.0.0.1", "--listen", secure, config=self.text(), port=port,
            env={"PUSHSERVER_AUTH__SECRET": "", "PUSHSERVER_API__KEYS": ""},
        )  # fmt: skip
        self._numbers = itertools.count(1)

    # -- the file -----------------------------------------------------------------------------------------------------

    def text(self) -> str:
        lines: list[str] = []
        for name, keys in self._sections.items():
            lines += [f"[{name}]", *(f"{key} = {toml(value)}" for key, value in keys.items())]
        lines += ["[[namespaces]]", 'name = "private"', 'subscribe = "permission"']
        return "\n".join(lines) + "\n" + NAMESPACE + self._namespaces

    def show(self, number: int) -> None:
        """Put one of the certificates where the listener finds it."""
        (self.files / "key").write_bytes(self.pki[number]["key"].read_bytes())
        (self.files / "cert").write_bytes(self.pki[number]["cert"].read_bytes())

    def write(self, sections: Sections) -> None:
        for name, keys in sections.items():
            if name == "namespaces":
                self._namespaces = "".join(f'[[namespaces]]\nname = "{key}"\n' for key in keys)
            elif name == "certificates":
                self.show(1)
            else:
                self._sections[name] = self._sections[name] | keys
        (self.server.place / "pushserver.toml").write_text(self.text())

    # -- reloads ------------------------------------------------------------------------------------------------------

    def reload(self) -> tuple[str, float]:
        """Tell the server, in one of three ways; return which, and since when it knows, s."""
        began = time.monotonic()
        way = self._chance.choice([self._by_api, self._by_signal, self._by_pushctl])()
        # The start of a program is not the server's: it has its answer when it ends.
        return way, time.monotonic() if way == "pushctl" else began

    def _by_api(self) -> str:
        said = self.server.api("POST", "/api/reload", timeout=PATIENCE)
        assert said.status == 200, said.body
        return "API"

    def _by_signal(self) -> str:
        self.server.signal(signal.SIGHUP)
        return "SIGHUP"

    def _by_pushctl(self) -> str:
        pushctl = str(Path(sys.executable).parent / "pushctl")
        command = [pushctl, "--url", self.server.url, "--api-key", API_KEY, "reload"]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=PATIENCE)
        return "pushctl"

    # -- what is asked ------------------------------------------------------------------------------------------------

    def signs_in(self, visit: Visit, secrets: Sequence[str], claims: dict[str, Any] | None = None) -> bool:
        """Open a WebSocket, and sign in with a token of each of these secrets in turn."""
        assert visit.upgrade().status == 101
        now = int(time.time())
        for secret in secrets:
            token = jwt.encode({"sub": "42", "iat": now, "exp": now + 600, **(claims or {})}, secret, "HS256")
            reply = visit.ask({"type": "auth", "id": next(self._numbers), "data": {"token": token}})
            if reply["type"] != "auth_success":
                return False
        return True

    def publishes(self, visit: Visit, channel: str, size: int = 1) -> int:
        return visit.status("POST", "/api/publish", {"channel": channel, "data": "x" * size})

    def reads_private(self, visit: Visit) -> bool:
        """An editor follows a room that needs a permission."""
        assert self.signs_in(visit, [OTHER_SECRET], {"roles": ["editor"]})
        said = visit.ask({"type": "subscribe", "id": next(self._numbers), "data": {"channels": ["private:a"]}})
        return not said["data"]["rejected"]

    def shows_the_second_certificate(self, _: Visit) -> bool:
        with socket.create_connection(("127.0.0.1", self.tls_port), PATIENCE) as plain:
            with self._anybody.wrap_socket(plain) as secure:
                return secure.getpeercert(True) == self._second

    def writes_what_operators_do(self, visit: Visit) -> bool:
        """The worker's line about a call stands in the log."""
        number = next(self._numbers)
        assert visit.status("POST", "/api/disconnect", {"userId": "nobody", "reason": f"try {number}"}) == 200
        worker = visit.node.rpartition("-")[2]
        deadline = time.monotonic() + AT_ONCE
        while time.monotonic() < deadline:
            lines = [json.loads(line) for line in self.server.log.splitlines() if "/api/disconnect" in line]
            if any(str(line.get("worker", worker)) == worker for line in lines):
                return True
            time.sleep(0.02)
        return False


class Change(NamedTuple):
    """What is written into the file, and what one connection to a worker finds once it counts there."""

    name: str
    sections: Sections
    counts: Callable[[Stage, Visit], bool]


CHANGES: Final = (
    Change(
        "another secret, the old one beside it",
        {"auth": {"secret": OTHER_SECRET, "secrets": [SECRET]}},
        lambda stage, visit: stage.signs_in(visit, [OTHER_SECRET, SECRET]),
    ),
    Change(
        "the old secret goes",
        {"auth": {"secrets": []}},
        lambda stage, visit: not stage.signs_in(visit, [SECRET]),
    ),
    Change(
        "another API key beside the first",
        {"api": {"keys": [API_KEY, OTHER_KEY]}},
        lambda stage, visit: visit.status("GET", "/api/nodes", key=OTHER_KEY) == 200,
    ),
    Change(
        "that key goes",
        {"api": {"keys": [API_KEY]}},
        lambda stage, visit: visit.status("GET", "/api/nodes", key=OTHER_KEY) == 401,
    ),
    Change("another certificate", {"certificates": {}}, Stage.shows_the_second_certificate),
    Change(
        "another origin",
        {"server": {"allowed_origins": [ORIGIN]}},
        lambda stage, visit: visit.upgrade({"Origin": ORIGIN}).status == 101,
    ),
    Change(
        "another namespace",
        {"namespaces": {"extra": {}}},
        lambda stage, visit: stage.publishes(visit, "extra:a") == 200,
    ),
    Change("it goes", {"namespaces": {}}, lambda stage, visit: stage.publishes(visit, "extra:a") == 404),
    Change("a role may do more", {"roles": {"editor": ["subscribe:private:*"]}}, Stage.reads_private),
    Change(
        "a limit",
        {"server": {"max_body_size": 2_000}},
        lambda stage, visit: stage.publishes(visit, "room:0", 3_000) == 413,
    ),
    Change("the level of the log", {"log": {"level": "info"}}, Stage.writes_what_operators_do),
)


class Visits:
    """Connections to each worker, made before they are needed."""

    def __init__(self, server: Server, nodes: Sequence[str]) -> None:
        self._server = server
        self._waiting: dict[str, list[Visit]] = {node: [] for node in nodes}

    def to(self, node: str) -> Visit:
        """Return one that nothing was asked on."""
        while not self._waiting[node]:
            visit = Visit(self._server.port)
            self._waiting[visit.node].append(visit)
        return self._waiting[node].pop()

    def prepare(self, count: int) -> None:
        """Have so many of each worker."""
        for node in self._waiting:
            taken = [self.to(node) for _ in range(count)]
            self._waiting[node] += taken

    def close(self) -> None:
        for visits in self._waiting.values():
            for visit in visits:
                visit.close()


class Stream:
    """A stream of events that follows a room, and what came out of turn there."""

    def __init__(self, server: Server, room: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        self._connection.request("GET", f"/sse?channels={room}", headers={"X-API-Key": API_KEY})
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        self._room = room
        self._ending = False
        self.received = 0
        self.problems: list[str] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        offset = 0
        try:
            for line in self._answer:
                if self._ending:
                    return
                message = json.loads(line.removeprefix(b"data: ")) if line.startswith(b"data: ") else {}
                if message.get("channel") == self._room and "offset" in message:
                    if offset and message["offset"] != offset + 1:
                        self.problems.append(f"{message['offset']} after {offset}")
                    offset = message["offset"]
                    self.received += 1
            self.problems.append("the stream has ended")
        except (OSError, http.client.HTTPException) as problem:
            self.problems.append(repr(problem))

    def end(self) -> None:
        """The next message, or the end of the server's patience, ends it."""
        self._ending = True
        self._thread.join(PATIENCE)
        self._connection.close()


def play(
    place: Path, clients: int, options: Sequence[str], chance: random.Random
) -> tuple[Outcome, dict[str, str], list[str]]:
    """Make every change once; return what the clients saw, in how long each counted, and which came too late."""
    outcome = Outcome(clients, moves_due=range(1))
    site = Deployment(place)
    took: dict[str, str] = {}
    late: list[str] = []
    try:
        if options:
            options = ("--redis", site.redis().url, *options)
        stage = Stage(place, site, options, chance)
        server = stage.server
        workers = 2 if options else 1
        wait_until(lambda: len(server.api("GET", "/api/nodes").body["nodes"]) == workers)
        nodes = [node["node"] for node in server.api("GET", "/api/nodes").body["nodes"]]
        with ExitStack() as stack:
            visits = Visits(server, nodes)
            stack.callback(visits.close)
            with load(outcome, lambda: server.ws_url, publishers(server.url, clients)):
                stream = Stream(server, "room:0")
                for change in CHANGES:
                    visits.prepare(5)
                    stage.write(change.sections)
                    way, began = stage.reload()
                    for node in nodes:
                        wait_until(partial(_counts, change, stage, visits, node), PATIENCE, change.name)
                    seconds = time.monotonic() - began
                    took[change.name] = f"{seconds:.2f} s ({way})"
                    if change.counts is Stage.shows_the_second_certificate:
                        # Nobody chooses the worker that a new connection comes to: several are made.
                        with visits.to(nodes[0]) as visit:
                            assert all(change.counts(stage, visit) for _ in range(TRIES)), change.name
                    if seconds > AT_ONCE:
                        late.append(f"{change.name}: {seconds:.2f} s")
                received = stream.received
                wait_until(lambda: stream.received > received, PATIENCE, "the stream goes on")
                stream.end()
                outcome.missing += stream.problems
    finally:
        site.end()
    return outcome, took, late


def _counts(change: Change, stage: Stage, visits: Visits, node: str) -> bool:
    with visits.to(node) as visit:
        return change.counts(stage, visit)


PARTS: Final = {"workers": ("--workers", "2"), "embedded": ()}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.reloading")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--write", action="store_true", help="the figures into docs/reliability.md")
    options = parser.parse_args(words)
    sys.stdout.write(f"seed {options.seed}\n")
    status = 0
    for name in options.only or PARTS:
        place = Path(tempfile.mkdtemp(prefix="push-reloading-"))
        try:
            outcome, took, late = play(place, options.clients, PARTS[name], random.Random(options.seed))
        except AssertionError as problem:
            sys.stdout.write(f"-- {name}\n{problem}\nthe logs are in {place}\n")
            status = 1
            continue
        cells = took | outcome.cells() | {"on": datetime.date.today().isoformat()}
        sys.stdout.write(f"-- {name}\n" + "".join(f"{what:40} {cell}\n" for what, cell in cells.items()))
        problems = [*outcome.broken(), *late]
        sys.stdout.write("".join(f"{problem}\n" for problem in problems[:20]))
        sys.stdout.flush()
        if options.write:
            write_column(PAGE, TITLE, name, cells)
        if problems:
            status = 1
            sys.stdout.write(f"the logs are in {place}\n")
        else:
            shutil.rmtree(place)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
