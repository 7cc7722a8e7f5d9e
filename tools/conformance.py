"""The WebSocket door before the Autobahn testsuite, which sends what RFC 6455 and RFC 7692 allow, and what they do not.

    python -m tools.conformance [--cases 1.* 7.*]

The testsuite is installed into build/wstest; it wants Python 2.7, and where there is none the exit status is 77. The
door is the server's own, fast ways and all; behind it, instead of the rooms, what a client says is said back, since
that is what the testsuite looks for. Prints what did not pass, and exits with 1 where there is anything.

NON-STRICT passes: text that is not UTF-8 ends the connection when its message is whole, and not in the middle of it.
What `LEFT_OUT` names is not tried: it sends messages in more fragments than are taken here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import ChainMap, Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as running
from twisted.internet.defer import gatherResults
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread

from pushserver.config.sections import AuthSection, DeliverySection, RateLimitsSection, ServerSection
from pushserver.protocols import rfc6455
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection
from pushserver.server.reply_room import LongReplies
from pushserver.server.stats import Counters
from pushserver.server.user_turns import UserTurns
from pushserver.web.context import Context, NodeRooms, Sections
from pushserver.web.port import PortFactory
from pushserver.web.websocket import WebSocketDoor, WebSocketDoorFactory

ROOT = Path(__file__).resolve().parent.parent
WSTEST = ROOT / "build" / "wstest"

#: The largest message of the testsuite is 16 MiB.
LIMIT = 1 << 25
#: Seconds that a closing handshake may take.
CLOSING = 3.0

PASSED = {"OK", "INFORMATIONAL", "NON-STRICT"}

#: Cases with a message in more than `MAX_FRAGMENTS`: 4 MiB in pieces, or at least 64 KiB, which compression hardly
#: makes less, in pieces of 256 octets.
LEFT_OUT = (
    *(f"9.{kind}.{size}" for kind in (3, 4) for size in range(1, 6)),
    *("12.2.14", "12.2.15", "12.3.15", "12.5.14", "12.5.15"),
)

#: What is tried at once, each by a process of the testsuite's; the halves take about as long as each other.
PARTS = (
    [*(f"{group}.*" for group in (1, 2, 3, 4, 5, 6, 7, 9, 10, 12)), "13.1.*", "13.2.*"],
    [f"13.{group}.*" for group in (3, 4, 5, 6, 7)],
)

reactor: Any = running


class Echo:
    """What a connection's messages go to: it says each back."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def receive(self, octets: bytes) -> None:
        self._connection.send(octets)

    def answered(self) -> None: ...

    def end(self) -> None: ...


class EchoDoor(WebSocketDoor):
    """The server's own, whose messages are said back, binary ones too, which the server itself refuses."""

    def connectionMade(self) -> None:
        super().connectionMade()
        assert self.connection is not None
        inbound: Any = Echo(self.connection)
        self._inbound = inbound

    def on_message(self, payload: bytes, binary: bool) -> None:
        if binary and self.connection is not None:
            self.connection.outbox.write(rfc6455.frame(0x2, payload))
        else:
            super().on_message(payload, binary)


def factory() -> PortFactory:
    """Return a port that echoes."""

    def nothing(*_: Any) -> None: ...

    clock = Clock(reactor, lambda: int(time.time() * 1000))
    names = ("begin", "leave", "forget", "closing", "left_out", "route_changed")
    room: Any = SimpleNamespace(**dict.fromkeys(names, nothing), turns=UserTurns(clock), long_replies=LongReplies())
    # Whoever does not end the closing handshake is cut off.
    heartbeat: Any = SimpleNamespace(
        begin=nothing, forget=nothing, closing=lambda connection: reactor.callLater(CLOSING, connection.line.abort)
    )
    admission: Any = SimpleNamespace(
        admit=nothing, address=lambda peer, headers: peer, is_proxy=lambda peer: False, is_local=lambda *_: True
    )
    context = Context(
        reactor=reactor,
        clock=clock,
        rooms=NodeRooms(
            node="here", nodes=room, hub=room, requests=room, cluster=room, heartbeat=heartbeat, authenticator=room
        ),
        counters=Counters(0),
        admission=admission,
        sections=Sections(
            server=ServerSection(websocket_path="/", max_message_size=LIMIT),
            auth=AuthSection(anonymous=True),
            delivery=DeliverySection(compression=True, compression_min_size=0, max_queue_size=LIMIT),
            rate_limits=RateLimitsSection(messages_per_second=0),
        ),
    )
    doors = WebSocketDoorFactory(context)
    doors._door = type("EchoDoor", (EchoDoor, doors._door), {})
    return PortFactory(context, lambda address: Protocol(), doors.door, doors.endpoints)


def run(cases: Sequence[str], port: int) -> dict[str, Any]:
    """Let the testsuite try these cases at this port; return the result of each."""
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        place = Path(folder)
        specification = {
            "outdir": str(place / "reports"),
            "servers": [{"agent": "pushserver", "url": f"ws://127.0.0.1:{port}/"}],
            "cases": cases,
            "exclude-cases": list(LEFT_OUT),
            "exclude-agent-cases": {},
        }
        (place / "fuzz.json").write_text(json.dumps(specification))
        command = [WSTEST / "bin" / "wstest", "-m", "fuzzingclient", "-s", place / "fuzz.json"]
        environment = {**os.environ, "PYTHONUSERBASE": str(WSTEST)}
        subprocess.run(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=True, cwd=place, env=environment
        )
        (results,) = json.loads((place / "reports" / "index.json").read_text()).values()
        return dict(results)


def judge(results: Mapping[str, Any]) -> int:
    """Print what did not pass; return how much that is, and 1 where nothing was tried."""
    verdicts: Counter[str] = Counter()
    bad = 0
    for case, result in sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        if not {result["behavior"], result["behaviorClose"]} <= PASSED:
            print(f"{case}: {result['behavior']}, close {result['behaviorClose']}")
            bad += 1
        verdicts[result["behavior"]] += 1
    print(f"{len(results)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    return bad if results else 1


def main() -> int:
    options = argparse.ArgumentParser(prog="conformance", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--cases", nargs="+", help="default: all of them, in two processes at once")
    given = options.parse_args()
    installed = subprocess.run([ROOT / "tools" / "wstest.sh"], check=False).returncode
    if installed != 0:
        return installed
    parts = [given.cases] if given.cases else PARTS
    bad = [1]

    def judged(results: list[dict[str, Any]]) -> None:
        bad[0] = judge(dict(ChainMap(*results)))

    def listening(port: Any) -> Any:
        runs = [deferToThread(run, cases, port.getHost().port) for cases in parts]
        return gatherResults(runs, consumeErrors=True).addCallback(judged)

    def over(failure: Any) -> None:
        if failure is not None:
            failure.printTraceback(sys.stderr)
        reactor.stop()

    serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory()).addCallback(listening).addBoth(over)
    reactor.run()
    return 1 if bad[0] else 0


if __name__ == "__main__":
    sys.exit(main())
