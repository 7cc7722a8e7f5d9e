"""The benchmarks: each makes its servers, measures them in turns, and answers a table with its targets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from bench import notify, outputs, redis_publish, sdks
from bench.figures import SETTLED, idle_memory, inbound, one_a_turn, running, sign_in, ten_a_turn, warm
from bench.measure import Progress, Table, Target, cpu, in_turns, percentile, resident
from bench.servers import (
    Centrifuge,
    Floor,
    Load,
    Nchan,
    NodeServer,
    NotAvailable,
    PushServer,
    PythonFloor,
    SecureNodeServer,
    SecurePushServer,
    Server,
    command,
    install,
    masked,
    redis_server,
    stamp,
)

#: Connections of the fan-outs, and publications of one round.
CONNECTIONS = 1_000
PUBLICATIONS = 400

#: Who stands beside whom in the fan-outs.
FAN_OUT = (PushServer, Floor, PythonFloor, NodeServer, Centrifuge, Nchan)

Run = tuple[str, Callable[[], float]]


def _beside(
    stack: ExitStack, table: Table, progress: Progress, kinds: tuple[type[Server], ...], **options: Any
) -> list[tuple[str, Server, Load]]:
    """Starts several servers with their clients; who cannot be had is noted in the table."""
    there = []
    for kind in kinds:
        progress.show(f"{table.name}: starting {kind.name}")
        try:
            server, load = stack.enter_context(running(kind, **options))
            there.append((kind.name, server, load))
        except NotAvailable as problem:
            table.row(kind.name).note = str(problem)
    return there


# -- fan-out ----------------------------------------------------------------------------------------------------------


def fanout(progress: Progress, rounds: int) -> Table:
    table = Table(
        "fanout",
        f"Fan-out to {CONNECTIONS} connections, one publication a turn",
        "µs of CPU for a delivery",
        targets=[
            Target(1.4, "C floor"),
            Target(0.7, "node ws"),
            Target(0.8, "centrifuge"),
            Target(1.0, "nchan"),
        ],
    )
    table.row("pushserver")
    with ExitStack() as stack:
        there = _beside(
            stack,
            table,
            progress,
            FAN_OUT,
            connections=CONNECTIONS,
        )
        runs: list[Run] = [(n, partial(one_a_turn, s, load, PUBLICATIONS, CONNECTIONS)) for n, s, load in there]
        in_turns(rounds, progress, table, runs)
    return table


def bursts(progress: Progress, rounds: int) -> Table:
    table = Table(
        "bursts",
        f"Fan-out to {CONNECTIONS} connections, bursts of 10 in one request",
        "µs of CPU for a delivery",
        targets=[Target(0.25, "node ws"), Target(0.7, "centrifuge")],
        notes=["nchan takes one message a request, so its ten come one after another"],
    )
    table.row("pushserver")
    with ExitStack() as stack:
        there = _beside(
            stack,
            table,
            progress,
            FAN_OUT,
            connections=CONNECTIONS,
        )
        runs: list[Run] = [(n, partial(ten_a_turn, s, load, 150, CONNECTIONS)) for n, s, load in there]
        in_turns(rounds, progress, table, runs)
    return table


def flatness(progress: Progress, rounds: int) -> Table:
    table = Table(
        "flatness",
        "Fan-out, one a turn, from 100 to 10,000 connections, and beside 10,000 idle channels",
        "µs of CPU for a delivery",
        targets=[
            Target(1.25, "pushserver, 100", row="pushserver, 10,000"),
            Target(1.25, "pushserver, 1,000", row="pushserver, 10,000"),
            Target(1.25, "pushserver, 1,000", row="pushserver, 1,000 and 10,000 idle channels"),
        ],
        notes=["the C floor shows how much of it is the kernel's"],
    )
    sizes = (("100", 100, 0), ("1,000", 1_000, 0), ("10,000", 10_000, 0), ("1,000 and 10,000 idle channels", 1_000, 10))
    with ExitStack() as stack:
        runs: list[Run] = []
        for kind in (PushServer, Floor):
            for name, connections, own in sizes:
                if own and kind is Floor:
                    continue
                progress.show(f"{table.name}: connecting {name} to {kind.name}")
                server, load = stack.enter_context(running(kind, connections, own))
                count = max(40, 300_000 // connections)
                runs.append((f"{kind.name}, {name}", partial(one_a_turn, server, load, count, connections)))
        in_turns(rounds, progress, table, runs)
    return table


# -- TLS --------------------------------------------------------------------------------------------------------------


def tls_fanout(progress: Progress, rounds: int) -> Table:
    table = Table(
        "tls-fanout",
        f"Fan-out to {CONNECTIONS} connections over TLS 1.3, one publication a turn",
        "µs of CPU for a delivery",
        targets=[Target(0.8, "node wss")],
    )
    table.row("pushserver")
    with ExitStack() as stack:
        there = _beside(
            stack, table, progress, (SecurePushServer, SecureNodeServer, PushServer), connections=CONNECTIONS
        )
        names = ("pushserver", "node wss", "pushserver, without TLS")
        runs: list[Run] = [
            (name, partial(one_a_turn, server, load, 100, CONNECTIONS))
            for name, (_, server, load) in zip(names, there, strict=True)
        ]
        in_turns(rounds, progress, table, runs)
    return table


def tls_accept(progress: Progress, rounds: int) -> list[Table]:
    count = 1_000
    title = f"Accept over TLS 1.3 (ECDSA) with sign-in and 3 channels, {count} connections, 64 at a time"
    each = Table("tls-accept", title, "µs of CPU for a connection", targets=[Target(1.0, "node wss")])
    size = Table("tls-memory", f"{title}: resident memory", "KiB for a connection", targets=[Target(34.0)])
    kinds = (SecurePushServer, SecureNodeServer)

    def run(kind: type[Server]) -> float:
        with running(kind) as (server, load):
            warm(server, 200)
            before = resident(server.pid)
            used, _ = sign_in(server, load, count)
            time.sleep(SETTLED)
            size.row(kind.name).values.append((resident(server.pid) - before) / count)
            return used

    install("node")
    in_turns(rounds, progress, each, [(kind.name, partial(run, kind)) for kind in kinds])
    return [each, size]


# -- Redis ------------------------------------------------------------------------------------------------------------


def _to_users(port: int, server: Server, load: Load, each: Table) -> float:
    """PUBLISH to one user after another; return deliveries a second, and note the CPU of each."""
    times = 60
    load.reset()
    with socket.create_connection(("127.0.0.1", port)) as redis:
        before, began = cpu(server.pid), time.monotonic()
        for _ in range(times):
            text = json.dumps({"data": {"sent": stamp(), "text": "x" * 13}}).encode()
            redis.sendall(b"".join(command(b"PUBLISH", b"push:pub:user:u%d" % n, text) for n in range(CONNECTIONS)))
            load.wait(CONNECTIONS)
        taken, used = time.monotonic() - began, cpu(server.pid) - before
    each.row(server.name).values.append(used / times / CONNECTIONS * 1e6)
    return times * CONNECTIONS / taken


def redis(progress: Progress, rounds: int) -> list[Table]:
    rate = Table(
        "redis",
        f"Redis PUBLISH to one user each, {CONNECTIONS} users",
        "deliveries a second",
        targets=[Target(1.0, "node ws", least=True)],
    )
    each = Table("redis-cpu", rate.title, "µs of CPU for a delivery", targets=[Target(1.0, "node ws")])
    rate.row("pushserver"), each.row("pushserver")
    with ExitStack() as stack:
        runs: list[Run] = []
        for kind in (PushServer, NodeServer):
            # Each has a Redis of its own: neither hears, and delivers, what the other is sent.
            port = stack.enter_context(redis_server())
            url = f"redis://127.0.0.1:{port}/0"
            for name, server, load in _beside(stack, rate, progress, (kind,), connections=CONNECTIONS, redis=url):
                runs.append((name, partial(_to_users, port, server, load, each)))
        in_turns(rounds, progress, rate, runs)
    return [rate, each]


# -- connections ------------------------------------------------------------------------------------------------------


def accept(progress: Progress, rounds: int) -> list[Table]:
    count = 2_000
    rate = Table(
        "accept",
        f"Accept, authenticate (JWT) and subscribe to 3 channels, {count} connections, 64 at a time",
        "connections a second",
        targets=[Target(1.0, "node ws", least=True)],
    )
    each = Table("accept-cpu", rate.title, "µs of CPU for a connection", targets=[Target(1.0, "node ws")])

    def run(kind: type[Server]) -> float:
        with running(kind) as (server, load):
            warm(server, 200)
            used, taken = sign_in(server, load, count)
            each.row(kind.name).values.append(used)
            return 1e3 / taken

    install("node")
    in_turns(rounds, progress, rate, [(kind.name, partial(run, kind)) for kind in (PushServer, NodeServer)])
    return [rate, each]


def memory(progress: Progress, rounds: int) -> Table:
    count = 10_000
    table = Table(
        "memory",
        f"Resident memory of an idle authenticated connection with 3 subscriptions, {count} of them",
        "KiB",
        targets=[Target(8.0), Target(10.0, row="pushserver, compression negotiated")],
    )

    def run(kind: type[Server], compression: bool) -> float:
        with running(kind, compression=compression) as (server, load):
            warm(server, 100)
            return idle_memory(server, load, count)

    runs: list[Run] = [
        ("pushserver", partial(run, PushServer, False)),
        ("pushserver, compression negotiated", partial(run, PushServer, True)),
        ("node ws", partial(run, NodeServer, False)),
        ("node ws, compression negotiated", partial(run, NodeServer, True)),
    ]
    install("node")
    in_turns(min(rounds, 3), progress, table, runs)
    return table


def start(progress: Progress, rounds: int) -> Table:
    table = Table("start", "Process start to ready", "s", targets=[Target(1.5)])

    def run(kind: type[Server]) -> float:
        with running(kind) as (server, _):
            return server.started_in

    in_turns(rounds, progress, table, [("pushserver", partial(run, PushServer))])
    return table


def messages(progress: Progress, rounds: int) -> Table:
    connections, each = 100, 1_000
    table = Table(
        "inbound",
        f"Messages from clients (ping, answered by pong), {connections} connections that send {each} at once",
        "messages per second of CPU",
        targets=[Target(1.0, "node ws", least=True)],
    )
    table.row("pushserver")

    def run(server: Server, load: Load) -> float:
        return 1e6 / inbound(server, load, connections, each)

    with ExitStack() as stack:
        there = _beside(stack, table, progress, (PushServer, NodeServer), connections=connections)
        in_turns(rounds, progress, table, [(n, partial(run, s, load)) for n, s, load in there])
    return table


# -- latency ----------------------------------------------------------------------------------------------------------


def _paced(server: Server, load: Load, rate: float, seconds: float, connections: int) -> float:
    """p99 from publication to receipt, ms, at so many publications a second."""
    load.reset()
    began = time.monotonic()
    count = int(rate * seconds)
    for n in range(count):
        left = began + n / rate - time.monotonic()
        if left > 0:
            time.sleep(left)
        server.publish()
    load.wait(count * connections)
    return load.latencies()[2] / 1000


def latency(progress: Progress, rounds: int) -> Table:
    table = Table(
        "latency",
        f"Publication to receipt at half of node ws's capacity, {CONNECTIONS} connections: 99th percentile",
        "ms",
        targets=[Target(1.0, "node ws")],
    )
    table.row("pushserver")
    with ExitStack() as stack:
        there = _beside(stack, table, progress, (PushServer, NodeServer), connections=CONNECTIONS)
        (cost,) = (one_a_turn(s, load, 50, CONNECTIONS) for n, s, load in there if n == "node ws")
        capacity = 1e6 / CONNECTIONS / cost
        table.notes.append(f"node ws can {capacity:.0f} publications a second; half of that was published")
        runs: list[Run] = [(n, partial(_paced, s, load, capacity / 2, 4.0, CONNECTIONS)) for n, s, load in there]
        in_turns(rounds, progress, table, runs)
    return table


def slow(progress: Progress, rounds: int) -> Table:
    table = Table(
        "slow",
        f"One stalled client among {CONNECTIONS}: the others' 99th percentile",
        "ms",
        targets=[Target(1.2, "without")],
    )
    with ExitStack() as stack:
        # Large enough never to be closed: it stays, stalled, for the whole run.
        server, load = stack.enter_context(running(PushServer, CONNECTIONS, queue=1 << 30))
        plain, other = stack.enter_context(running(PushServer, CONNECTIONS))
        load.ask("stall 0")
        # Until its socket is full.
        filled = "x" * 60_000
        for _ in range(100):
            body = json.dumps({"channel": "user:u0", "type": "message", "data": filled}).encode()
            server.http.post("/api/publish", body, server.headers)
        runs: list[Run] = [
            ("one stalled", partial(_paced, server, load, 40, 4.0, CONNECTIONS - 1)),
            ("without", partial(_paced, plain, other, 40, 4.0, CONNECTIONS)),
        ]
        in_turns(rounds, progress, table, runs)
    return table


def fairness(progress: Progress, rounds: int) -> Table:
    connections = 10_000
    table = Table(
        "fairness",
        f"A ping on another connection while publications go to {connections}: 99th percentile of its answer",
        "ms",
        targets=[Target(20.0)],
    )
    table.row("pushserver")

    def probe(port: int, server: Server, times: list[float], stop: threading.Event) -> None:
        with socket.create_connection(("127.0.0.1", port)) as s:
            s.sendall(server.upgrade() + server.greeting("probe", ()))
            answer = b""
            while b"subscription_success" not in answer:
                answer += s.recv(65536)
            while not stop.is_set():
                began = time.monotonic()
                s.sendall(masked(b'{"type":"ping"}'))
                answer = b""
                while b'"pong"' not in answer:
                    answer += s.recv(65536)
                times.append((time.monotonic() - began) * 1000)
                time.sleep(0.002)

    def run(server: Server, load: Load) -> float:
        times: list[float] = []
        stop = threading.Event()
        prober = threading.Thread(target=probe, args=(server.port, server, times, stop))
        prober.start()
        try:
            load.reset()
            for _ in range(20):
                server.publish()
                load.wait(connections)
        finally:
            stop.set()
            prober.join()
        return percentile(times, 0.99)

    with ExitStack() as stack:
        there = _beside(stack, table, progress, (PushServer, NodeServer), connections=connections)
        in_turns(rounds, progress, table, [(n, partial(run, s, load)) for n, s, load in there])
    return table


# -- durable ----------------------------------------------------------------------------------------------------------


def appends(progress: Progress, rounds: int) -> Table:
    """`bench.durable` in a process of its own: it runs the reactor."""
    progress.show(f"durable: {rounds} rounds of each")
    table = Table(
        "durable",
        "Durable inbox appends, embedded engine, 100 publishers at once",
        "messages a second",
        targets=[Target(0.5, "raw SQLite", least=True, row="pushserver's engine")],
    )
    command = [sys.executable, "-m", "bench.durable", "--rounds", str(rounds), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    figures = json.loads(done.stdout)
    names = {"engine": "pushserver's engine", "engine, with messageId": "with messageId", "raw": "raw SQLite"}
    for name, values in sorted(figures.items()):
        table.row(names.get(name, name)).values = values
    return table


BENCHMARKS: dict[str, Callable[[Progress, int], Table | list[Table]]] = {
    "fanout": fanout,
    "bursts": bursts,
    "redis": redis,
    "redis-publish": redis_publish.redis_publish,
    "accept": accept,
    "tls-fanout": tls_fanout,
    "tls-accept": tls_accept,
    "memory": memory,
    "latency": latency,
    "slow": slow,
    "fairness": fairness,
    "flatness": flatness,
    "start": start,
    "inbound": messages,
    "durable": appends,
    "sdks": sdks.sdks,
    "notify": notify.notify,
    "outputs": outputs.outputs,
}
