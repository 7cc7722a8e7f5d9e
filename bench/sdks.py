"""Clients that speak as Centrifugo's SDKs do, beside native ones: what they cost the same server."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import ClassVar

from bench.figures import CHANNELS, idle_memory, one_a_turn, running, sign_in, warm
from bench.measure import Progress, Table, Target, cpu, in_turns
from bench.servers import Load, PushServer, Server, masked, token

#: Connections of the fan-out, and publications of one round; those that sign in, and those that idle.
CONNECTIONS = 1_000
PUBLICATIONS = 400
SIGNED_IN = 2_000
IDLE = 10_000
#: The id of a client's last subscription. It is a letter, which its answer shows in either codec.
LAST = ord("z")
BINARY = 0x82


class Door(PushServer):
    """The whole server, which SDKs may come to."""

    settings = "[centrifuge]\nenabled = true\n"


class JsonSdks(Load):
    """Clients that connect and subscribe in one frame, as SDKs do, and answer the server's pings, in JSON."""

    path: ClassVar[str] = "/connection/websocket"
    ready = (f'"id":{LAST},', 1)
    ping: ClassVar[tuple[bytes, bytes]] = (b"{}", masked(b"{}"))

    def __init__(self, server: Server) -> None:
        super().__init__(server)
        self.ask("pong {} {}".format(*(octets.hex() for octets in self.ping)))

    def first_frames(self, user: str, channels: Sequence[str]) -> tuple[bytes, bytes]:
        return self._server.upgrade(self.path), self.greeting(user, channels)

    def greeting(self, user: str, channels: Sequence[str]) -> bytes:
        first = LAST + 1 - len(channels)
        subscribe = [{"id": first + n, "subscribe": {"channel": channel}} for n, channel in enumerate(channels)]
        return masked("\n".join(map(json.dumps, [{"id": 1, "connect": {"token": token(user)}}, *subscribe])).encode())


class ProtobufSdks(JsonSdks):
    """The same in Protobuf."""

    path = "/connection/websocket?cf_protocol=protobuf"
    # The id is the first field of a reply, the answer to a subscription the sixth.
    ready = (f"\x08{chr(LAST)}\x32", 1)
    ping = (b"\x00", masked(b"\x00", BINARY))

    def greeting(self, user: str, channels: Sequence[str]) -> bytes:
        first = LAST + 1 - len(channels)
        said = _command(1, 4, _field(1, token(user).encode()))
        said += b"".join(_command(first + n, 5, _field(1, name.encode())) for n, name in enumerate(channels))
        return masked(said, BINARY)


def _varint(number: int) -> bytes:
    octets = b""
    while number > 127:
        octets, number = octets + bytes([number & 127 | 128]), number >> 7
    return octets + bytes([number])


def _field(number: int, octets: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(octets)) + octets


def _command(id: int, number: int, request: bytes) -> bytes:
    """Return a command behind its length; ``number``: of the field that says what is asked for."""
    said = b"\x08" + _varint(id) + _field(number, request)
    return _varint(len(said)) + said


Run = tuple[str, Callable[[], float]]


def _fanout(progress: Progress, rounds: int) -> Table:
    table = Table(
        "sdks-fanout",
        f"Fan-out to {CONNECTIONS} connections, one publication a turn, by what they speak",
        "µs of CPU for a delivery",
        targets=[
            Target(1.15, "native", row="half native, half JSON"),
            Target(1.15, "native", row="half native, half Protobuf"),
            Target(1.1, "native", row="Protobuf"),
        ],
    )
    rooms: dict[str, tuple[type[Load], ...]] = {
        "native": (Load,),
        "half native, half JSON": (Load, JsonSdks),
        "half native, half Protobuf": (Load, ProtobufSdks),
        "JSON": (JsonSdks,),
        "Protobuf": (ProtobufSdks,),
    }

    def run(server: Server, loads: list[Load]) -> float:
        if len(loads) == 1:
            return one_a_turn(server, loads[0], PUBLICATIONS, CONNECTIONS)
        for load in loads:
            load.reset()
        before = cpu(server.pid)
        for _ in range(PUBLICATIONS):
            server.publish()
            for load in loads:
                load.wait(load.count)
        return (cpu(server.pid) - before) / PUBLICATIONS / CONNECTIONS * 1e6

    with ExitStack() as stack:
        runs: list[Run] = []
        for name, kinds in rooms.items():
            progress.show(f"{table.name}: connecting {name}")
            server = Door()
            stack.callback(server.stop)
            loads = [kind(server) for kind in kinds]
            for number, load in enumerate(loads):
                stack.callback(load.close)
                each = CONNECTIONS // len(loads)
                load.open(each, path=load.prepare(each, first=number * each))
            runs.append((name, partial(run, server, loads)))
        in_turns(rounds, progress, table, runs)
    return table


#: What clients speak, by the name of their row.
SPOKEN: dict[str, type[Load]] = {"native": Load, "JSON": JsonSdks, "Protobuf": ProtobufSdks}


def _accept(progress: Progress, rounds: int) -> Table:
    table = Table(
        "sdks-accept",
        f"Accept with sign-in and 3 subscriptions, {SIGNED_IN} connections, 64 at a time, by what they speak",
        "µs of CPU for a connection",
        targets=[Target(1.3, "native", row="JSON"), Target(1.3, "native", row="Protobuf")],
    )

    def run(kind: type[Load]) -> float:
        with running(Door, load=kind) as (server, load):
            warm(server, 200, kind)
            used, _ = sign_in(server, load, SIGNED_IN)
            return used

    in_turns(rounds, progress, table, [(name, partial(run, kind)) for name, kind in SPOKEN.items()])
    return table


def _memory(progress: Progress, rounds: int) -> Table:
    table = Table(
        "sdks-memory",
        f"Resident memory of an idle connection with {len(CHANNELS)} subscriptions, {IDLE} of them, by what they speak",
        "KiB",
        targets=[Target(1.15, "native", row="JSON"), Target(1.15, "native", row="Protobuf")],
    )

    def run(kind: type[Load]) -> float:
        with running(Door, load=kind) as (server, load):
            warm(server, 100, kind)
            return idle_memory(server, load, IDLE)

    in_turns(min(rounds, 3), progress, table, [(name, partial(run, kind)) for name, kind in SPOKEN.items()])
    return table


def sdks(progress: Progress, rounds: int) -> list[Table]:
    return [_fanout(progress, rounds), _accept(progress, rounds), _memory(progress, rounds)]
