"""The WebSocket door before the Autobahn testsuite, which sends what RFC 6455 and RFC 7692 allow, and what they do not.

    python -m tools.conformance WSTEST [--cases 1.* 7.*]

``WSTEST`` is the testsuite's command (its package on PyPI, `autobahntestsuite`, wants Python 2.7). The door is the
server's own, fast ways and all; behind it, instead of the rooms, what a client says is said back, since that is what
the testsuite looks for. Prints what did not pass, and exits with 1 where there is anything.

NON-STRICT passes: text that is not UTF-8 ends the connection when its message is whole, and not in the middle of it.
Six cases are left out, 9.3.1 to 9.3.3 and 9.4.1 to 9.4.3: they send 4 MiB in more fragments than a message may have
here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from twisted.internet import reactor as running
from twisted.internet.endpoints import serverFromString
from twisted.internet.protocol import Protocol
from twisted.internet.threads import deferToThread

from pushserver.protocols import rfc6455
from pushserver.protocols.native.session import Rates
from pushserver.server.outbox import Policy
from pushserver.server.stats import Counters
from pushserver.web.port import Head, PortFactory
from pushserver.web.websocket import WebSocketDoor, WebSocketDoorFactory

#: The largest message of the testsuite is 16 MiB.
LIMIT = 1 << 25

PASSED = {"OK", "INFORMATIONAL", "NON-STRICT"}

reactor: Any = running


class Echo:
    """A conversation that says everything back."""

    def __init__(self, door: WebSocketDoor) -> None:
        self._door = door

    def receive(self, octets: bytes) -> None:
        assert self._door.connection is not None
        self._door.connection.say(octets)

    def end(self) -> None: ...


class EchoDoor:
    """What is different about the doors here: binary messages are said back too, which the server itself refuses."""

    def connectionMade(self) -> None:
        super().connectionMade()  # type: ignore[misc]
        self._inbound = Echo(self)  # type: ignore[arg-type]

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        door: Any = self
        if isBinary:
            door.connection.outbox.write(rfc6455.frame(0x2, payload))
        else:
            super().onMessage(payload, isBinary)  # type: ignore[misc]


def factory() -> PortFactory:
    """A port that echoes."""
    counters = Counters(0)

    def nothing(*_: Any) -> None: ...

    names = ("arrive", "leave", "forget", "closing", "left_out", "switched")
    rooms: Any = SimpleNamespace(**dict.fromkeys(names, nothing))
    doors = WebSocketDoorFactory(
        reactor,
        rooms,
        rooms,
        rooms,
        counters,
        lambda: int(reactor.seconds() * 1000),
        rates=Rates(0, 0, 0),
        anonymous=True,
        max_message_size=LIMIT,
        max_queue_size=LIMIT,
        policy=Policy.DISCONNECT,
        compression=True,
        compression_min_size=0,
    )
    doors._door = type("EchoDoor", (EchoDoor, doors._door), {})
    admission: Any = SimpleNamespace(admit=nothing, address=lambda peer, headers: peer)

    def door(head: Head, address: str) -> WebSocketDoor:
        return doors.door(head, address)

    return PortFactory(reactor, admission, counters, "/", lambda address: Protocol(), door)


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
            "exclude-cases": [f"9.{kind}.{size}" for kind in (3, 4) for size in (1, 2, 3)],
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
