"""Whether a machine has what a run needs: descriptors, ports and memory, counted before anything is started."""

from __future__ import annotations

import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.servers import ADDRESSES, NotAvailable

#: Descriptors that a process needs beside those of its connections.
SPARE: Final = 200
#: Per cent by which one worker may be ahead of the others, and a few connections more where there are few.
AHEAD_PERCENT: Final = 6
AHEAD: Final = 4
#: Connections of one client process, where it may have so many descriptors.
PER_CLIENT: Final = 15_000
#: Connections of one address: few, so that those of a killed worker meet no limit of an address when they come back.
PER_ADDRESS: Final = 60
#: KiB that a connection may take in all: of the server, of both its ends in the kernel, of its client and of Redis.
ROOM: Final = 40
#: KiB for each worker, and for Redis and all else, before anybody is connected.
ROOM_OF_WORKER: Final = 100 << 10
ROOM_OF_REST: Final = 200 << 10
#: Part of an address' ports that may be in use at a time: the others are of connections that have just ended.
PORTS_IN_USE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is: descriptors that one process may have at most, ports of one address, KiB of memory."""

    files: int
    ports: int
    memory: int


@dataclass(frozen=True, slots=True)
class Plan:
    """How a run is laid out. ``files``: descriptors of each worker; ``per_client``: connections of each client."""

    connections: int
    workers: int
    files: int
    per_client: tuple[int, ...]
    addresses: int

    @property
    def most_of_worker(self) -> int:
        """Return how many connections a worker may have while all workers live."""
        each = -(-self.connections // self.workers)
        return each + max(AHEAD, each * AHEAD_PERCENT // 100)


def this_machine() -> Machine:
    """Return what the kernel says of this machine, and of what this process may pass on."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    fields = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    memory = {words[0]: int(words[1]) for words in fields}
    return Machine(1 << 31 if hard == resource.RLIM_INFINITY else hard, last - first + 1, memory["MemAvailable:"])


def plan(connections: int, workers: int, files: int, machine: Machine) -> Plan:
    """Return how so many connections are spread. Raises NotAvailable, in one line, where something does not suffice."""
    if files > machine.files:
        raise NotAvailable(f"a worker is to have {files} descriptors, and a process may have {machine.files} here")
    most = min(PER_CLIENT, machine.files - SPARE)
    if most < 1:
        raise NotAvailable(f"a client needs more than {SPARE} descriptors, and a process may have {machine.files} here")
    # Two at least, so that a small run has what a large one has.
    clients = max(2, -(-connections // most))
    share, rest = divmod(connections, clients)
    addresses = max(ADDRESSES, -(-connections // PER_ADDRESS))
    laid_out = Plan(connections, workers, files, tuple(share + (n < rest) for n in range(clients)), addresses)
    needed = laid_out.most_of_worker + SPARE
    if needed > files:
        raise NotAvailable(
            f"{connections} connections on {workers} workers need {needed} descriptors of each, and it has {files}"
        )
    usable = int(machine.ports * PORTS_IN_USE)
    each = -(-connections // addresses)
    if each > usable:
        raise NotAvailable(f"an address needs {each} ports for its connections, and {usable} may be used")
    memory = connections * ROOM + workers * ROOM_OF_WORKER + ROOM_OF_REST
    if memory > machine.memory:
        raise NotAvailable(f"needs up to {memory >> 10} MiB of memory, and {machine.memory >> 10} are free")
    return laid_out
