"""TLS on the listeners: which versions, ciphers and protocols are spoken, and why handshakes failed.

    tcp  ->  PROXY header (``haproxy:``)  ->  TLS (``ssl:``, ``tls:``)  ->  port

TLS 1.3, and 1.2 with forward secrecy and authenticated encryption. By ALPN (RFC 7301) ``http/1.1`` alone is spoken:
who offers only others gets the alert ``no_application_protocol``; who offers none is served.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol
from weakref import WeakSet

from cryptography.x509 import load_pem_x509_certificates
from OpenSSL import SSL
from twisted.internet.endpoints import quoteStringArgument, serverFromString
from twisted.internet.interfaces import (
    IListeningPort,
    IOpenSSLContextFactory,
    IOpenSSLServerConnectionCreator,
    IProtocolFactory,
    IStreamServerEndpoint,
)
from twisted.internet.protocol import Factory
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from pushserver.config.values import endpoint_arguments
from pushserver.web.tls_transport import SecureFactory, secure

PROTOCOL: Final = b"http/1.1"
CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20"

#: What the reasons of failed handshakes are counted as, by words of OpenSSL's.
_REASONS: Final = (
    ("no application protocol", "no_application_protocol"),
    ("no shared cipher", "no_shared_cipher"),
    ("no suitable", "no_shared_cipher"),
    ("unsupported protocol", "unsupported_protocol"),
    ("version too low", "unsupported_protocol"),
    ("http request", "not_tls"),
    ("wrong version number", "not_tls"),
    ("packet length too long", "not_tls"),
    ("record layer failure", "not_tls"),
    ("alert", "refused_by_client"),
)


#: All that failed handshakes are counted as.
REASONS: Final = frozenset({*(name for _, name in _REASONS), "closed", "other"})


class NoApplicationProtocol(SSL.Error):
    """The client offers protocols by ALPN, and none of ours."""


def failure_reason(reason: Failure) -> str:
    """Return what a failed handshake is counted as; ``reason`` is what the connection was lost for."""
    problem = reason.value
    if isinstance(problem, NoApplicationProtocol):
        return "no_application_protocol"
    if not isinstance(problem, SSL.Error):
        return "closed"
    said = str(problem.args[0] if problem.args else "").lower()
    return next((name for words, name in _REASONS if words in said), "other")


class Handshakes:
    """How many TLS handshakes failed, by reason."""

    def __init__(self) -> None:
        self.failed: Counter[str] = Counter()

    def fail(self, reason: Failure) -> None:
        self.failed[failure_reason(reason)] += 1


_hardened: WeakSet[SSL.Context] = WeakSet()


def harden(context: SSL.Context) -> SSL.Context:
    """Return the context with our versions, ciphers and protocols. It must not have been used yet."""
    if context not in _hardened:
        context.set_min_proto_version(SSL.TLS1_2_VERSION)
        context.set_cipher_list(CIPHERS)
        context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
        context.set_alpn_select_callback(_choose)
        _hardened.add(context)
    return context


def _choose(_: SSL.Connection, offered: list[bytes]) -> bytes:
    if PROTOCOL in offered:
        return PROTOCOL
    # What is raised here becomes the fatal alert no_application_protocol.
    raise NoApplicationProtocol([("SSL routines", "", "no application protocol")])


class _Certificates(Protocol):
    """The certificates of one listener, which can be replaced while it listens."""

    def read(self) -> Callable[[], None]:
        """Read them anew; return what lets connections from then on have them. Raises what cannot be read."""

    def expiry(self) -> int | None:
        """Return when the first of them ends, s since the epoch; None where that cannot be read."""


#: those of every listener of this process
_in_use: WeakSet[_Certificates] = WeakSet()


def renew() -> Callable[[], None]:
    """Read the certificates of all listeners anew; return what lets new connections have them.

    Raises ValueError, in one line, where one cannot be read: then all go on with what they have.
    """
    try:
        replace = [certificates.read() for certificates in tuple(_in_use)]
    except Exception as problem:
        raise ValueError(f"a certificate cannot be read: {' '.join(str(problem).split())}") from None

    def renewed() -> None:
        for one in replace:
            one()

    return renewed


def first_expiry() -> int | None:
    """Return when the first certificate of all listeners ends, s since the epoch; None where there is none."""
    expiries = (certificates.expiry() for certificates in tuple(_in_use))
    return min((expiry for expiry in expiries if expiry is not None), default=None)


def _ends(file: Path) -> list[int]:
    """Return when the certificates in a PEM file end, s since the epoch; of one that is being written there is none."""
    try:
        return [int(one.not_valid_after_utc.timestamp()) for one in load_pem_x509_certificates(file.read_bytes())]
    except (OSError, ValueError):
        return []


@implementer(IOpenSSLContextFactory)
class _Options:
    """The contexts that Twisted makes of an endpoint's certificate, hardened."""

    def __init__(self, options: Any, description: str) -> None:
        self._options = options
        self._description = description
        _in_use.add(self)

    def getContext(self) -> SSL.Context:
        return harden(self._options.getContext())

    def expiry(self) -> int | None:
        return int(self._options.certificate.to_cryptography().not_valid_after_utc.timestamp())

    def read(self) -> Callable[[], None]:
        seen = _Seen()
        serverFromString(seen, self._description).listen(Factory())
        options = seen.options
        options.getContext()

        def replace() -> None:
            self._options = options

        return replace


