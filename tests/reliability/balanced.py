"""Many clients and a stream behind the samples of etc/ for balancers, which say nothing for minutes.

    python -m tests.reliability.balanced [--seed 1] [--clients 600] [--idle 180] [--only nginx] [--write]

Afterwards all are still there, at the addresses that they came from, and have what is published then; bodies up to the
limit pass, and what the sample limits is refused. The seed chooses the sizes of bodies and the order of rooms. Exit
status 1 where something of this does not hold. --write puts the figures into docs/reliability.md.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any, Final

from tests.cluster.conftest import SECRET, Deployment
from tests.etc.balancers import NODES, Haproxy, Nginx, TwoNodes
from tests.harness import ROOT, wait_until
from tests.loopback import source
from tests.reliability.crowd import NAMESPACE, Crowd
from tests.tables import write_column

PAGE: Final = ROOT / "docs" / "reliability.md"
TITLE: Final = "Behind a balancer"
PATIENCE: Final = 120.0
#: How many clients share a room.
SHARED: Final = 10
#: Connections that nginx' sample gives one address, and bytes of a body that it lets pass.
PER_ADDRESS: Final = 200
BODY: Final = 1 << 20


class Stream:
    """A stream of events through the balancer, and when each message of a room came, s."""

    def __init__(self, pair: TwoNodes, token: str, room: str) -> None:
        self._connection = pair.open("GET", f"/sse?channels={room}", Authorization=f"Bearer {token}")
        answer = self._connection.getresponse()
        assert answer.status == 200, answer.read()
        self._lines: Iterator[bytes] = iter(answer)
        self.received: list[float] = []
        self.ended = False
        assert b"subscription_success" in next(line for line in self._lines if line.startswith(b"data: "))
        sock = self._connection.sock or answer.fp.raw._sock
        sock.settimeout(None)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        # However it ends, that is what counts.
        with suppress(OSError, http.client.HTTPException, ValueError):
            for line in self._lines:
                if line.startswith(b"data: ") and b'"offset"' in line:
                    self.received.append(time.monotonic())
        self.ended = True


def addresses(pair: TwoNodes) -> dict[str, str]:
    """Return by user of the crowd, the address that the nodes know."""
    connections: list[dict[str, Any]] = pair.api("GET", "/api/connections")["connections"]
    return {each["userId"]: each["address"] for each in connections if each["userId"].startswith("u")}


def half_a_head(pair: TwoNodes, stack: ExitStack) -> float:
    """Return after how many seconds a connection is ended that never says its whole head. Raises TimeoutError where it
    is not."""
    socket = pair.socket(stack, "127.0.3.2")
    began = time.monotonic()
    socket.send(b"GET /healthz HTTP/1.1\r\nHost:")
    while not socket.ended():
        # What it says before it ends it.
        pass
    return time.monotonic() - began


def crowded_address(pair: TwoNodes, stack: ExitStack) -> int:
    """Return how many WebSockets one address may have open; its next one is refused with 429."""
    for number in range(PER_ADDRESS + 1):
        # Signed in, they stay.
        token = pair.nodes[NODES[0]].token(f"crowded-{number}")
        status = pair.socket(stack, "127.0.3.1").upgrade({"Authorization": f"Bearer {token}"}).status
        if status == 429:
            assert number == PER_ADDRESS, number
            return number
        assert status == 101, status
    raise AssertionError(f"one address has more than {PER_ADDRESS} connections")


def play(kind: type[TwoNodes], place: Path, clients: int, idle: float, chance: random.Random) -> dict[str, str]:
    """Play it once; return the figures. Raises AssertionError where something does not hold."""
    site = Deployment(place)
    with ExitStack() as stack:
        stack.callback(site.end)
        pair = kind(site, place, NAMESPACE)
        stack.callback(pair.end)
        rooms = max(1, clients // SHARED)
        crowd = stack.enter_context(Crowd(lambda: pair.ws_url, SECRET, clients, rooms, pair.tls))
        wait_until(lambda: crowd.all_here, PATIENCE, "the clients are connected")
        stream = Stream(pair, pair.nodes[NODES[0]].token("reader"), "room:0")
        time.sleep(idle)
        assert not stream.ended, "the stream has ended"
        assert (crowd.all_here, crowd.failed, crowd.moves.total()) == (True, [], 0), crowd.failed[:5]
        here = addresses(pair)
        assert here == {f"u{n}": source(n) for n in range(clients)}
        sent = time.monotonic()
        for room in [0, *chance.sample(range(1, rooms), rooms - 1)]:
            pair.api("POST", "/api/publish", {"channel": f"room:{room}", "data": "after the silence"})
        # Nothing follows: it would not come where a buffer has to be full.
        wait_until(lambda: stream.received, PATIENCE, "the stream has it")
        delay = stream.received[0] - sent
        wait_until(lambda: crowd.received == clients, PATIENCE, "all clients have it")
        figures = {
            "clients, from addresses": f"{clients}, {len(set(here.values()))}",
            "silence": f"{idle:.0f} s",
            "connections gone": "0",
            "a message to the stream": f"{1000 * delay:.0f} ms",
            "half a head is ended after": f"{half_a_head(pair, stack):.0f} s",
            **bodies(pair, chance),
        }
        if kind is Nginx:
            figures["connections of one address"] = f"{crowded_address(pair, stack)}"
        assert crowd.failed == crowd.missing == []
        return figures


def bodies(pair: TwoNodes, chance: random.Random) -> dict[str, str]:
    """Return what became of bodies below and above the limit. Whose stream they are for is decided by the server."""

    def posted(size: int) -> int:
        with closing(pair.open("POST", "/sse/nobody", "x" * size)) as connection:
            return connection.getresponse().status

    # The quotes of JSON come beside.
    below, above = BODY - chance.randint(2, 10_000), BODY + chance.randint(1, 10_000)
    status = posted(below)
    assert status in (401, 404), f"{below} bytes: {status}"
    if isinstance(pair, Nginx):
        status = posted(above)
        assert status == 413, f"{above} bytes: {status}"
    return {"a body of a megabyte": "passes"}


PARTS: Final[dict[str, type[TwoNodes]]] = {"nginx": Nginx, "haproxy": Haproxy}


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.balanced")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--clients", type=int, default=600)
    parser.add_argument("--idle", type=float, default=180, help="seconds of silence")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--write", action="store_true", help="the figures into docs/reliability.md")
    options = parser.parse_args(words)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    sys.stdout.write(f"seed {options.seed}\n")
    status = 0
    for name in options.only or PARTS:
        place = Path(tempfile.mkdtemp(prefix="push-balanced-"))
        try:
            cells = play(PARTS[name], place, options.clients, options.idle, random.Random(options.seed))
        except (AssertionError, TimeoutError) as problem:
            sys.stdout.write(f"-- {name}\n{problem}\nthe logs are in {place}\n")
            status = 1
            continue
        cells["on"] = datetime.date.today().isoformat()
        sys.stdout.write(f"-- {name}\n" + "".join(f"{what:32} {cell}\n" for what, cell in cells.items()))
        sys.stdout.flush()
        if options.write:
            write_column(PAGE, TITLE, name, cells)
        shutil.rmtree(place)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
