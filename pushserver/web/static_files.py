"""The files that browsers get: the page, the browser client and its npm package.

    dist/      what `make dist` made of them: bundled, minified, each with its .gz and .br; in every wheel and sdist
    static/    the sources, which a clone serves as they are, compressed at their first use

Every file has a strong ETag and is asked for again by it; a name that holds a hash of its content (all in
``chunks/``) is kept for good.
"""

from __future__ import annotations

import gzip
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from hashlib import sha256
from html import escape
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any, Final, NamedTuple

from twisted.web.http import NOT_MODIFIED
from twisted.web.server import NOT_DONE_YET, Request

from pushserver.core.channels import is_id
from pushserver.core.errors import Invalid, NotFound
from pushserver.web.http import argument, respond_error
from pushserver.web.npm_package import archive
from pushserver.web.site import ReadOnly

#: Nothing from elsewhere runs or loads on our page, and nobody frames it.
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self' ws: wss:; "
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_TYPES: Final = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "cjs": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "svg": "image/svg+xml",
    "json": "application/json",
    "map": "application/json",
    "ts": "text/plain; charset=utf-8",
    "cts": "text/plain; charset=utf-8",
    "md": "text/plain; charset=utf-8",
    "tgz": "application/gzip",
}

#: The content codings that we have (RFC 9110 section 8.4.1), the better first, and how the files end that hold them.
CODINGS: Final = {"br": ".br", "gzip": ".gz"}

#: The folder whose names hold a hash of the content.
HASHED: Final = "chunks"

#: What every answer with a file says beside the file.
_PROTECTION: Final = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

_ASK_AGAIN: Final = "no-cache"
_FOR_GOOD: Final = "public, max-age=31536000, immutable"


class Representation(NamedTuple):
    """A file's octets in one content coding (None: as they are), and their strong ETag."""

    coding: str | None
    octets: bytes
    etag: str


def represent(coding: str | None, octets: bytes) -> Representation:
    digest = urlsafe_b64encode(sha256(octets).digest()[:15]).decode()
    return Representation(coding, octets, f'"{digest}"')


def choose_coding(accepted: str, available: Sequence[str]) -> str | None:
    """Return which of the available codings an Accept-Encoding likes best, of equals the first; None: as it is.

    RFC 9110 section 12.5.3. A weight that cannot be read counts as 0.
    """
    weights: dict[str, float] = {}
    for item in accepted.split(","):
        coding, _, parameter = item.partition(";")
        name, _, value = parameter.partition("=")
        weight = 1.0
        if name.strip().lower() == "q":
            try:
                weight = float(value)
            except ValueError:
                weight = 0.0
        weights[coding.strip().lower()] = weight
    best, most = None, weights.get("identity", 0.0)
    for coding in available:
        weight = weights.get(coding, weights.get("*", 0.0))
        if weight > 0 and (weight > most or (best is None and weight == most)):
            best, most = coding, weight
    return best


def holds(condition: str, etag: str) -> bool:
    """Whether an If-None-Match names this ETag, so that the client has the octets already (RFC 9110 section 13.1.2)."""
    return any(tag.strip().removeprefix("W/") in (etag, "*") for tag in condition.split(","))


class StaticFile(ReadOnly):
    """A file, small and held in memory.

    Args:
        name: its ending says the content type.
        encoded: its octets in content codings, by coding; where there are none, gzip is made at the first use.
        public: whether pages of other origins may read it; it says nothing of this server then.
        immutable: whether its name holds a hash of its content.
    """

    isLeaf = True

    def __init__(
        self,
        name: str,
        octets: bytes,
        encoded: Mapping[str, bytes] | None = None,
        *,
        public: bool = False,
        immutable: bool = False,
    ) -> None:
        super().__init__()
        self._plain = represent(None, octets)
        self._built = encoded
        self._type = _TYPES.get(name.rpartition(".")[2], "application/octet-stream")
        self._headers = {**_PROTECTION, "cache-control": _FOR_GOOD if immutable else _ASK_AGAIN}
        if public:
            self._headers["access-control-allow-origin"] = "*"

    @cached_property
    def _encoded(self) -> dict[str, Representation]:
        encoded = self._built
        if encoded is None and self._type != _TYPES["tgz"]:
            encoded = {"gzip": gzip.compress(self._plain.octets, 9, mtime=0)}
        return {
            coding: represent(coding, octets)
            for coding, octets in (encoded or {}).items()
            if len(octets) < len(self._plain.octets)
        }

    def render_GET(self, request: Request) -> Any:
        for name, value in self._headers.items():
            request.setHeader(name, value)
        chosen = self._plain
        if self._encoded:
            request.setHeader("vary", "accept-encoding")
            coding = choose_coding(_header(request, "accept-encoding"), tuple(self._encoded))
            if coding is not None:
                chosen = self._encoded[coding]
        request.setHeader("etag", chosen.etag)
        if holds(_header(request, "if-none-match"), chosen.etag):
            # Without type and length: the client keeps those of the answer that it has (RFC 9110 section 15.4.5).
            request.responseHeaders.removeHeader("content-type")
            request.setResponseCode(NOT_MODIFIED)
            request.finish()
            return NOT_DONE_YET
        request.setHeader("content-type", self._type)
        if chosen.coding is not None:
            request.setHeader("content-encoding", chosen.coding)
        return chosen.octets


