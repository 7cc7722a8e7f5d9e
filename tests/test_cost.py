"""What a delivery costs, in numbers that no noise moves: a real server's system calls, the inner loop's bytecode."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import CodeType, FrameType, SimpleNamespace
from typing import Any

import pushserver
from pushserver.core.publication import Publication, body
from pushserver.protocols.native.framing import Plain
from pushserver.server.channel import Channel
from pushserver.server.connection import Connection, Peer
from pushserver.server.fanout import FanOut
from pushserver.server.outbox import Policy
from pushserver.server.stats import Counters
from tests.harness import Server, wait_until
from tests.rawsocket import RawSocket
from tests.server.test_outbox import Wire

FOLLOWERS = 50


# -- system calls -----------------------------------------------------------------------------------------------------


@contextmanager
def traced(server: Server, file: Path) -> Iterator[None]:
    """Writes the server's system calls into the file."""
    calls = "trace=sendto,sendmsg,write,writev,epoll_ctl,recvfrom"
    tracer = subprocess.Popen(
        ["strace", "-f", "-qq", "-e", calls, "-s", "2000", "-o", str(file), "-p", str(server.pid)],
        stderr=subprocess.PIPE,
    )
    try:
        # It has attached when it sees something.
        wait_until(lambda: server.api("GET", "/healthz", key="").status == 200 and file.exists() and file.read_text())
        yield
    finally:
        tracer.terminate()
        tracer.wait()
        assert tracer.stderr is not None
        tracer.stderr.close()


def test_a_delivery_is_one_send_and_no_epoll_ctl(start_server: Callable[..., Server], tmp_path: Path) -> None:
    server = start_server()
    trace = tmp_path / "trace"
    with ExitStack() as stack:
        clients = []
        for n in range(FOLLOWERS):
            client = stack.enter_context(RawSocket(server.port))
            assert client.upgrade().status == 101
            client.ask({"type": "auth", "id": 1, "data": {"token": server.token(f"u{n}")}})
            client.ask({"type": "subscribe", "id": 2, "data": {"channels": ["public:a"]}})
            clients.append(client)

        def publish(mark: str, times: int) -> None:
            one = {"method": "publish", "params": {"channel": "public:a", "data": mark}}
            assert server.api("POST", "/api/batch", {"commands": [one] * times}).status == 200
            for client in clients:
                for _ in range(times):
                    while client.message().get("data") != mark:
                        pass

        publish("warm", 1)
        with traced(server, trace):
            publish("single-mark", 1)
            publish("burst-mark", 10)
    # Bytes of frames show as octal escapes, so what is looked for is the data.
    lines = trace.read_text().splitlines()
    assert counted(lines, "single-mark") == {"sendto": FOLLOWERS}
    assert counted(lines, "burst-mark") == {"sendto": FOLLOWERS}
    # Each HTTP request is a connection of its own: it comes, is answered and goes. None is for a follower.
    requests = sum("recvfrom" in line and "POST /api/batch" in line for line in lines)
    assert requests == 2
    first = next(n for n, line in enumerate(lines) if "single-mark" in line and "sendto" in line)
    last = max(n for n, line in enumerate(lines) if "burst-mark" in line and "sendto" in line)
    assert sum("epoll_ctl" in line for line in lines[first:last]) < 20


def counted(lines: list[str], mark: str) -> dict[str, int]:
    """How often which call carried a frame with this mark."""
    found = (re.match(r"\d+ +(\w+)\(", line) for line in lines if f'"data":"{mark}"'.replace('"', r"\"") in line)
    calls = Counter(match[1] for match in found if match)
    calls.pop("recvfrom", None)
    return dict(calls)


# -- bytecode ---------------------------------------------------------------------------------------------------------


OURS = str(Path(pushserver.__file__).parent)


def opcodes(work: Callable[[], object]) -> int:
    """How many bytecode instructions run in this project's code."""
    if sys.version_info >= (3, 12):
        return monitored(work)
    count = 0

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal count
        if not frame.f_code.co_filename.startswith(OURS):
            return None
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        if event == "opcode":
            count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


def monitored(work: Callable[[], object]) -> int:
    """The same where tracing misses instructions, and the interpreter counts by itself (PEP 669)."""
    monitoring: Any = sys.monitoring  # type: ignore[attr-defined]
    tool, count = 4, 0

    def instruction(code: CodeType, offset: int) -> Any:
        nonlocal count
        if not code.co_filename.startswith(OURS):
            return monitoring.DISABLE
        count += 1
        return None

    monitoring.use_tool_id(tool, "instructions")
    try:
        monitoring.register_callback(tool, monitoring.events.INSTRUCTION, instruction)
        monitoring.set_events(tool, monitoring.events.INSTRUCTION)
        work()
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
        monitoring.restart_events()
    return count


def fan_out(followers: int, publications: int, joined: int = 0) -> tuple[int, list[Wire]]:
    """The instructions of one fan-out, where ``joined`` of the followers came since the one before; and the wires."""
    node: Any = SimpleNamespace(now=lambda: 0)
    fan = FanOut(node, Counters(0))
    channel = Channel("public:a")
    dialect = Plain()
    wires = []
    for n in range(followers):
        if n == followers - joined:
            channel.lanes  # noqa: B018
        wire = Wire([], 1 << 20, Policy.DISCONNECT)
        connection = Connection(
            f"c{n}",
            dialect,
            node,
            wire.outbox,
            None,
            Peer("", "", "", 0),
            Counters(0),
        )
        channel.admit(connection)
        wires.append(wire)
    if not joined:
        channel.lanes  # noqa: B018
    for n in range(publications):
        channel.gather(
            Publication(type="message", channel="public:a", data=body({"n": n}), timestamp=0, message_id=f"m{n}")
        )
    return opcodes(lambda: list(fan._steps(channel))), wires


def test_bytecode_of_a_delivery() -> None:
    few, _ = fan_out(1_000, 1)
    many, wires = fan_out(2_000, 1)
    assert few > 100
    assert all(wire.kernel.calls == 1 for wire in wires)
    # Nothing for a follower, some 100 for a stride of them (Python 3.11; those of other versions differ by less than
    # the rest).
    assert (many - few) / 1_000 < 1


def test_bytecode_of_a_delivery_where_somebody_came() -> None:
    few, _ = fan_out(1_000, 1, joined=1)
    many, _ = fan_out(2_000, 1, joined=1)
    # 33 on Python 3.11, to sort a follower into its lane.
    assert (many - few) / 1_000 < 50


def test_a_burst_costs_each_follower_no_more() -> None:
    single = fan_out(2_000, 1)[0] - fan_out(1_000, 1)[0]
    burst = fan_out(2_000, 10)[0] - fan_out(1_000, 10)[0]
    assert burst == single
    assert all(wire.kernel.calls == 1 for wire in fan_out(10, 10)[1])
