"""The console's SSH side.

    Console (factory) -> ConsoleTransport (one TCP connection) -> Login (key, password) -> ConsoleSession

Imported at the start of a service whose console is on, never before: the SSH library needs a chosen reactor.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from twisted.conch import error, interfaces
from twisted.conch.avatar import ConchUser
from twisted.conch.ssh import connection
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.transport import SSHServerTransport
from twisted.cred.portal import IRealm, Portal
from twisted.internet.interfaces import IAddress, IReactorTime
from twisted.logger import Logger
from twisted.protocols.policies import TimeoutMixin
from zope.interface import implementer

from pushserver.config.sections import ManholeSection
from pushserver.manhole.algorithms import CIPHERS, KEY_EXCHANGES, MACS, SIGNATURES, nothing_in_common
from pushserver.manhole.keys import host_key
from pushserver.manhole.lockout import LOCKED, Lockout
from pushserver.manhole.login import LOGIN_TIMEOUT, Checker, Login
from pushserver.manhole.places import ConsolePlaces, neighbourhood
from pushserver.manhole.quiet import QuietLogger
from pushserver.manhole.session import ConsoleSession
from pushserver.manhole.verbs import Rooms

#: Seconds that a login may be silent.
IDLE_TIMEOUT: Final = 3_600
#: Sessions in one connection.
MAX_SESSIONS: Final = 8


class ConsoleTransport(SSHServerTransport, TimeoutMixin):
    """One TCP connection to the console."""

    supportedKeyExchanges = KEY_EXCHANGES
    supportedCiphers = CIPHERS
    supportedMACs = MACS
    factory: Console
    transport: Any
    address = "?"
    who = "?"
    inside = False
    _log = QuietLogger()
    _own_log = Logger()

    def connectionMade(self) -> None:
        self.setTimeout(LOGIN_TIMEOUT)
        super().connectionMade()

    def callLater(self, period: float, what: Callable[[], None]) -> Any:
        return self.factory.reactor.callLater(period, what)

    def dataReceived(self, data: bytes) -> None:
        if self.inside:
            self.resetTimeout()
        super().dataReceived(data)

    def ssh_KEXINIT(self, packet: bytes) -> None:
        try:
            missing = nothing_in_common(packet, self.supportedPublicKeys)
        except Exception:
            missing = "a list that cannot be read"
        if missing:
            self._own_log.warn(
                "console: {address} has no algorithm in common with this server: {reason}",
                event="console_refused",
                address=self.address,
                reason=missing,
            )
        super().ssh_KEXINIT(packet)

    def sendExtInfo(self, extensions: list[tuple[bytes, bytes]]) -> None:
        """Say what a login's key may be signed by; the library names what the host key is signed by instead."""
        super().sendExtInfo(
            [(name, b",".join(SIGNATURES) if name == b"server-sig-algs" else value) for name, value in extensions]
        )

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self.inside:
            self.resetTimeout()
        super().sendPacket(messageType, payload)

    def timeoutConnection(self) -> None:
        self._own_log.info("console: {address} was silent for too long", event="console_timeout", address=self.address)
        self.transport.abortConnection()

    def give_way(self) -> None:
        """Another has the place."""
        self._own_log.info("console: {address} made way for another", event="console_refused", address=self.address)
        self.transport.abortConnection()

    def log_in(self, user: str) -> bool:
        """Become an operator; return whether there is a place for one more."""
        if not self.factory.places.log_in(self):
            return False
        self.inside = True
        self.who = f"{user} from {self.address}"
        self.setTimeout(IDLE_TIMEOUT)
        return True

    def count_wrong_password(self) -> None:
        """Count it; too many lock passwords out from this address for a while."""
        if self.factory.lockout.failed(self.address, self.factory.now()):
            self._own_log.warn(
                "console: passwords from {address} are locked out for {seconds} s",
                event="console_locked_out",
                address=self.address,
                seconds=LOCKED // 1000,
            )

    def connectionLost(self, reason: Any = None) -> None:
        self.setTimeout(None)
        self.factory.places.leave(self)
        super().connectionLost(reason)
        if self.inside:
            self._own_log.info("console: {who} is gone", event="console_left", who=self.who)


class Sessions(connection.SSHConnection):
    """The sessions in one connection: a bounded number, and nothing but sessions (no forwarding)."""

    _log = QuietLogger()

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        if len(self.channels) >= MAX_SESSIONS:
            raise error.ConchError("too many sessions", connection.OPEN_RESOURCE_SHORTAGE)
        return super().getChannel(channelType, windowSize, maxPacket, data)


class Operator(ConchUser):
    """Who is logged in."""

    def __init__(self) -> None:
        super().__init__()
        self.channelLookup[b"session"] = ConsoleSession


@implementer(IRealm)
class Realm:
    """Everybody who is let in may do the same."""

    def requestAvatar(self, avatarId: Any, mind: Any, *wanted: Any) -> Any:
        if interfaces.IConchUser not in wanted:
            raise NotImplementedError(wanted)
        return interfaces.IConchUser, Operator(), lambda: None


class Console(SSHFactory):
    """The console's factory.

    Args:
        now: ms on a monotonic clock.
    """

    noisy = False
    protocol = ConsoleTransport
    services = {b"ssh-userauth": Login, b"ssh-connection": Sessions}  # noqa: RUF012  the library's shape
    _log = QuietLogger()

    def __init__(
        self, reactor: IReactorTime, rooms: Rooms, now: Callable[[], int], settings: ManholeSection, state_dir: Path
    ) -> None:
        """Raises `ConfigError` for files that cannot be read."""
        self.reactor = reactor
        self.rooms = rooms
        self.now = now
        self.lockout = Lockout()
        self.places = ConsolePlaces()
        key = host_key(state_dir)
        self.publicKeys = {key.sshType(): key.public()}
        self.privateKeys = {key.sshType(): key}
        checker = Checker(settings.username, settings.authorized_keys, settings.password_file)
        self.portal = Portal(Realm(), [checker])

    def buildProtocol(self, addr: IAddress | None) -> Any:
        made: Any = super().buildProtocol(addr)
        made.address = neighbourhood(str(getattr(addr, "host", "unix")))
        gone = self.places.come(made)
        if gone is not None:
            gone.give_way()
        return made

    def close(self) -> None:
        """End everybody's login."""
        for one in self.places.all:
            one.transport.loseConnection()
