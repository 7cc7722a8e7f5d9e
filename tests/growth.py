"""Everything that takes text from outside apart: each pattern, parser, redaction and glob, with its worst texts.

`PARSERS` is the registry. `acts` finds in the source what has to stand in it: every regular expression of the package,
and every function of the doors and of the protocols that takes a text apart. `excess` tells whether the work grows
faster than the text.
"""

from __future__ import annotations

import ast
import gc
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec

from pushserver.config import values
from pushserver.core import channels, events, output, permissions, publication, tokens
from pushserver.core.errors import PushError
from pushserver.core.message_types import may_send
from pushserver.core.rate_limit import KeyedTokenBuckets, Rates
from pushserver.manhole import tables, tracing
from pushserver.protocols import rfc6455
from pushserver.protocols.centrifuge import server_api
from pushserver.protocols.centrifuge.framing import line
from pushserver.protocols.centrifuge.json import JsonCodec
from pushserver.protocols.centrifuge.messages import payload
from pushserver.protocols.centrifuge.protobuf import ProtobufCodec, varint
from pushserver.protocols.centrifuge.protocol import CentrifugeEndpoint, StreamProtocols
from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.protocols.centrifuge.session import Rules
from pushserver.protocols.centrifuge.session import _bearer as bearer
from pushserver.protocols.native import messages
from pushserver.protocols.native.framing import SUBPROTOCOL
from pushserver.server import backend_commands
from pushserver.web import (
    admission,
    api,
    centrifuge_api,
    emulation,
    event_ids,
    handshake,
    known_heads,
    places,
    port,
    proxy_protocol,
    static_files,
    tickets,
)

#: Sizes of the texts, in bytes: from one that is measurable on, doubled up to 1 MiB.
SIZES = tuple(1 << power for power in range(14, 21))
#: Twice the text may take so many times as long, on average of two doublings.
FACTOR = 2.5
#: Work below so many seconds is too quick to be compared: what grows too fast takes far longer at 1 MiB.
QUICK = 0.005
#: So often a text is tried again whose work seems to grow too fast.
PATIENCE = 12

#: What a function does that takes a text apart.
ACTS = frozenset(
    {
        "split", "rsplit", "partition", "rpartition", "splitlines", "find", "rfind", "finditer", "findall", "fullmatch",
        "match", "search", "sub", "b64decode", "urlsafe_b64decode", "urlsplit", "parse_qs", "ip_address",
    }
)  # fmt: skip
#: Where each function that does so must be registered.
DOORS = ("web", "protocols")

Text = Callable[[int], bytes]


class Parser(NamedTuple):
    """One way in: what it covers, as ``module.function`` or ``module.PATTERN``, and the texts that are worst for it."""

    covers: tuple[str, ...]
    parse: Callable[[bytes], Any]
    texts: tuple[Text, ...]


