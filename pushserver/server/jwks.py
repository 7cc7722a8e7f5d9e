"""The public keys of an identity provider: fetched away from the reactor's thread, cached, and fetched again when a
token names a key that is not among them."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import TYPE_CHECKING, Any, Final
from urllib.request import HTTPHandler, HTTPSHandler, Request, build_opener

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread
from twisted.logger import Logger

from pushserver.core.errors import Refused, Unavailable
from pushserver.core.tokens import PUBLIC_KEY_ALGORITHMS, Keys, KeySource, unverified_header
from pushserver.server.clock import Clock

if TYPE_CHECKING:
    import socket

#: Keys are asked for anew after so many ms, and an unknown key id does so at most this often.
MAX_AGE: Final = 5 * 60 * 1000
COOLDOWN: Final = 30 * 1000
#: The same while no key is held at all, and nobody gets in.
RETRY: Final = 1_000
#: One fetch: seconds until its whole answer is here, whatever is read and in however many pieces; bytes of the answer.
TIMEOUT: Final = 10
MAX_SIZE: Final = 1 << 20


class _Received(io.RawIOBase):
    """What comes over a socket until a moment; behind it TimeoutError. A socket's own time limit begins anew with each
    byte."""

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left
        self._received = sock.makefile("rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:  # Any: what takes bytes has no public type
        left = self._left()
        if left <= 0:
            raise TimeoutError(f"no whole answer within {TIMEOUT} s")
        self._sock.settimeout(left)
        return self._received.readinto(buffer)

    def close(self) -> None:
        self._received.close()
        super().close()


def fetch(url: str, seconds: Callable[[], float]) -> bytes:
    """Get the document; blocks, so it runs in a thread. ``seconds``: a monotonic time. Raises OSError, ValueError or
    HTTPException."""
    ends = seconds() + TIMEOUT

    class Response(HTTPResponse):
        def __init__(self, sock: socket.socket, *args: Any, **named: Any) -> None:  # Any: as http.client has them
            super().__init__(sock, *args, **named)
            self.fp.close()
            self.fp = io.BufferedReader(_Received(sock, lambda: ends - seconds()))

    class Http(HTTPConnection):
        response_class = Response

    class Https(HTTPSConnection):
        response_class = Response

    class ByHttp(HTTPHandler):
        def http_open(self, request: Request) -> HTTPResponse:
            return self.do_open(Http, request)

    class ByHttps(HTTPSHandler):
        def https_open(self, request: Request) -> HTTPResponse:
            return self.do_open(Https, request)

    request = Request(url, headers={"Accept": "application/json"})
    with build_opener(ByHttp, ByHttps).open(request, timeout=TIMEOUT) as answer:
        document: bytes = answer.read(MAX_SIZE + 1)
    if len(document) > MAX_SIZE:
        raise ValueError("the key set is too large")
    return document


class _AllKeys:
    """Configured keys and fetched ones."""

    __slots__ = ("_sources",)

    def __init__(self, *sources: KeySource) -> None:
        self._sources = sources

    def candidates(
        self,
        algorithm: str,
        key_id: str | None,
    ) -> Sequence[Any]:  # Any: PyJWT's kinds of keys have no type in common
        return [key for source in self._sources for key in source.candidates(algorithm, key_id)]


class KeySet:
    """The keys behind a JWKS URL. Keys that were fetched once stay in use while the provider is away."""

    _log = Logger()

    def __init__(self, url: str, clock: Clock, fetch: Callable[[str, Callable[[], float]], bytes] = fetch) -> None:
        self.url = url
        self._clock = clock
        self._fetch = fetch
        self._keys: Keys | None = None
        #: when keys were fetched last, ms; -1: never
        self._fetched_at = -1
        self._tried_at: int | None = None
        self._waiting: list[Deferred[None]] | None = None

    async def keys_for(self, token: str, configured: Keys) -> KeySource:
        """Return keys to verify the token with.

        Raises `errors.Unavailable` where none were ever fetched, and where the token names a key that is not among them
        and the provider may not be asked, or does not answer, now: it may well have that key.
        """
        algorithm, key_id = unverified_header(token)
        if configured.candidates(algorithm, key_id) or algorithm not in PUBLIC_KEY_ALGORITHMS:
            # A key set has public keys alone: it has no key for any other token, whenever it is asked.
            return configured
        now = self._clock.milliseconds()
        wait = RETRY if self._keys is None else COOLDOWN
        may_ask = self._waiting is not None or self._tried_at is None or now - self._tried_at > wait
        if not self._has(algorithm, key_id):
            if not may_ask:
                raise Unavailable("the key of this token cannot be asked for now")
            joined = self._waiting is not None
            await self._refresh()
            if self._fetched_at < now or (joined and not self._has(algorithm, key_id)):
                # Where the fetch had begun before this token came, its key may be newer than what was fetched.
                raise Unavailable("the keys to verify tokens with cannot be had now")
        elif may_ask and now - self._fetched_at > MAX_AGE:
            # Good keys are at hand: nobody waits for newer ones.
            self._refresh()
        assert self._keys is not None
        return _AllKeys(configured, self._keys)

    def _has(self, algorithm: str, key_id: str | None) -> bool:
        return self._keys is not None and bool(self._keys.candidates(algorithm, key_id))

    def _refresh(self) -> Deferred[None]:
        """Fires when a fetch has ended, well or not. Whoever waits may be cancelled; the fetch is for all."""
        done: Deferred[None] = Deferred()
        if self._waiting is not None:
            self._waiting.append(done)
        else:
            self._waiting = [done]
            self._tried_at = self._clock.milliseconds()
            self._clock.detach(self._update(), self._log, "fetching the key set")
        return done

    async def _update(self) -> None:
        try:
            self._keys = Keys.from_jwks(await deferToThread(self._fetch, self.url, self._clock.seconds))
            self._fetched_at = self._clock.milliseconds()
        except (OSError, ValueError, HTTPException) as problem:
            self._log.warn("the key set could not be fetched: {problem}", problem=str(problem) or repr(problem))
        except Refused as problem:
            self._log.warn("the key set could not be read: {problem}", problem=problem.message)
        finally:
            waiting, self._waiting = self._waiting, None
            for waiter in waiting or ():
                if not waiter.called:
                    waiter.callback(None)
