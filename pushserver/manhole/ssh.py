"""The console's SSH side: who may come in, and what a session is.

    Console (factory) -> Door (one TCP connection) -> Admission (keys, password, lockout) -> Channel (terminal, command)

Imported at the start of a service whose console is on, never before: the SSH library needs a chosen reactor.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from hmac import compare_digest
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch import error, interfaces
from twisted.conch.avatar import ConchUser
from twisted.conch.insults.insults import ServerProtocol
from twisted.conch.ssh import connection, keys, userauth
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.factory import SSHFactory
from twisted.conch.ssh.session import parseRequest_pty_req, parseRequest_window_change
from twisted.conch.ssh.transport import DISCONNECT_BY_APPLICATION, SSHServerTransport
from twisted.cred import credentials
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.cred.portal import IRealm, Portal
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger, LogLevel
from twisted.protocols.policies import TimeoutMixin
from zope.interface import implementer

from pushserver.core.errors import ConfigError
from pushserver.manhole.lockout import LOCKED, Lockout
from pushserver.manhole.shell import Interpreter, Quit, Terminal
from pushserver.manhole.verbs import Rooms, Verbs

#: The host key's file in the state directory.
HOST_KEY: Final = "ssh_host_ed25519_key"
#: Seconds to log in, and seconds that a login may be silent.
LOGIN_TIMEOUT: Final = 30
IDLE_TIMEOUT: Final = 3_600
#: TCP connections at a time, sessions in one of them, and attempts to log in.
MAX_CONNECTIONS: Final = 16
MAX_SESSIONS: Final = 8
MAX_ATTEMPTS: Final = 6
#: Bytes of a command.
MAX_COMMAND: Final = 65_536

_EXTENDED_STDERR: Final = 1

NO_TERMINAL: Final = (
    "The console needs a terminal (ssh -t), or a command: ssh … 'stats()'. Input from a pipe is not read.\n"
)


def host_key(state_dir: Path) -> Any:
    """The key that this server shows, made now where there is none. Raises `ConfigError`."""
    path = state_dir / HOST_KEY
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not path.exists():
            draft = path.with_name(f".{path.name}.{os.getpid()}.{token_hex(4)}")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(keys.Key(Ed25519PrivateKey.generate()).toString("openssh"))
                    file.flush()
                    os.fsync(file.fileno())
                # Whole or not at all, and of several processes that start at once the first one's.
                os.link(draft, path)
            except FileExistsError:
                pass
            finally:
                draft.unlink()
        path.chmod(0o600)
        return keys.Key.fromFile(str(path))
    except (OSError, keys.BadKeyError, ValueError) as problem:
        raise ConfigError(f"{path}: expected a private SSH key: {problem}") from None


def authorized_keys(path: Path) -> list[Any]:
    """The public keys of a file in the format of OpenSSH; lines that cannot be read are left out. Raises OSError."""
    found: list[Any] = []
    for line in path.read_bytes().splitlines():
        text = line.strip()
        if text and not text.startswith(b"#"):
            try:
                key = keys.Key.fromString(text)
            except Exception:
                continue
            if key.isPublic():
                found.append(key)
    return found


class _Quiet(Logger):
    """The library's logger without its running commentary (a client's commands among it): who comes and goes is logged
    here, once; what fails unexpectedly still is."""

    def emit(self, level: Any, format: str | None = None, **kwargs: object) -> None:
        if level is LogLevel.critical:
            super().emit(level, format, **kwargs)


@implementer(ICredentialsChecker)
class Checker:
    """Who may log in. The files are read at each attempt, so that a key can be added or taken away at any time."""

    _log = Logger()

    def __init__(self, username: str, keys_file: str, password_file: str) -> None:
        self._username = username.encode()
        self._keys_file = keys_file
        self._password_file = password_file
        self.credentialInterfaces: tuple[Any, ...] = ()
        if keys_file:
            self.credentialInterfaces += (credentials.ISSHPrivateKey,)
        if password_file:
            self.credentialInterfaces += (credentials.IUsernamePassword,)
        try:
            if keys_file and not authorized_keys(Path(keys_file)):
                self._log.warn("console: no key can be read from {file}", file=keys_file)
            if password_file and not self._password():
                raise ConfigError(f"manhole.password_file = {password_file}: the file is empty")
        except OSError as problem:
            raise ConfigError(f"[manhole]: {problem}") from None

    def _password(self) -> bytes:
        return Path(self._password_file).read_bytes().strip()

    def requestAvatarId(self, given: Any) -> Any:
        try:
            named = compare_digest(given.username, self._username)
            if credentials.ISSHPrivateKey.providedBy(given):
                self._check_key(given, named)
            elif not (compare_digest(given.password, self._password()) and named and given.password):
                raise UnauthorizedLogin("wrong")
        except OSError as problem:
            self._log.error("console: nobody can log in: {problem}", problem=str(problem))
            raise UnauthorizedLogin("cannot check") from None
        return self._username

    def _check_key(self, given: Any, named: bool) -> None:
        try:
            key = keys.Key.fromString(given.blob)
            known = named and any(key == one for one in authorized_keys(Path(self._keys_file)))
            if not known:
                raise UnauthorizedLogin("unknown key")
            if not given.signature:
                # Asked in advance whether signing makes sense.
                raise error.ValidPublicKey
            if not key.verify(given.signature, given.sigData):
                raise UnauthorizedLogin("wrong signature")
        except (UnauthorizedLogin, error.ValidPublicKey, OSError):
            raise
        except Exception:
            raise UnauthorizedLogin("not a key") from None


class Admission(userauth.SSHUserAuthServer):
    """Logging in: bounded, slowed, and logged."""

    loginTimeout = LOGIN_TIMEOUT
    attemptsBeforeDisconnect = MAX_ATTEMPTS
    transport: Any
    portal: Any
    user: Any
    _log = _Quiet()
    _says = Logger()

    def tryAuth(self, kind: bytes, user: bytes, data: bytes) -> Deferred[Any]:
        door = self.transport
        if kind == b"none" or kind not in self.supportedAuthentications:
            return super().tryAuth(kind, user, data)
        house = door.factory
        if house.lockout.left(door.address, house.now()):
            door.sendDisconnect(DISCONNECT_BY_APPLICATION, b"too many failed logins; try again later")
            return Deferred()
        door.tried = True
        named = {"user": user.decode("latin-1")[:100], "address": door.address, "way": kind.decode("latin-1")}

        def succeeded(result: Any) -> Any:
            house.lockout.succeeded(door.address)
            door.logged_in(named["user"])
            self._says.info("console: {user} logged in from {address} by {way}", **named)
            return result

        def failed(failure: Any) -> Any:
            if not failure.check(error.IgnoreAuthentication, error.ValidPublicKey):
                self._says.warn("console: {user} failed to log in from {address} by {way}", **named)
            return failure

        return super().tryAuth(kind, user, data).addCallbacks(succeeded, failed)

    def auth_password(self, packet: bytes) -> Deferred[Any]:
        given = credentials.UsernamePassword(self.user, getNS(packet[1:])[0])
        trying: Deferred[Any] = self.portal.login(given, None, interfaces.IConchUser)
        return trying.addErrback(self._slow)

    def _slow(self, failure: Any) -> Deferred[Any]:
        """A wrong password counts at once, also where the next one is on its way; each makes the answer slower."""
        house = self.transport.factory
        self.transport.failed()
        delay = 1 + house.lockout.failures(self.transport.address, house.now())
        later: Deferred[Any] = Deferred()
        house.reactor.callLater(delay, later.errback, failure)
        return later


class Door(SSHServerTransport, TimeoutMixin):
    """One TCP connection to the console."""

    _says = Logger()
    factory: Console
    transport: Any
    address = "?"
    who = "?"
    _log = _Quiet()

    def connectionMade(self) -> None:
        #: whether anything was tried, whether it went well, and whether the failure was counted already
        self.tried = self.inside = self._counted = False
        self.address = str(getattr(self.transport.getPeer(), "host", "unix"))
        self.setTimeout(LOGIN_TIMEOUT)
        super().connectionMade()

    def callLater(self, period: float, what: Callable[[], None]) -> Any:
        return self.factory.reactor.callLater(period, what)

    def dataReceived(self, data: bytes) -> None:
        if self.inside:
            self.resetTimeout()
        super().dataReceived(data)

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        if self.inside:
            self.resetTimeout()
        super().sendPacket(messageType, payload)

    def timeoutConnection(self) -> None:
        self._says.info("console: {address} was silent for too long", address=self.address)
        self.transport.abortConnection()

    def logged_in(self, user: str) -> None:
        self.inside = True
        self.who = f"{user} from {self.address}"
        self.setTimeout(IDLE_TIMEOUT)

    def failed(self) -> None:
        """Counts a failed login; the last one that is allowed ends the connection."""
        self._counted = True
        if self.factory.lockout.failed(self.address, self.factory.now()):
            self._says.warn(
                "console: {address} is locked out for {seconds} s", address=self.address, seconds=LOCKED // 1000
            )

    def connectionLost(self, reason: Any = None) -> None:
        self.setTimeout(None)
        if self.tried and not self.inside and not self._counted:
            self.failed()
        self.factory.doors.discard(self)
        super().connectionLost(reason)
        if self.inside:
            self._says.info("console: {who} is gone", who=self.who)


class Channel(SSHChannel):
    """One session in a connection: a terminal, or one command."""

    name = b"session"
    conn: Any
    _log = _Quiet()
    _says = Logger()

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._terminal: ServerProtocol | None = None
        self._shell: Terminal | None = None
        self._verbs: Verbs | None = None
        self._size: tuple[int, int] | None = None
        self._ended = False

    @property
    def _house(self) -> Console:
        house: Console = self.conn.transport.factory
        return house

    # -- requests -----------------------------------------------------------------------------------------------------

    def request_pty_req(self, data: bytes) -> bool:
        _, (rows, columns, _, _), _ = parseRequest_pty_req(data)
        self._size = (columns, rows)
        return True

    def request_window_change(self, data: bytes) -> bool:
        rows, columns, _, _ = parseRequest_window_change(data)
        self._size = (columns, rows)
        if self._shell is not None:
            self._shell.terminalSize(columns, rows)
        return True

    def request_env(self, data: bytes) -> bool:
        return False

    def request_subsystem(self, data: bytes) -> bool:
        return False

    def request_shell(self, data: bytes) -> bool:
        if self._verbs is not None or self._ended:
            return False
        # The answer to the request goes first.
        self._house.reactor.callLater(0, self._open_shell)
        return True

    def request_exec(self, data: bytes) -> bool:
        if self._verbs is not None or self._ended:
            return False
        command = getNS(data)[0]
        self._house.reactor.callLater(0, self._execute, command)
        return True

    # -- a terminal ---------------------------------------------------------------------------------------------------

    def _open_shell(self) -> None:
        if self._ended:
            return
        if self._size is None:
            self.writeExtended(_EXTENDED_STDERR, NO_TERMINAL.encode())
            self.finish(1)
            return
        house, who = self._house, self.conn.transport.who

        def live(text: str) -> None:
            if self._shell is not None and not self._ended:
                self._shell.write(text + "\n", live=True)

        verbs = self._verbs = Verbs(house.rooms, live, who)

        def make_interpreter(shell: Terminal) -> Interpreter:
            return Interpreter(verbs, shell.write, lambda: shell.width, True, who)

        greeting = f"pushserver, node {house.rooms.cluster.node}. help() lists what can be said."
        shell = self._shell = Terminal(greeting, make_interpreter, lambda: verbs)
        terminal = self._terminal = ServerProtocol(lambda: shell)
        shell.terminalSize(*self._size)
        terminal.makeConnection(self)

    # -- one command --------------------------------------------------------------------------------------------------

    def _execute(self, command: bytes) -> None:
        if self._ended:
            return
        if len(command) > MAX_COMMAND:
            self.writeExtended(_EXTENDED_STDERR, b"the command is too long\n")
            self.finish(1)
            return
        who = self.conn.transport.who

        def say(text: str) -> None:
            if not self._ended:
                self._print(text)

        verbs = self._verbs = Verbs(self._house.rooms, lambda text: say(text + "\n"), who)
        width = self._size[0] if self._size is not None else 120
        interpreter = Interpreter(verbs, say, lambda: width, self._size is not None, who)
        try:
            well, pending = interpreter.run(command.decode("utf-8", "replace"))
        except Quit as end:
            self.finish(end.status)
            return
        except Exception:
            self._says.failure("console: a command failed")
            self.finish(1)
            return

        def done(results: list[tuple[bool, bool]]) -> None:
            self.finish(0 if well and all(fine for _, fine in results) else 1)

        DeferredList(pending).addCallback(done).addErrback(
            lambda failure: self._says.failure("console: a command's end failed", failure)
        )

    def _print(self, text: str) -> None:
        octets = text.encode("utf-8", "replace")
        self.write(octets.replace(b"\n", b"\r\n") if self._size is not None else octets)

    # -- the channel's life -------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._terminal is not None and not self._ended:
            try:
                self._terminal.dataReceived(data)
            except Exception:
                self._says.failure("console: a key could not be taken")
        elif b"\x03" in data and self._verbs is not None:
            self._verbs.end()

    def eofReceived(self) -> None:
        # The end of a command's input is not the end of its answer.
        if self._shell is not None:
            self.finish(0)

    def finish(self, status: int) -> None:
        """Ends the session with an exit status."""
        if self._ended:
            return
        self._end()
        self.conn.sendRequest(self, b"exit-status", struct.pack(">L", status & 0xFF))
        self.conn.sendEOF(self)
        self.loseConnection()

    def closed(self) -> None:
        self._end()

    def _end(self) -> None:
        self._ended = True
        if self._verbs is not None:
            self._verbs.end()

    # What a terminal asks of its transport.

    def getPeer(self) -> Any:
        return self.conn.transport.getPeer()

    def getHost(self) -> Any:
        return self.conn.transport.getHost()


class Sessions(connection.SSHConnection):
    """The sessions in one connection: a bounded number, and nothing but sessions (no forwarding)."""

    _log = _Quiet()

    def getChannel(self, channelType: bytes, windowSize: int, maxPacket: int, data: bytes) -> Any:
        if len(self.channels) >= MAX_SESSIONS:
            raise error.ConchError("too many sessions", connection.OPEN_RESOURCE_SHORTAGE)
        return super().getChannel(channelType, windowSize, maxPacket, data)


class Operator(ConchUser):
    """Who is logged in."""

    def __init__(self) -> None:
        super().__init__()
        self.channelLookup[b"session"] = Channel


@implementer(IRealm)
class Realm:
    def requestAvatar(self, avatarId: Any, mind: Any, *wanted: Any) -> Any:
        if interfaces.IConchUser not in wanted:
            raise NotImplementedError(wanted)
        return interfaces.IConchUser, Operator(), lambda: None


class Console(SSHFactory):
    """The console's factory.

    Args:
        now: ms since the epoch.
    """

    noisy = False
    protocol = Door
    services = {b"ssh-userauth": Admission, b"ssh-connection": Sessions}  # noqa: RUF012  the library's shape
    _log = _Quiet()
    _says = Logger()

    def __init__(
        self,
        reactor: Any,
        rooms: Rooms,
        now: Callable[[], int],
        *,
        state_dir: Path,
        username: str,
        keys_file: str,
        password_file: str,
    ) -> None:
        """Raises `ConfigError` for files that cannot be read."""
        self.reactor = reactor
        self.rooms = rooms
        self.now = now
        self.lockout = Lockout()
        self.doors: set[Any] = set()
        key = host_key(state_dir)
        self.publicKeys = {key.sshType(): key.public()}
        self.privateKeys = {key.sshType(): key}
        self.portal = Portal(Realm(), [Checker(username, keys_file, password_file)])

    def buildProtocol(self, addr: IAddress | None) -> Any:
        address = str(getattr(addr, "host", "unix"))
        if self.lockout.left(address, self.now()):
            self._says.info("console: {address} is locked out and was turned away", address=address)
            return None
        if len(self.doors) >= MAX_CONNECTIONS:
            self._says.warn("console: {address} was turned away: too many are here", address=address)
            return None
        door = super().buildProtocol(addr)
        self.doors.add(door)
        return door

    def close(self) -> None:
        """Ends everybody's login."""
        for door in tuple(self.doors):
            door.transport.loseConnection()