def repeat(unit: bytes, before: bytes = b"", after: bytes = b"") -> Text:
    """A text of about a size that says the same again and again."""
    return lambda size: before + unit * max(1, (size - len(before) - len(after)) // len(unit)) + after


def _quietly(parse: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """What is refused has been read, too."""

    def call(text: Any) -> Any:
        try:
            return parse(text)
        except (PushError, values.InvalidValue, ValueError, RecursionError):
            return None

    return call


def _latin(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    quiet = _quietly(parse)
    return lambda octets: quiet(octets.decode("latin-1"))


class _Request:
    """A request as far as the parsers look at one."""

    def __init__(self, headers: dict[str, str], path: bytes = b"/") -> None:
        self._headers = headers
        self.path = path

    def getHeader(self, name: str) -> str | None:
        return self._headers.get(name)


def _admission(**named: Any) -> admission.Admission:
    settings: dict[str, Any] = {
        "allowed_origins": ["https://example.com"],
        "trusted_proxies": ["10.0.0.0/8"],
        "loopback_only": False,
        "max_connections": 1,
        "open_now": lambda: 0,
        "connects": KeyedTokenBuckets(0),
        "now": lambda: 0,
    }
    return admission.Admission(**settings | named)


_ADMISSION = _admission()
_RULES = Rules(names=ChannelNames("{id}"), anonymous=False, ping=1)
_ENDPOINT = CentrifugeEndpoint("/c", Rates(0, 0, 0), _RULES, 1)
_TICKETS = tickets.Tickets(bytes(32), 1)
_HEAD = port.Head("GET", "/ws", {"upgrade": "websocket", "connection": "upgrade"})


def _offer(name: str) -> Callable[[str], Any]:
    fixed = {
        "upgrade": "websocket",
        "connection": "upgrade",
        "sec-websocket-version": "13",
        "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==",
    }
    return lambda text: handshake.Offer(port.Head("GET", "/ws", fixed | {name: text}), True, (SUBPROTOCOL,))


_JSON = (
    repeat(b'\\"', b'{"type":"ping","data":' + b"[]" * 513 + b'"'),
    repeat(b"[", b'{"type":"ping","data":'),
    repeat(b"[]", b'{"type":"ping","data":'),
    repeat(b'"a":1,', b'{"type":"ping","data":{', b'"b":2}}'),
    repeat(b"9", b'{"type":"ping","data":{"n":', b"}}"),
    repeat(b"\\u0061", b'{"type":"', b'"}'),
    repeat(b"\xc3"),
)
_NAMES = (repeat(b"a"), repeat(b":"), repeat(b"*"), repeat(b"a:"), repeat(b"!\x00"))
_LISTS = (repeat(b","), repeat(b"a,"), repeat(b" "), repeat(b"10.0.0.1,"), repeat(b"[,"), repeat(b":"))


def _subs(size: int) -> bytes:
    """A connect command that asks for as many channels as have room."""
    subs = (b"\x1a\x7f\x12\x7d" + b"\x0a\x7b" + b"a" * 123) * (size // 129)
    request = b"\x22" + varint(len(subs)) + subs
    return varint(len(request)) + request


PARSERS: dict[str, Parser] = {
    "nesting": Parser(("core.publication._brackets", "core.publication.too_deep"), publication.too_deep, _JSON),
    "message": Parser(("protocols.native.messages.decode",), _quietly(messages.decode), _JSON),
    "commands in JSON": Parser(
        ("protocols.centrifuge.json.JsonCodec.commands",),
        _quietly(JsonCodec().commands),
        (
            repeat(b"{}" + b" " * 200 + b"\n"),
            repeat(b" ", b"{}\n"),
            repeat(b"[", b'{"id":'),
            repeat(b"9", b'{"id":', b"}"),
        ),
    ),
    "commands in Protobuf": Parser((), _quietly(ProtobufCodec().commands), (repeat(b"\x80"), _subs)),
    "commands as they are shown": Parser(
        ("protocols.centrifuge.json.JsonCodec.readable",),
        _quietly(lambda octets: JsonCodec().readable(octets, True)),
        (repeat(b"\n"), repeat(b"{}\n"), repeat(b" ")),
    ),
    "Protobuf as it is shown": Parser(
        (), _quietly(lambda octets: ProtobufCodec().readable(octets, True)), (repeat(b"\0"), repeat(b"\x80"), _subs)
    ),
    "emulation request in JSON": Parser(
        ("protocols.centrifuge.json.JsonCodec.emulation_request",),
        _quietly(JsonCodec().emulation_request),
        (
            repeat(b"{}" + b" " * 200),
            repeat(b"[", b'{"data":'),
            repeat(b'\\"', b'{"data":"', b'"}'),
            repeat(b'"a":1,', b"{"),
        ),
    ),
    "emulation request in Protobuf": Parser(
        (), _quietly(ProtobufCodec().emulation_request), (repeat(b"\x80"), repeat(b"\x0a\x01a"), repeat(b"\x1a\0"))
    ),
    "session of a stream": Parser(
        ("web.emulation.is_session",),
        _latin(lambda text: emulation.is_session(_TICKETS, "n", text)),
        (repeat(b"a"), repeat(b"."), repeat(b"\xff")),
    ),
    "codec of a stream": Parser(
        ("protocols.centrifuge.protocol.StreamProtocols.of",),
        _latin(StreamProtocols(Rates(0, 0, 0), _RULES).of),
        (repeat(b";"), repeat(b" "), repeat(b"a")),
    ),
    "line of a stream": Parser(
        ("protocols.centrifuge.framing._BEYOND_ASCII", "protocols.centrifuge.framing.line"),
        _quietly(line),
        (repeat("é".encode()), repeat("éa".encode()), repeat("\U0001f600".encode())),
    ),
    "data of a command": Parser((), _quietly(lambda octets: payload(msgspec.Raw(octets))), _JSON[:3]),
    "protocol of a query": Parser(
        ("protocols.centrifuge.protocol.CentrifugeEndpoint.choose",),
        _latin(lambda text: _ENDPOINT.choose(None, text)),
        (repeat(b"&"), repeat(b"format=protobuf&"), repeat(b"a")),
    ),
    "token among headers": Parser(
        ("protocols.centrifuge.session._bearer",),
        _latin(lambda text: bearer({"authorization": text})),
        (repeat(b" ", b"Bearer"), repeat(b"a", b"Bearer ")),
    ),
    "publication": Parser(("core.publication.decode",), _quietly(publication.decode), _JSON),
    "command": Parser(
        ("server.backend_commands.decode",),
        _quietly(lambda octets: backend_commands.decode(octets, backend_commands.CommandBatch)),
        _JSON,
    ),
    "type": Parser(
        ("core.publication.TYPE", "core.message_types.may_send"),
        _latin(lambda text: may_send(text, server_side=True)),
        _NAMES,
    ),
    "text frames": Parser(
        (),
        lambda octets: rfc6455.take_messages(octets, 0, rfc6455.TEXT, 1 << 20, 1 << 20),
        (repeat(b"\x81\x80aaaa"), repeat(b"\x81\x84aaaabbbb"), repeat(b"\x81")),
    ),
    "name": Parser(
        (
            "core.channels._channel_match",
            "core.channels._id_match",
            "core.channels._namespace_match",
            "core.output._name_match",
        ),
        _latin(
            lambda text: (
                channels.is_channel(text),
                channels.is_id(text),
                channels.is_namespace_name(text),
                output.is_output_name(text),
            )
        ),
        _NAMES,
    ),
    "glob": Parser(
        ("core.permissions._glob_match",),
        _latin(lambda text: permissions.Grants.parse([f"subscribe:{text}"], [text], [])),
        (*_NAMES, repeat(b"*a")),
    ),
    "glob against a name": Parser(
        (), _latin(lambda text: permissions.matcher("a*a*a*b" * 30)(text)), (repeat(b"a"), repeat(b"ab"), repeat(b"b"))
    ),
    "token": Parser(
        ("core.tokens.unverified_header",),
        _latin(lambda text: tokens.verify(text, tokens.Keys("k" * 64), tokens.TokenRules(), 0)),
        (repeat(b"eyJ"), repeat(b"."), repeat(b"a", b"eyJhbGciOiJIUzI1NiJ9.", b".c2ln"), repeat(b"a", after=b"..")),
    ),
    "ticket": Parser(
        ("web.tickets.Tickets.read",),
        _latin(lambda text: tickets.Tickets(bytes(32), 1000).read(text, 0)),
        (repeat(b"."), repeat(b"a", b"eyJhbGciOiJIUzI1NiJ9.", b".c2ln")),
    ),
    "redaction": Parser(
        ("manhole.tracing._SEGMENTS", "manhole.tracing.without_tokens"),
        _latin(tracing.without_tokens),
        (repeat(b"eyJ"), repeat(b"eyJ."), repeat(b"."), repeat(b"-_"), repeat(b"eyJ.a.a "), repeat(b"eyJ.eyJ ")),
    ),
    "what is shown": Parser(("manhole.tracing.shown",), tracing.shown, (*_JSON, repeat(b"eyJ", b'"', b'"'))),
    "terminal": Parser((), _latin(tables.printable), (repeat(b"\x1b["), repeat(b"a"))),
    "accept": Parser(
        ("web.api.prefers_text",),
        _latin(api.prefers_text),
        (repeat(b","), repeat(b" "), repeat(b"a/b;q=1,"), repeat(b"a/b,", after=b"text/plain")),
    ),
    "head": Parser(
        ("web.port.parse_head", "web.port.Head.path", "web.port.Head.query", "web.port._METHOD", "web.port._FIELDS"),
        _quietly(port.parse_head),
        (
            repeat(b"a: b\r\n", b"GET / HTTP/1.1\r\n"),
            repeat(b"a", b"GET /", b" HTTP/1.1"),
            repeat(b" ", b"GET / HTTP/1.1\r\na:"),
            repeat(b":", b"GET / HTTP/1.1\r\n"),
            repeat(b" ", b"GET"),
            repeat(b"\r\n"),
            repeat(b"\r"),
        ),
    ),
    "repeated head": Parser(
        ("web.known_heads.take_apart", "web.known_heads._LENGTH"),
        known_heads.take_apart,
        (
            repeat(b"\r\n", b"POST / HTTP/1.1"),
            repeat(b"\r\ncontent-length: 1"),
            repeat(b"9", b"\r\ncontent-length: "),
            repeat(b"\r", b"\r\nContent-Length: 9\r\n"),
        ),
    ),
    "bare head": Parser(
        ("web.known_heads.is_bare_head",),
        known_heads.is_bare_head,
        (repeat(b"\r\n", b"POST / HTTP/1.1"), repeat(b"\r"), repeat(b"a: b\r\n\r\n")),
    ),
    "proxy header": Parser(
        ("web.proxy_protocol.header_size", "web.proxy_protocol._check"),
        proxy_protocol.header_size,
        (repeat(b" ", b"PROXY"), repeat(b"\r", b"PROXY "), repeat(b"x")),
    ),
    "absolute target": Parser(
        ("web.port.origin_form", "web.port.check_hosts"),
        _latin(lambda text: (port.check_hosts([text], "HTTP/1.1"), port.origin_form(text, "a"))),
        (repeat(b"a", b"http://"), repeat(b"/", b"http:"), repeat(b"?", b"http://a"), repeat(b"[")),
    ),
    "address": Parser(
        ("web.places.plain_address", "web.places.place_of"),
        _latin(lambda text: (places.plain_address.__wrapped__(text), places.place_of.__wrapped__(text))),
        (repeat(b":"), repeat(b"f:"), repeat(b"1."), repeat(b"%", b"::1")),
    ),
    "extensions": Parser(
        ("web.handshake.agree", "web.handshake._windows", "web.handshake._words"),
        _latin(handshake.agree),
        (
            repeat(b"permessage-deflate;x,"),
            repeat(b"permessage-deflate;server_max_window_bits=8,"),
            repeat(b";", b"permessage-deflate"),
            repeat(b'="', b"permessage-deflate;a"),
            *_LISTS,
        ),
    ),
    "subprotocols": Parser(
        ("web.handshake.Offer.__init__",),
        _latin(_offer("sec-websocket-protocol")),
        (repeat(b"bearer.x,"), repeat(b"a", b"pushserver.v1.json, bearer."), *_LISTS),
    ),
    "authorization": Parser((), _latin(_offer("authorization")), (repeat(b" ", b"Bearer"), repeat(b"a", b"Bearer "))),
    "websocket key": Parser(
        ("web.handshake._check",), _latin(_offer("sec-websocket-key")), (repeat(b"A"), repeat(b"="), repeat(b" "))
    ),
    "hops": Parser(
        ("web.admission.Admission.address", "web.admission.Admission._trusted", "web.admission._bare"),
        _latin(lambda text: _ADMISSION.address("10.0.0.1", {"x-forwarded-for": text})),
        (*_LISTS, repeat(b"10.0.0.1 ,")),
    ),
    "forwarded host": Parser(
        ("web.admission.Admission.host", "web.admission._split_port"),
        _latin(lambda text: _admission(loopback_only=True).check_host("10.0.0.1", {"x-forwarded-host": text})),
        _LISTS,
    ),
    "origin": Parser(
        ("web.admission.Admission.allows_origin", "web.admission._origin", "web.admission._parts"),
        _latin(lambda text: _ADMISSION.allows_origin("192.0.2.1", {"host": "a", "origin": text})),
        (repeat(b"a", b"https://"), repeat(b"@", b"https://"), repeat(b"["), repeat(b":", b"https://"), repeat(b"/")),
    ),
    "local": Parser(
        ("web.admission.Admission.is_local", "web.admission._is_loopback_name"),
        _latin(lambda text: _ADMISSION.is_local("127.0.0.1", {"host": text})),
        _LISTS,
    ),
    "api key": Parser(
        ("web.api.ApiKeys.given",),
        _latin(lambda text: _keys().scopes(cast(Any, _Request({"authorization": text})))),
        (repeat(b" ", b"Bearer"), repeat(b"a", b"Bearer "), repeat(b"\xff", b"Bearer ")),
    ),
    "commands of a body, one on each line": Parser(
        ("web.centrifuge_api._commands",),
        _quietly(lambda octets: list(centrifuge_api._commands(octets))),
        (*_JSON, repeat(b"{}\n"), repeat(b"\n"), repeat(b" \n"), repeat(b" ")),
    ),
    "data in Base64": Parser(
        ("protocols.centrifuge.server_api.json_of",),
        _latin(lambda text: server_api.json_of(server_api.ABSENT, text, "data")),
        (repeat(b"A"), repeat(b"="), repeat(b"!"), repeat(b"WzFd"), repeat(b"W1tb")),
    ),
    "event id": Parser(
        ("web.event_ids.positions_of", "web.event_ids._read"),
        _latin(lambda text: event_ids.positions_of(text, ["a", "b"])),
        (repeat(b"A"), repeat(b"W1tb"), repeat(b"="), repeat(b"-_")),
    ),
    "accepted codings": Parser(
        ("web.static_files.choose_coding",),
        _latin(lambda text: static_files.choose_coding(text, ("br", "gzip"))),
        (*_LISTS, repeat(b";q=1,"), repeat(b"="), repeat(b"9", b"br;q=")),
    ),
    "known versions": Parser(
        ("web.static_files.holds",),
        _latin(lambda text: static_files.holds(text, '"a"')),
        (*_LISTS, repeat(b'W/"a",'), repeat(b'"')),
    ),
    "id of an event": Parser(
        ("core.events._ID",),
        _quietly(lambda text: events.number_of(text.decode("latin-1"))),
        (repeat(b"9"), repeat(b"-"), repeat(b"9-"), repeat(b"a", b"1-2-")),
    ),
    "duration": Parser(
        ("core.durations._match",),
        _latin(values.duration(0).read),
        (repeat(b"9"), repeat(b"9", after=b"s"), repeat(b"9.")),
    ),
}


def _keys() -> Any:
    from pushserver.web.api import ApiKeys

    return ApiKeys([("a key of sixteen characters", ("read",), "", ())])


#: What takes a text apart that nobody outside wrote, and who did.
NOT_FROM_OUTSIDE: dict[str, str] = {
    "config.loader._syntax.match": "the TOML reader's own words",
    "config.loader._word": "the operator's file",
    "config.values.text.compiled": "the operator's file",
    "config.values.shown.plain": "the operator's file",
    "config.values._origin": "the operator's file",
    "config.values._redis_url": "the operator's file",
    "config.values._api_key": "the operator's file",
    "app.dev._with_port": "the operator's file",
    "core.tokens._PEM_BLOCK": "the operator's key file",
    "protocols.centrifuge.pushes.ChannelNames.__init__": "the operator's file",
    "engine.redis.scripts._shapes": "letters for the parts of a reply, each of its type alone",
    "client.tx_link._STATUS": "the WebSocket library's own words",
    "web.tls.endpoint": "the operator's file",
    "web.tls.renew": "the TLS library's own words",
    "web.static_files.StaticFile.__init__": "the package's own file names",
    "web.site.Root.place": "paths of the server itself",
    "web.site.Root.take_bodies": "paths of the server itself",
}

#: What takes apart a piece that something else, which is registered, has bounded or cut out.
BOUNDED: dict[str, str] = {
    "web.port.PortProtocol.dataReceived": "looks only at what is new, up to MAX_HEAD: tests/web/test_port.py",
    "web.http.bearer_of": "a head of at most MAX_HEAD, cut at one place",
    "web.sse._credential": "a head of at most MAX_HEAD, cut at one place",
    "web.site.Root.allow": "a target of at most MAX_HEAD, cut at slashes",
    "web.sse.EventStreams._open": "a head of at most MAX_HEAD, cut at commas",
}


def acts(module: str, source: str) -> Iterator[str]:
    """The names in a module that take texts apart: patterns everywhere, functions at the doors."""
    doors = module.partition(".")[0] in DOORS

    def walk(node: ast.AST, place: tuple[str, ...]) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            inside = place
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inside = (*place, child.name)
            elif isinstance(child, ast.Assign | ast.AnnAssign) and child.value is not None and _patterns(child.value):
                target = child.targets[0] if isinstance(child, ast.Assign) else child.target
                yield ".".join((module, *place, ast.unparse(target)))
                continue
            elif isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute | ast.Name):
                name = child.func.attr if isinstance(child.func, ast.Attribute) else child.func.id
                if _patterns(child.func) or (doors and name in ACTS):
                    yield ".".join((module, *place))
            yield from walk(child, inside)

    yield from walk(ast.parse(source), ())


def _patterns(node: ast.AST) -> bool:
    """Whether a function of `re` is called or named in it."""
    return any(
        isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name) and part.value.id == "re"
        for part in ast.walk(node)
    )


def unregistered(root: Path) -> set[str]:
    """What takes a text apart and stands in no list here."""
    known = {name for parser in PARSERS.values() for name in parser.covers} | set(NOT_FROM_OUTSIDE) | set(BOUNDED)
    found: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        module = ".".join(path.relative_to(root).with_suffix("").parts)
        found |= set(acts(module, path.read_text()))
    return found - known


def registered_in_vain(root: Path) -> set[str]:
    """What stands in the lists and is no longer in the source."""
    found: set[str] = set()
    for name in {name for parser in PARSERS.values() for name in parser.covers} | set(NOT_FROM_OUTSIDE) | set(BOUNDED):
        parts = name.split(".")
        modules = (root.joinpath(*parts[:n]).with_suffix(".py") for n in range(len(parts), 0, -1))
        path = next((module for module in modules if module.exists()), None)
        if path is None or parts[-1] not in path.read_text():
            found.add(name)
    return found


def seconds(parse: Callable[[bytes], Any], text: bytes, times: int) -> float:
    """The processor time of the quickest of several calls: what else runs on the machine makes some slower, none
    quicker. What measures coverage would be measured too, so it rests meanwhile."""
    best = float("inf")
    tracing = sys.gettrace()
    sys.settrace(None)
    gc.disable()
    try:
        for _ in range(times):
            begin = time.thread_time()
            parse(text)
            best = min(best, time.thread_time() - begin)
    finally:
        gc.enable()
        sys.settrace(tracing)
    return best


def excess(parser: Parser, text: Text, sizes: tuple[int, ...] = SIZES) -> str | None:
    """What was seen where the work grows faster than the text; None where it does not. Each size is compared with a
    quarter of it: what is only noise between two sizes does not last over two doublings, and too fast a growth does."""
    took: dict[int, float] = {}
    for size in sizes:
        longer = text(size)
        took[size] = seconds(parser.parse, longer, 1)
        before = took.get(size // 4, 0.0)
        if before <= QUICK or took[size] <= FACTOR**2 * before:
            continue
        # Again, with patience: only what is slow each time is slow. Four of the shorter are as much work as the longer,
        # so what else runs on the machine meets both alike.
        shorter = text(size // 4)
        for _ in range(PATIENCE):
            before = sum(seconds(parser.parse, shorter, 1) for _ in range(4)) / 4
            took[size] = seconds(parser.parse, longer, 1)
            if took[size] <= FACTOR**2 * before:
                break
        else:
            return f"{size} bytes of {longer[:30]!r}… took {took[size]:.4f} s, a quarter of it {before:.4f} s"
    return None
