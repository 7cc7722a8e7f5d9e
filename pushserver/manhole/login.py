"""Logging in: by a key, or by a password where there is one; bounded, slowed, and logged."""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.conch import error, interfaces
from twisted.conch.ssh import keys, userauth
from twisted.conch.ssh.common import getNS
from twisted.cred import credentials
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.core.errors import ConfigError
from pushserver.manhole.algorithms import SIGNATURES
from pushserver.manhole.keys import authorized_keys, shown
from pushserver.manhole.lockout import Lockout
from pushserver.manhole.quiet import QuietLogger

#: Seconds to log in, and attempts of one connection.
LOGIN_TIMEOUT: Final = 30
MAX_ATTEMPTS: Final = 6


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
        """Return the user name of who may come in. Raises UnauthorizedLogin with the reason, and ValidPublicKey where
        a key was only asked about."""
        try:
            named = compare_digest(given.username, self._username)
            if credentials.ISSHPrivateKey.providedBy(given):
                self._check_key(given, named)
            elif not (compare_digest(given.password, self._password()) and named and given.password):
                raise UnauthorizedLogin("wrong password")
        except OSError as problem:
            self._log.error("console: nobody can log in: {problem}", problem=str(problem))
            raise UnauthorizedLogin("the file cannot be read") from None
        return self._username

    def _check_key(self, given: Any, named: bool) -> None:
        try:
            key = keys.Key.fromString(given.blob)
        except Exception:
            raise UnauthorizedLogin("what cannot be read as a key") from None
        if given.algName not in SIGNATURES:
            said = given.algName.decode("latin-1")[:60]
            raise UnauthorizedLogin(f"{shown(key)}: signatures by {said} are not taken")
        if not named:
            raise UnauthorizedLogin(f"{shown(key)}: another user name")
        if not any(key == one for one in authorized_keys(Path(self._keys_file))):
            raise UnauthorizedLogin(f"{shown(key)}: not in the file")
        if not given.signature:
            # Asked in advance whether signing makes sense.
            raise error.ValidPublicKey
        try:
            # What it is signed by stands in the signature too.
            signed = getNS(given.signature)[0] in SIGNATURES and key.verify(given.signature, given.sigData)
        except Exception:
            signed = False
        if not signed:
            raise UnauthorizedLogin(f"{shown(key)}: wrong signature")


class LoginHost(Protocol):
    """What logging in asks of the console."""

    reactor: IReactorTime
    lockout: Lockout

    @property
    def now(self) -> Callable[[], int]: ...


class LoginTransport(Protocol):
    """What logging in asks of its connection."""

    address: str
    factory: LoginHost
    sessionID: bytes

    def log_in(self, user: str) -> bool:
        """Become an operator; return whether there is a place for one more."""

    def count_wrong_password(self) -> None:
        """Count it."""


class Login(userauth.SSHUserAuthServer):
    """The attempts of one connection.

    Wrong passwords shut an address out from passwords for a while. Whoever has the right key comes in all the same: a
    key is not guessed, so a neighbour's guesses are nothing to hold against it.
    """

    loginTimeout = LOGIN_TIMEOUT
    attemptsBeforeDisconnect = MAX_ATTEMPTS
    transport: Any
    portal: Any
    user: Any
    _log = QuietLogger()
    _own_log = Logger()

    def tryAuth(self, kind: bytes, user: bytes, data: bytes) -> Deferred[Any]:
        connection: LoginTransport = self.transport
        if kind == b"none" or kind not in self.supportedAuthentications:
            return super().tryAuth(kind, user, data)
        named = {
            "event": "console_login",
            "user": user.decode("latin-1")[:100],
            "address": connection.address,
            "way": kind.decode("latin-1"),
        }
        if kind == b"password" and connection.factory.lockout.left(connection.address, connection.factory.now()):
            self._own_log.warn("console: {user} from {address}: passwords are locked out", code="locked_out", **named)
            return fail(UnauthorizedLogin("locked out"))

        def succeeded(result: Any) -> Any:
            if not connection.log_in(named["user"]):
                raise UnauthorizedLogin("too many are logged in")
            if kind == b"password":
                connection.factory.lockout.succeeded(connection.address)
            self._own_log.info("console: {user} logged in from {address} by {way}", **named)
            return result

        def failed(failure: Failure) -> Failure:
            if not failure.check(error.IgnoreAuthentication, error.ValidPublicKey):
                self._own_log.warn(
                    "console: {user} failed to log in from {address} by {way}: {reason}",
                    code="refused",
                    reason=failure.getErrorMessage(),
                    **named,
                )
            return failure

        return super().tryAuth(kind, user, data).addCallback(succeeded).addErrback(failed)

    def auth_password(self, packet: bytes) -> Deferred[Any]:
        given = credentials.UsernamePassword(self.user, getNS(packet[1:])[0])
        trying: Deferred[Any] = self.portal.login(given, None, interfaces.IConchUser)
        return trying.addErrback(self._slow)

    def _slow(self, failure: Failure) -> Deferred[Any]:
        """A wrong password counts at once, also where the next one is on its way; each makes the answer slower."""
        console: LoginHost = self.transport.factory
        self.transport.count_wrong_password()
        delay = 1 + console.lockout.failures(self.transport.address, console.now())
        later: Deferred[Any] = Deferred()
        console.reactor.callLater(delay, later.errback, failure)
        return later
