"""A master, its replica, and three sentinels that say which is which."""

from __future__ import annotations

from typing import Any

import hiredis
from twisted.internet.protocol import Protocol, ServerFactory

from .network import Network
from .nodes import REDIS_PORT, SimulatedRedis
from .plan import SENTINEL_PORT, SENTINELS
from .redis.server import encode
from .world import Process, World

#: Seconds within which each sentinel learns of a new master.
LEARNING = 1.0
#: Seconds for which an old master that is back takes itself for the master.
MISTAKEN = 1.0


class _Session(Protocol):
    """A connection to a sentinel, which is asked for the master alone."""

    transport: Any

    def __init__(self, sentinel: Sentinel) -> None:
        self._sentinel = sentinel
        self._reader = hiredis.Reader()

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while self._reader.gets() is not False:
            self.transport.write(encode([self._sentinel.master.encode(), str(REDIS_PORT).encode()]))


class Sentinel(ServerFactory):
    """One sentinel.

    Attributes:
        master: the host that it takes for the master.
    """

    noisy = False

    def __init__(self, master: str) -> None:
        self.master = master
        self._failovers = 0

    def learn(self, failovers: int, master: str) -> None:
        """Take in what became of so many failovers, unless a later one is known already."""
        if failovers > self._failovers:
            self._failovers, self.master = failovers, master

    def buildProtocol(self, addr: object) -> _Session:
        return _Session(self)


class Sentinels:
    """The sentinels, and the replica that becomes the master when they agree that it shall.

    Attributes:
        replica: the Redis that is not the master; `ready` says whether it could be.
    """

    def __init__(self, world: World, network: Network, master: SimulatedRedis, replica: SimulatedRedis) -> None:
        self._world = world
        self.replica = replica
        self.ready = True
        self._failovers = 0
        replica.model.master = False
        self._sentinels = [Sentinel(master.host) for _ in SENTINELS]
        for number, (host, sentinel) in enumerate(zip(SENTINELS, self._sentinels, strict=True), 1):
            network.listen(Process(world, f"sentinel{number}", host), SENTINEL_PORT, sentinel)

    def promote(self, data: object, old: SimulatedRedis) -> SimulatedRedis:
        """Let the replica be the master, with this data; return it. The old one follows nobody yet (`follow`)."""
        new, self.replica, self.ready = self.replica, old, False
        new.model.restart(data)
        new.model.master, new.model.followed = True, False
        self._failovers += 1
        for sentinel in self._sentinels:
            moment = self._world.now + self._world.chance.uniform(0, LEARNING)
            self._world.at(moment, sentinel.learn, self._failovers, new.host)
        return new

    def follow(self, master: SimulatedRedis) -> None:
        """Let the old master follow the new one: what it was told meanwhile is gone, and its connections are lost."""
        old = self.replica
        old.model.master = False
        old.model.restart()
        if not old.process.alive:
            old.start()
        master.model.followed = self.ready = True
