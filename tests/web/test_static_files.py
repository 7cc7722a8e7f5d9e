"""The files that browsers get: conditions, content codings, what may be kept, and the tree that is served."""

from __future__ import annotations

import gzip
import http.client
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import pushserver
from pushserver.web.static_files import StaticFile, StaticFiles, choose_coding, holds, represent, walk
from tests.harness import ROOT, Server, start

from .test_site import ask, body

STATIC = ROOT / "pushserver" / "web" / "static"


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        ("", None),
        ("gzip", "gzip"),
        ("br", "br"),
        ("gzip, deflate, br, zstd", "br"),
        ("GZIP", "gzip"),
        ("deflate", None),
        ("*", "br"),
        ("br;q=0, *", "gzip"),
        ("br;q=0, gzip;q=0", None),
        ("gzip;q=1.0, br;q=0.5", "gzip"),
        ("br ; q=0.2 , gzip ; q=0.9", "gzip"),
        ("identity, gzip;q=0.5", None),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("gzip;q=a lot", None),
        ("gzip;q=nan, br;q=nan", None),
        ("gzip;level=9", "gzip"),
    ],
)
def test_the_coding_that_a_client_likes_best(accepted: str, chosen: str | None) -> None:
    assert choose_coding(accepted, ("br", "gzip")) == chosen


@pytest.mark.parametrize(
    ("condition", "held"),
    [("", False), ('"a"', True), ('"b"', False), ('"b", "a"', True), ('W/"a"', True), ("*", True), ("a", False)],
)
def test_what_a_client_has_already(condition: str, held: bool) -> None:
    assert holds(condition, '"a"') is held


def test_an_etag_is_of_the_octets_that_are_sent() -> None:
    assert represent(None, b"a").etag == represent("br", b"a").etag != represent(None, b"b").etag


def test_a_file_of_a_clone_is_compressed_once() -> None:
    octets = b"a line\n" * 100
    file = StaticFile("a.js", octets)
    assert file._encoded is file._encoded
    assert gzip.decompress(file._encoded["gzip"].octets) == octets


@pytest.mark.parametrize("name", ["a.js", "a.svg", "pushclient.tgz"])
def test_nothing_is_encoded_that_would_grow(name: str) -> None:
    assert StaticFile(name, b"short")._encoded == {}


def test_a_package_is_never_encoded() -> None:
    assert StaticFile("pushclient.tgz", b"a line\n" * 100)._encoded == {}


class Got(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


def get(server: Server, path: str, method: str = "GET", **headers: str) -> Got:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = start(tmp_path_factory.mktemp("static"), dev=True)
    yield running
    running.stop()


SERVED = ["/pushclient.js", "/pushclient/index.js", "/pushclient/package.json", "/pushclient.tgz", "/page/page.css"]


@pytest.mark.parametrize("path", SERVED)
def test_a_file_is_sent_once(server: Server, path: str) -> None:
    first = get(server, path)
    assert (first.status, first.headers["cache-control"]) == (200, "no-cache")
    again = get(server, path, if_none_match=first.headers["etag"])
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", first.headers["etag"])
    # A type or a length here would replace the one that the client has kept.
    assert not {"content-type", "content-length", "transfer-encoding"} & set(again.headers)
    assert get(server, path, if_none_match='"another"').body == first.body
    head = get(server, path, "HEAD")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(first.body)))
    assert head.headers["etag"] == first.headers["etag"]


def test_each_coding_is_a_representation_of_its_own(server: Server) -> None:
    plain = get(server, "/pushclient/index.js")
    zipped = get(server, "/pushclient/index.js", accept_encoding="gzip")
    assert "content-encoding" not in plain.headers
    assert zipped.headers["content-encoding"] == "gzip"
    assert gzip.decompress(zipped.body) == plain.body
    assert zipped.headers["etag"] != plain.headers["etag"]
    assert zipped.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    etag = zipped.headers["etag"]
    assert get(server, "/pushclient/index.js", accept_encoding="gzip", if_none_match=etag).status == 304
    assert get(server, "/pushclient/index.js", if_none_match=etag).status == 200