class _Seen:
    """A reactor that listens nowhere, and sees what it was asked to listen with."""

    options: Any = None

    def listenSSL(self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = "") -> None:
        self.options = contextFactory


@implementer(IOpenSSLServerConnectionCreator)
class _Folder:
    """Connections with the certificate of the name that is asked for, out of a folder of PEM files."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._creator = _by_name(path)
        _in_use.add(self)

    def getContext(self) -> SSL.Context:
        context: SSL.Context = self._creator.defaultContext
        return context

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self.getContext())

    def expiry(self) -> int | None:
        # The library reads the folder by itself when it changes, and says nothing of what it read.
        return min((end for file in Path(self._path).glob("*.pem") for end in _ends(file)), default=None)

    def read(self) -> Callable[[], None]:
        from twisted.protocols._sni import PEMObjects
        from twisted.python.filepath import FilePath

        # The library takes a folder without any for one that is still to be filled.
        if not PEMObjects.fromDirectory(FilePath(self._path)).inferDomainMapping():
            raise ValueError(f"{self._path} holds no certificate with its key")
        creator = _by_name(self._path)

        def replace() -> None:
            self._creator = creator

        return replace


def _by_name(path: str) -> Any:
    """Return what serves each name with its certificate out of a folder of PEM files, read anew as they change."""
    from twisted.protocols._sni import SNIConnectionCreator, autoReloadingDirectoryOfPEMs
    from twisted.python.filepath import FilePath

    lookup = autoReloadingDirectoryOfPEMs(FilePath(path))

    def hardened(name: bytes | None) -> SSL.Context | None:
        context = lookup(name)
        return None if context is None else harden(context)

    creator = SNIConnectionCreator(hardened)
    harden(creator.defaultContext)
    return creator


class _Reactor:
    """A reactor whose listeners have TLS of ours, and the PROXY protocol before it where they are ``proxied``."""

    def __init__(self, reactor: Any, proxied: bool, description: str) -> None:
        self._reactor = reactor
        self._proxied = proxied
        self._description = description

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reactor, name)

    def _wrapped(self, factory: IProtocolFactory) -> IProtocolFactory:
        if not self._proxied:
            return factory
        # Imported where a listener asks for it: the others start without it.
        from pushserver.web.proxy_protocol import ProxyFactory

        return ProxyFactory(factory)

    def secured(self, contexts: _Options | _Folder, factory: IProtocolFactory) -> IProtocolFactory:
        """Return a factory with TLS: on the socket itself where nothing comes before it."""
        if self._proxied:
            return TLSMemoryBIOFactory(contexts, False, factory, self._reactor)
        return SecureFactory(contexts, factory)

    def listenTCP(self, port: int, factory: Any, backlog: int = 50, interface: str = "") -> IListeningPort:
        listening: IListeningPort = self._reactor.listenTCP(port, self._wrapped(factory), backlog, interface)
        if isinstance(factory, SecureFactory):
            secure(listening)
        return listening

    def listenSSL(
        self, port: int, factory: Any, contextFactory: Any, backlog: int = 50, interface: str = ""
    ) -> IListeningPort:
        options = _Options(contextFactory, self._description)
        return self.listenTCP(port, self.secured(options, factory), backlog, interface)

    def listenUNIX(
        self, address: str, factory: Any, backlog: int = 50, mode: int = 0o666, wantPID: bool = False
    ) -> IListeningPort:
        listening: IListeningPort = self._reactor.listenUNIX(address, self._wrapped(factory), backlog, mode, wantPID)
        return listening

    def adoptStreamPort(self, descriptor: int, family: Any, factory: Any) -> IListeningPort:
        listening: IListeningPort = self._reactor.adoptStreamPort(descriptor, family, self._wrapped(factory))
        return listening


@implementer(IStreamServerEndpoint)
class _Named:
    """``tls:folder:port``: certificates by name."""

    def __init__(self, reactor: _Reactor, description: str, path: str) -> None:
        self._reactor = reactor
        self._endpoint = serverFromString(reactor, description)
        self._folder = _Folder(path)

    def listen(self, factory: Any) -> Any:
        return self._endpoint.listen(self._reactor.secured(self._folder, factory))


def endpoint(reactor: Any, description: str) -> Any:
    """Return the `IStreamServerEndpoint` of a description; raises ValueError and the like where it is none."""
    inner = description.removeprefix("haproxy:")
    wrapped = _Reactor(reactor, description != inner, inner)
    kind = inner.partition(":")[0]
    if kind != "tls":
        return serverFromString(wrapped, inner)
    positional, keywords = endpoint_arguments(inner)
    # Everything but the folder is as for tcp6.
    port = positional[2] if len(positional) > 2 else keywords.pop("port", "443")
    rest = [f"{name}={quoteStringArgument(value)}" for name, value in keywords.items() if name != "path"]
    path = positional[1] if len(positional) > 1 else keywords["path"]
    return _Named(wrapped, ":".join(["tcp6", port, *rest]), path)
