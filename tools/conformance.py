"""The WebSocket door before the Autobahn testsuite, which sends what RFC 6455 and RFC 7692 allow, and what they do not.

    python -m tools.conformance WSTEST [--cases 1.* 7.*]

``WSTEST`` is the testsuite's command (its package on PyPI, `autobahntestsuite`, wants Python 2.7). The door is the
server's own, fast ways and all; behind it, instead of the rooms, what a client says is said back, since that is what
the testsuite looks for. Prints what did not pass, and exits with 1 where there is anything.

NON-STRICT passes: text that is not UTF-8 ends the connection when its message is whole, and not in the middle of it.
Ten cases are left out, 9.3.1 to 9.3.5 and 9.4.1 to 9.4.5: they send 4 MiB in more fragments than a message may have
here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as running
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread

from pushserver.config.sections import AuthSection, DeliverySection, RateLimitsSection, ServerSection
from pushserver.protocols import rfc6455
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection
from pushserver.server.stats import Counters
from pushserver.server.user_turns import UserTurns
from pushserver.web.context import Context, NodeRooms, Sections
from pushserver.web.port import PortFactory
from pushserver.web.websocket import WebSocketDoor, WebSocketDoorFactory

#: The largest message of the testsuite is 16 MiB.
LIMIT = 1 << 25
#: Seconds that a closing handshake may take.
CLOSING = 3.0

PASSED = {"OK", "INFORMATIONAL", "NON-STRICT"}

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
    names = ("arrive", "leave", "forget", "closing", "left_out", "route_changed")
    room: Any = SimpleNamespace(**dict.fromkeys(names, nothing), turns=UserTurns(clock))
    # Whoever does not end the closing handshake is cut off.
    heartbeat: Any = SimpleNamespace(
        arrive=nothing, forget=nothing, closing=lambda connection: reactor.callLater(CLOSING, connection.line.abort)
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


def judge(place: Path) -> int:
    """Prints what did not pass; answers how much that is."""
    (results,) = json.loads((place / "index.json").read_text()).values()
    verdicts: dict[str, int] = {}
    bad = 0
    for case, result in sorted(results.items(), key=lambda item: [int(part) for part in item[0].split(".")]):
        if not {result["behavior"], result["behaviorClose"]} <= PASSED:
            print(f"{case}: {result['behavior']}, close {result['behaviorClose']}")
            bad += 1
        verdicts[result["behavior"]] = verdicts.get(result["behavior"], 0) + 1
    print(f"{len(results)} cases: " + ", ".join(f"{count} {verdict}" for verdict, count in sorted(verdicts.items())))
    return bad


def main() -> int:
    options = argparse.ArgumentParser(prog="conformance", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("wstest")
    options.add_argument("--cases", nargs="+", default=["*"])
    given = options.parse_args()
    bad = [1]

    def listening(port: Any) -> None:
        place = Path(tempfile.mkdtemp(prefix="conformance-"))
        specification = {
            "outdir": str(place / "reports"),
            "servers": [{"agent": "pushserver", "url": f"ws://127.0.0.1:{port.getHost().port}/"}],
            "cases": given.cases,
            "exclude-cases": [f"9.{kind}.{size}" for kind in (3, 4) for size in range(1, 6)],
            "exclude-agent-cases": {},
        }
        (place / "fuzz.json").write_text(json.dumps(specification))
        command = [given.wstest, "-m", "fuzzingclient", "-s", str(place / "fuzz.json")]

        def run() -> None:
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, check=True, cwd=place)
            bad[0] = judge(place / "reports")

        def done(result: Any) -> None:
            if result is not None:
                result.printTraceback(sys.stderr)
            reactor.stop()

        deferToThread(run).addBoth(done)

    serverFromString(reactor, "tcp:0:interface=127.0.0.1").listen(factory()).addCallback(listening)
    reactor.run()
    return 1 if bad[0] else 0


if __name__ == "__main__":
    sys.exit(main())