def _header(request: Request, name: str) -> str:
    return ", ".join(request.requestHeaders.getRawHeaders(name, ()))


class Page(ReadOnly):
    """The page: where its WebSocket is, and in development mode a fresh token for whoever it is asked to be.

    Args:
        socket: the WebSocket's path.
        issue: makes a token for a user id; None outside development mode, where the page asks for one.
    """

    isLeaf = True

    #: Who the page is in development mode, where the address does not say ``?user=``.
    USER: Final = "demo"

    def __init__(self, socket: str, issue: Callable[[str], str] | None) -> None:
        super().__init__()
        self._template = _SOURCES.joinpath("index.html").read_text(encoding="utf-8")
        self._socket = socket
        self._issue = issue

    def render_GET(self, request: Request) -> Any:
        token = ""
        if self._issue is not None:
            user = argument(request, "user") or self.USER
            if not is_id(user):
                respond_error(request, Invalid("user must be 1 to 200 of the characters of an id"))
                return NOT_DONE_YET
            token = self._issue(user)
        mode = "production" if self._issue is None else "development"
        page = self._template
        for name, value in {"mode": mode, "socket": self._socket, "token": token}.items():
            page = page.replace(f"{{{{{name}}}}}", escape(value))
        for name, value in {**_PROTECTION, "cache-control": "no-store", "content-type": _TYPES["html"]}.items():
            request.setHeader(name, value)
        return page.encode()


class Folder(ReadOnly):
    """A folder of files."""

    def render_GET(self, request: Request) -> Any:
        respond_error(request, NotFound("nothing here"))
        return NOT_DONE_YET


_SOURCES: Final = files("pushserver.web").joinpath("static")
_BUILT: Final = files("pushserver.web").joinpath("dist")


class StaticFiles:
    """The tree of the files: what was built, or where nothing was, the sources."""

    def __init__(self, root: Traversable | None = None) -> None:
        self._root = root if root is not None else _BUILT if _BUILT.is_dir() else _SOURCES

    def file(self, name: str, *, public: bool = False) -> StaticFile:
        """Return a file of the root."""
        return _read(self._root, name, public=public)

    def operators(self) -> StaticFile:
        """Return the operators' page: the same for everybody, since it asks for a key."""
        return _read(_SOURCES, "operators.html", public=False)

    def folder(self, name: str, *, public: bool = False) -> Folder:
        """Return a folder of the root, with all that is in it."""
        return _read_folder(self._root.joinpath(name), public)

    def npm_package(self) -> StaticFile:
        """Return the npm package of the browser client: the one that was built, or one of the sources."""
        built = self._root.joinpath("pushclient.tgz")
        octets = built.read_bytes() if built.is_file() else archive(walk(self._root.joinpath("pushclient")))
        return StaticFile("pushclient.tgz", octets, public=True)


def walk(folder: Traversable, above: str = "") -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each file below a folder, but for what only encodes another."""
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from walk(entry, f"{above}{entry.name}/")
        elif not _is_encoded(entry.name):
            yield above + entry.name, entry.read_bytes()


def _is_encoded(name: str) -> bool:
    return name.endswith(tuple(CODINGS.values()))


def _read_folder(folder: Traversable, public: bool) -> Folder:
    resource = Folder()
    for entry in folder.iterdir():
        if entry.is_dir():
            resource.putChild(entry.name.encode(), _read_folder(entry, public))
        elif not _is_encoded(entry.name):
            resource.putChild(entry.name.encode(), _read(folder, entry.name, public=public))
    return resource


def _read(folder: Traversable, name: str, *, public: bool) -> StaticFile:
    encoded = {coding: folder.joinpath(name + ending) for coding, ending in CODINGS.items()}
    built = {coding: path.read_bytes() for coding, path in encoded.items() if path.is_file()}
    octets = folder.joinpath(name).read_bytes()
    return StaticFile(name, octets, built or None, public=public, immutable=folder.name == HASHED)