def test_other_origins_may_read_the_client_and_nothing_else(server: Server) -> None:
    for path in SERVED:
        shared = get(server, path).headers.get("access-control-allow-origin")
        assert shared == ("*" if path.startswith("/pushclient") else None), path


def test_a_folder_is_no_file(server: Server) -> None:
    for path in ("/pushclient", "/pushclient/", "/page", "/pushclient/../pushclient.js", "/pushclient/nothing.js"):
        assert get(server, path).status == 404, path


def test_the_package_of_a_clone_holds_its_sources(server: Server) -> None:
    answer = get(server, "/pushclient.tgz")
    assert answer.headers["content-type"] == "application/gzip"
    with tarfile.open(fileobj=io.BytesIO(answer.body), mode="r:gz") as opened:
        names = {name.removeprefix("package/") for name in opened.getnames()}
        manifest = json.load(opened.extractfile("package/package.json"))  # type: ignore[arg-type]
    assert names == {str(path.relative_to(STATIC / "pushclient")) for path in (STATIC / "pushclient").rglob("*.*")}
    assert (manifest["name"], manifest["version"]) == ("pushclient", pushserver.__version__)


def test_every_node_gives_the_same_package(server: Server, start_server: Callable[..., Server]) -> None:
    assert get(start_server(dev=True), "/pushclient.tgz").body == get(server, "/pushclient.tgz").body


@pytest.fixture
def built(tmp_path: Path) -> StaticFiles:
    """A tree as `make dist` leaves it."""
    files = {
        "pushclient.js": b"short",
        "pushclient.tgz": b"the package",
        "pushclient/index.js": b"a line\n" * 100,
        "pushclient/index.js.br": b"as brotli",
        "pushclient/index.js.gz": b"as gzip",
        "pushclient/chunks/ABCDEFGH.js": b"hashed",
    }
    for path, octets in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(octets)
    return StaticFiles(tmp_path)


def asked(resource: Any, *path: bytes, accept: str = "") -> Any:
    for name in path:
        resource = resource.children[name]
    resource.render_GET(request := _request(accept))
    return request


def _request(accept: str) -> Any:
    from twisted.web.test.requesthelper import DummyRequest

    request: Any = DummyRequest([])
    request.requestHeaders.setRawHeaders("accept-encoding", [accept])
    return request


def header(request: Any, name: str) -> str | None:
    values = request.responseHeaders.getRawHeaders(name)
    return values[0] if values else None


def test_what_was_built_is_served_as_it_was_encoded(built: StaticFiles) -> None:
    folder = built.folder("pushclient", public=True)
    file = folder.children[b"index.js"]
    for accept, coding, octets in (("br", "br", b"as brotli"), ("gzip", "gzip", b"as gzip"), ("", None, None)):
        request = _request(accept)
        sent = file.render_GET(request)
        assert header(request, "content-encoding") == coding
        assert sent == (octets or b"a line\n" * 100)
    assert set(folder.children) == {b"index.js", b"chunks"}


def test_a_name_that_holds_a_hash_is_kept_for_good(built: StaticFiles) -> None:
    folder = built.folder("pushclient", public=True)
    assert header(asked(folder, b"chunks", b"ABCDEFGH.js"), "cache-control") == "public, max-age=31536000, immutable"
    assert header(asked(folder, b"index.js"), "cache-control") == "no-cache"


def test_the_package_that_was_built_is_the_one_that_is_given(built: StaticFiles) -> None:
    assert body(ask(built.npm_package())) == b"the package"


def test_what_only_encodes_another_file_is_no_file_of_its_own(built: StaticFiles, tmp_path: Path) -> None:
    assert dict(walk(tmp_path / "pushclient")) == {
        "index.js": b"a line\n" * 100,
        "chunks/ABCDEFGH.js": b"hashed",
    }
