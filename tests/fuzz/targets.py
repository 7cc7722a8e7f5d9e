"""What is fuzzed: one target for each parser of what comes from outside, with the texts that it begins with.

A target takes any octets. It returns where they are taken, or refused as they should be; whatever it raises, and
whatever the code under it logs as a failure, is a fault. Each also checks something that must hold of what was read.
"""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, NamedTuple

import msgspec
from twisted.internet import task
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, globalLogPublisher

from pushserver.config.checks import checked
from pushserver.config.loader import RawConfig
from pushserver.config.sections import AuthSection, DeliverySection, ServerSection
from pushserver.core import effects, operations, output, publication
from pushserver.core import task as tasks
from pushserver.core.channels import Namespaces
from pushserver.core.errors import ConfigError, Invalid, PushError, Refused
from pushserver.core.output import NewOutput, OutputKind, Producer
from pushserver.core.positions import Position
from pushserver.core.rate_limit import KeyedTokenBuckets, Rates
from pushserver.core.task import TaskState
from pushserver.engine.interfaces import OutputTaken, PublishResult
from pushserver.engine.redis import ingest
from pushserver.engine.redis.cluster import RedisCluster
from pushserver.engine.redis.feeds import ChannelFeed, ChannelFeeds
from pushserver.engine.redis.live import Live
from pushserver.engine.redis.names import Names
from pushserver.engine.redis.shared_settings import SharedSettings
from pushserver.manhole.terminal import Terminal
from pushserver.protocols.centrifuge.json import JsonCodec
from pushserver.protocols.centrifuge.protobuf import ProtobufCodec
from pushserver.protocols.centrifuge.protocol import CentrifugeEndpoint
from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.protocols.centrifuge.session import Rules
from pushserver.protocols.native.framing import SUBPROTOCOL
from pushserver.protocols.native.session import NativeSession
from pushserver.server.backend_commands import SCOPES, BackendCommands, CommandBatch, decode
from pushserver.server.clock import Clock
from pushserver.server.events.maker import EventMaker
from pushserver.server.publishing import Publishing
from pushserver.server.reply_room import LongReplies
from pushserver.server.stats import Counters
from pushserver.server.user_rates import UserRates, UserRateSettings
from pushserver.server.user_turns import UserTurns
from pushserver.web import centrifuge_api
from pushserver.web.admission import Admission
from pushserver.web.centrifuge_methods import Caller, CentrifugeMethods
from pushserver.web.context import Context, NodeRooms, Sections
from pushserver.web.event_ids import EventIds, positions_of
from pushserver.web.handshake import Offer
from pushserver.web.port import Head, parse_head
from pushserver.web.proxy_protocol import ProxyFactory
from pushserver.web.websocket import WebSocketDoorFactory
from tests.rawsocket import BINARY, CLOSE, CONTINUATION, PING, TEXT, frame

NOW = 1_700_000_000_000


class Target(NamedTuple):
    """A parser: what it is given, what it begins with, and how long a text may be."""

    parse: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    max_size: int = 4096


@contextmanager
def failures_raised() -> Iterator[None]:
    """Raise the first failure that is logged meanwhile."""
    found: list[BaseException] = []

    def observe(event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            found.append(failure.value)

    globalLogPublisher.addObserver(observe)
    try:
        yield
    finally:
        globalLogPublisher.removeObserver(observe)
    if found:
        raise AssertionError("a failure was logged") from found[0]


def _run(work: Any) -> Any:
    """Return what a coroutine comes to that waits for nothing."""
    results: list[Any] = []
    problems: list[BaseException] = []
    Deferred.fromCoroutine(work).addCallbacks(results.append, lambda failure: problems.append(failure.value))
    if problems:
        raise problems[0]
    return results[0]


def _pieces(octets: bytes, size: int) -> list[bytes]:
    return [octets[at : at + size] for at in range(0, len(octets), size)]


# -- frames -----------------------------------------------------------------------------------------------------------


class _Requests:
    """Rooms that refuse everything."""

    turns = UserTurns(Clock(task.Clock()))
    long_replies = LongReplies()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None

    async def carry_out(self, *_: object) -> None:
        raise Refused("not here")


@cache
def _door_factory() -> WebSocketDoorFactory:
    rooms: Any = _Requests()
    return WebSocketDoorFactory(
        Context(
            reactor=task.Clock(),
            clock=Clock(task.Clock(), lambda: NOW),
            rooms=NodeRooms(
                node="here",
                nodes=rooms,
                hub=rooms,
                requests=rooms,
                cluster=rooms,
                heartbeat=rooms,
                authenticator=rooms,
            ),
            counters=Counters(0),
            admission=rooms,
            sections=Sections(
                server=ServerSection(max_message_size=1000),
                auth=AuthSection(anonymous=True),
                delivery=DeliverySection(compression_min_size=64),
            ),
        )
    )


_UPGRADE = {
    "host": "here",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


def _received(pieces: list[bytes], deflate: bool) -> bytes:
    """What a client hears that says this in these pieces."""
    transport = StringTransport()
    extensions = {"sec-websocket-extensions": "permessage-deflate; client_max_window_bits"} if deflate else {}
    door = _door_factory().door(Head("GET", "/ws", _UPGRADE | extensions), "127.0.0.1")
    door.makeConnection(transport)
    for piece in pieces:
        if transport.disconnecting or transport.disconnected:
            break
        door.dataReceived(piece)
    received = transport.value()
    door.connectionLost(connectionDone)
    return received


#: The close after a compressed message that is too long or corrupt. Of one that is both, how far zlib looks ahead says
#: which of the two is told, and that follows from how the octets are cut.
_REFUSED_INFLATING = re.compile(
    rb"\x88[^\x88]\x03(?:\xef[^\x88]*cannot be decompressed.*|\xf1[^\x88]*after decompression)\Z", re.S
)


def frames(octets: bytes) -> None:
    """What is answered does not depend on how the octets are cut. The first one says how."""
    how, said = (octets[0], octets[1:]) if octets else (0, b"")
    deflate = bool(how & 1)
    whole = _received([said], deflate)
    cut = _received(_pieces(said, 1 + (how >> 1)), deflate)
    assert _REFUSED_INFLATING.sub(b"", cut) == _REFUSED_INFLATING.sub(b"", whole)
    assert whole.startswith(b"HTTP/1.1 101 ")


# -- messages ---------------------------------------------------------------------------------------------------------


def messages(octets: bytes) -> None:
    """Each message has one reply or one operation, and ten errors in a row are the end. Octets are cut at NUL."""
    session = NativeSession(Rates(0, 0, 2), anonymous=True)
    for at, payload in enumerate(octets.split(b"\0")[:30]):
        found = session.receive(payload, at, NOW + at)
        assert found
        for effect in found:
            if isinstance(effect, effects.Perform):
                assert len(found) == 1
                (reply,) = session.fail(effect, Refused("not here"), NOW)[:1]
            elif isinstance(effect, effects.Send):
                reply = effect
            else:
                return
            assert isinstance(reply, effects.Send)
            said = json.loads(reply.payload)
            assert isinstance(said["type"], str)


def _take_commands(octets: bytes, binary: bool) -> None:
    """Each command has one reply with its id, one operation, or ends the connection. Octets are cut at two NULs."""
    session = _CENTRIFUGE.choose("centrifuge-protobuf" if binary else None, "").session()
    session.opened("c", None)
    for at, payload in enumerate(octets.split(b"\0\0")[:30]):
        if at % 3 == 2:
            session.pinged(Position(at, "e"))
        for effect in _all(session.receive(payload, at, NOW + at)):
            replies = [effect]
            if isinstance(effect, effects.Perform):
                if effect.request is None:
                    continue
                replies = list(session.fail(effect, Refused("not here"), NOW))
            for reply in replies:
                if isinstance(reply, effects.Disconnect):
                    return
                if isinstance(reply, effects.Send) and not binary:
                    assert json.loads(reply.payload)["id"] > 0


def _all(found: Iterable[effects.Effect]) -> Iterator[effects.Effect]:
    """All effects of a frame, as they are carried out."""
    for effect in found:
        if isinstance(effect, effects.ReadOn):
            yield from effect.effects
        else:
            yield effect


def commands_json(octets: bytes) -> None:
    _take_commands(octets, binary=False)


def commands_protobuf(octets: bytes) -> None:
    _take_commands(octets, binary=True)


def emulation_requests(octets: bytes) -> None:
    """What is read is read again from JSON. The first octet says which codec."""
    codec = ProtobufCodec() if octets[:1] == b"\1" else JsonCodec()
    try:
        found = codec.emulation_request(octets[1:])
        found.data.decode()
    except (Invalid, UnicodeDecodeError):
        return
    again = json.dumps({"node": found.node, "session": found.session, "data": found.data.decode()})
    assert JsonCodec().emulation_request(again.encode()) == found


_CENTRIFUGE = CentrifugeEndpoint(
    "/c", Rates(0, 0, 0), Rules(names=ChannelNames("user:{id}"), anonymous=True, ping=1), 512
)


# -- heads ------------------------------------------------------------------------------------------------------------


@cache
def _admission() -> Admission:
    return Admission(
        allowed_origins=["https://example.com", "https://*.example.com"],
        trusted_proxies=["10.0.0.0/8"],
        loopback_only=False,
        max_connections=1,
        open_now=lambda: 0,
        connects=KeyedTokenBuckets(0),
        now=lambda: 0,
    )


def heads(octets: bytes) -> None:
    """A head that is taken is taken once more as it was understood."""
    try:
        head = parse_head(octets)
    except Invalid:
        return
    again = f"{head.method} {head.target} {head.version}\r\n" + "".join(
        f"{name}: {value}\r\n" for name, value in head.headers.items()
    )
    # Of several lines of one name, the last may be empty.
    known = {name: value.strip(" \t") for name, value in head.headers.items()}
    assert parse_head(again.encode("latin-1").removesuffix(b"\r\n")).headers == known
    admission = _admission()
    for peer in ("10.0.0.1", "127.0.0.1", "unix"):
        address = admission.address(peer, head.headers)
        assert address
        assert admission.is_local(peer, head.headers) in (True, False)
        try:
            admission.check_origin(peer, head.headers)
        except PushError:
            pass
    try:
        Offer(head, True, (SUBPROTOCOL,))
    except PushError:
        pass


# -- the HTTP API's bodies --------------------------------------------------------------------------------------------

_METHODS = sorted(SCOPES)


#: Of each producer: its epoch, and the last `seq` in it.
_KNOWN: Final = (2, 5)


class _Tasks:
    """Tasks that are all there, and go through the rules of tasks alone."""

    def __init__(self) -> None:
        self._begun = tasks.create(tasks.NewTask(task_id="t", user_id="u"), NOW)

    async def get(self, task_id: str) -> TaskState:
        return self._begun

    async def create(self, new: tasks.NewTask, once: object) -> TaskState:
        return tasks.create(new, NOW)

    async def report(self, task_id: str, report: tasks.Progress, once: object) -> TaskState:
        return tasks.progress(self._begun, report, NOW)

    async def report_all(self, reports: Sequence[tuple[str, tasks.Progress]]) -> list[TaskState | PushError]:
        outcomes: list[TaskState | PushError] = []
        for task_id, report in reports:
            try:
                outcomes.append(await self.report(task_id, report, None))
            except PushError as problem:
                outcomes.append(problem.with_traceback(None))
        return outcomes

    async def set_status(
        self, task_id: str, status: str, message: str | None, once: object, attempt: int | None, last: NewOutput | None
    ) -> TaskState:
        self._append(last, attempt)
        return tasks.set_status(self._begun, status, message, NOW)

    async def complete(
        self, task_id: str, result: Any, once: object, attempt: int | None, truncated: bool, last: NewOutput | None
    ) -> TaskState:
        self._append(last, attempt)
        return tasks.complete(self._begun, result, NOW, truncated)

    async def fail(
        self, task_id: str, error: str, once: object, attempt: int | None, truncated: bool, last: NewOutput | None
    ) -> TaskState:
        self._append(last, attempt)
        return tasks.fail(self._begun, error, NOW, truncated)

    async def cancel(
        self,
        task_id: str,
        message: str | None,
        once: object,
        attempt: int | None,
        truncated: bool,
        last: NewOutput | None,
    ) -> TaskState:
        self._append(last, attempt)
        return tasks.cancel(self._begun, message, NOW, truncated)

    async def append_output(
        self, task_id: str, new: NewOutput, producer: Producer | None, attempt: int | None, once: object
    ) -> OutputTaken:
        self._append(new, attempt)
        if producer is not None:
            if output.is_repeat(_KNOWN, producer):
                return OutputTaken(3, "e", duplicate=True)
            output.check_next(_KNOWN, producer)
        return OutputTaken(new.count, "e", cancel_requested=True)

    def _append(self, new: NewOutput | None, attempt: int | None) -> None:
        """What is appended reads as it was counted. Text goes to an output of text alone."""
        tasks.check_attempt(self._begun, attempt)
        if new is None:
            return
        said = json.loads(output.literal(new.kind, new.body))
        text = new.kind is OutputKind.TEXT
        assert new.count == len(said.encode() if text else said)
        output.check_kind(OutputKind.TEXT if new.name == output.MAIN else OutputKind.ITEMS, new.kind)


class _Store:
    """An engine that keeps nothing."""

    @property
    def broker(self) -> _Store:
        return self

    @property
    def inbox(self) -> _Store:
        return self

    history = inbox

    def clear(self, name: str) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        done.callback(None)
        return done

    def publish(self, *_: object) -> Deferred[PublishResult]:
        done: Deferred[PublishResult] = Deferred()
        done.callback(PublishResult("m"))
        return done

    append = publish


class _Nobody:
    """What knows of nobody, and closes nothing."""

    async def connections(self, *_: object) -> Any:
        return SimpleNamespace(value=[])

    async def revoke_user(self, *_: object) -> tuple[tuple[int, list[str]], int]:
        return (0, []), NOW

    def followers(self, *_: object) -> tuple[()]:
        return ()

    of_user = followers

    async def is_online(self, *_: object) -> bool:
        return False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        async def none(*_: object) -> tuple[int, list[str]]:
            return 0, []

        return none


@cache
def _commands() -> BackendCommands:
    clock = Clock(task.Clock(), lambda: NOW)
    nobody = _Nobody()
    publishing = Publishing(_Store(), Namespaces(()), Counters(0), clock, EventMaker(clock, (), 0))  # type: ignore[arg-type]
    return BackendCommands(nobody, publishing, nobody, _Tasks(), nobody, nobody, nobody)  # type: ignore[arg-type]


def bodies(octets: bytes) -> bytes | None:
    """A body is carried out or refused (None), and what comes of it is JSON. The first octet says which call it is
    for."""
    which, body = (octets[0], octets[1:]) if octets else (0, b"")
    commands = _commands()
    method = which % (len(_METHODS) + 1)
    try:
        if method == len(_METHODS):
            result: object = _run(commands.batch(decode(body, CommandBatch), lambda method: None))
        else:
            result = _run(commands.execute(_METHODS[method], body))
    except PushError:
        return None
    return msgspec.json.encode(result)


class _NoCluster(_Nobody):
    """A cluster without channels and nodes."""

    async def channels(self, pattern: str | None) -> tuple[list[Any], list[str]]:
        return [], []

    async def stats(self) -> tuple[dict[str, Any], list[str]]:
        return {}, []


class _Reading:
    """Reads of an engine that keeps nothing."""

    async def read_history(self, asked: operations.ReadHistory) -> operations.HistoryRead:
        return operations.HistoryRead((), 0, "e", 0)

    async def read_connections(self, channel: str) -> operations.ConnectionsRead:
        return operations.ConnectionsRead([])


@cache
def _centrifuge_methods() -> CentrifugeMethods:
    clock, names = Clock(task.Clock(), lambda: NOW), ChannelNames("user:{id}")
    return CentrifugeMethods(clock, _NoCluster(), _commands(), _Reading(), names)  # type: ignore[arg-type]


_ALL: Final = Caller(frozenset({"publish", "notify", "read", "admin", "sessions"}), None)


def centrifuge_bodies(octets: bytes) -> None:
    """Parameters of a method of Centrifugo's server API are carried out or refused, and what comes of it is JSON. The
    first octet says which method they are for."""
    methods = _centrifuge_methods()
    which, body = (octets[0], octets[1:]) if octets else (0, b"")
    told = _run(methods.reply(methods.names[which % len(methods.names)], body, _ALL))
    assert set(msgspec.json.decode(msgspec.json.encode(told))) in ({"result"}, {"error"})


def centrifuge_lines(octets: bytes) -> None:
    """Each line of a body is answered by one, or none where one cannot be read."""
    try:
        commands = list(centrifuge_api._commands(octets))
    except Invalid:
        return
    for command in commands:
        told = _run(_centrifuge_methods().reply(command.method or "", command.params, _ALL))
        assert b"\n" not in msgspec.json.encode(told)


# -- what comes from Redis --------------------------------------------------------------------------------------------


class _Listener:
    """Reads what it is told, as a node does."""

    def deliver(self, told: publication.Publication) -> None:
        assert publication.decode(publication.encode(told)).data == told.data

    def notice(self, notice: bytes) -> None:
        try:
            _rates().receive(notice)
        except msgspec.MsgspecError:
            pass

    def answer(self, question: bytes) -> Deferred[bytes]:
        return Deferred()

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


@cache
def _rates() -> UserRates:
    none = UserRateSettings(chat=1, publications=1, new_channels=1, bytes=1)
    return UserRates(Clock(task.Clock()), None, none)  # type: ignore[arg-type]


class _Away:
    """Subscriber and commands that reach nothing."""

    waits = False
    receiving = False

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: Deferred()


def redis(octets: bytes) -> None:
    """Whatever another program, or a node, sends is read or dropped. The first octet says by which way it comes."""
    which, payload = (octets[0] % 6, octets[1:]) if octets else (0, b"")
    away: Any = _Away()
    listener: Any = _Listener()
    clock, names = Clock(task.Clock(), lambda: NOW), Names("push", 0)
    feeds = ChannelFeeds(clock, away, ordered=True)
    feeds.start(listener)
    live = Live(clock, away, away, names, feeds, accepts=lambda type: not type.startswith("task"))
    feed = feeds.channels["news:a"] = ChannelFeed(feeds, "news:a")
    if which < 4:
        if which % 2:
            feed.begin(Position(3, "e"))
        (live._external if which < 2 else live._internal)(feed, payload)
        feeds.stop()
    elif which == 4:
        cluster = RedisCluster(clock, away, away, names, SharedSettings(dict), ("here", 1000))
        cluster.start(listener, away)
        cluster._receive(payload)
    else:
        try:
            command = ingest._decode(payload)
        except (ValueError, RecursionError):
            return
        bodies(bytes([_METHODS.index(command.method) if command.method in _METHODS else 0]) + bytes(command.params))


# -- event ids --------------------------------------------------------------------------------------------------------

_CHANNELS = ["user:1", "system", "news:a", "chat:lobby"]


def event_ids(octets: bytes) -> None:
    """Positions that were read are read again from an id that is made of them."""
    found = positions_of(octets.decode("latin-1"), _CHANNELS)
    assert set(found) <= set(_CHANNELS)
    ids = EventIds()
    for channel, position in found.items():
        ids.set(channel, position.offset, position.epoch)
    again = positions_of(ids.id().decode(), list(found))
    if all(len(position.epoch.encode()) <= 255 for position in found.values()):
        assert again == found or len(ids.id()) > 3_900


# -- the configuration ------------------------------------------------------------------------------------------------


def toml(octets: bytes) -> None:
    """A file is taken, or what is wrong with it is said in one line."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        path = Path(folder, "pushserver.toml")
        path.write_bytes(octets)
        _read(path)


def _read(path: Path) -> None:
    raw = RawConfig()
    try:
        raw.add_file(str(path))
        for name in ("secret_file", "public_key_file", "secret_files"):
            raw.values["auth"].pop(name, None)
        repr(checked(raw, keyless=True))
    except ConfigError as problem:
        said = str(problem)
        assert said
        assert all(one.isprintable() for one in said), repr(said)


# -- what is typed at the console -------------------------------------------------------------------------------------


class _Unimpressed:
    """An interpreter that carries nothing out, and a login that goes on."""

    def __init__(self) -> None:
        self.left = False

    def interpreter(self, *_: object) -> Any:
        return self

    def push(self, line: str) -> tuple[bool, list[Any]]:
        assert "\n" not in line
        return line.endswith(":"), []

    def complete(self, line: str) -> tuple[str, list[str]]:
        return ("nection", ["connection"]) if line.endswith("con") else ("", ["a", "b"])

    def reset(self) -> None: ...

    def stop_watching(self) -> bool:
        return False

    def finish(self, status: int) -> None:
        self.left = True


def console(octets: bytes) -> None:
    """What is on the screen does not depend on how the keys come, and no key fails."""
    drawn: list[str] = []
    width, keys = (octets[0], octets[1:]) if octets else (80, b"")
    for size in (len(keys) or 1, 1 + width % 7):
        out: list[bytes] = []
        one: Any = _Unimpressed()
        terminal = Terminal(out.append, (width, 1 + width % 30), "hello", one.interpreter, one)
        for piece in _pieces(keys, size):
            terminal.receive(piece)
        editor = terminal._editor
        assert 0 <= editor.cursor <= len(editor.text)
        assert editor.text.isprintable()
        drawn.append(b"".join(out).decode())
    assert drawn[0] == drawn[1]


# -- PROXY heads ------------------------------------------------------------------------------------------------------


class _Behind(Protocol):
    octets = b""

    def dataReceived(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.getPeer()
        self.octets += data


def proxy_heads(octets: bytes) -> None:
    """Who is behind the proxy, and what they say, does not depend on how it comes."""
    seen: list[tuple[bytes, bool]] = []
    for size in (len(octets) or 1, 1, 7):
        behind = _Behind()
        factory = Factory()
        factory.buildProtocol = lambda addr, behind=behind: behind  # type: ignore[assignment,misc]
        peer = IPv4Address("TCP", "10.0.0.1", 1)
        protocol = ProxyFactory(factory).buildProtocol(peer)
        assert isinstance(protocol, Protocol)
        transport = StringTransport(peerAddress=peer)
        protocol.makeConnection(transport)
        for piece in _pieces(octets, size):
            if transport.disconnecting or transport.disconnected:
                break
            protocol.dataReceived(piece)
        seen.append((behind.octets, transport.disconnecting or transport.disconnected))
    assert len(set(seen)) == 1, seen


# -- all of them ------------------------------------------------------------------------------------------------------


def _json(*values: object) -> tuple[bytes, ...]:
    return tuple(json.dumps(value).encode() for value in values)


_MESSAGES = _json(
    {"type": "ping", "id": 1, "data": {"x": [1.5e3, "\u00e9"]}},
    {"type": "auth", "id": "a", "data": {"token": "t", "positions": {"user:1": {"offset": 3, "epoch": "e"}}}},
    {"type": "subscribe", "data": {"channels": ["a:b", {"channel": "c:d", "since": {"offset": 0, "epoch": "e"}}]}},
    {"type": "unsubscribe", "data": {"channels": ["a:b"]}},
    {"type": "publish", "id": 2, "data": {"channel": "a:b", "data": None, "type": "x.y", "messageId": "m"}},
    {"type": "chat_message", "data": {"content": "hi", "messageType": "text", "targetId": "7", "channel": "chat:a"}},
    {"type": "ack", "data": {"offset": 1, "epoch": "e"}},
    {"type": "history", "data": {"channel": "a:b", "limit": 10, "since": {"offset": 1, "epoch": "e"}, "reverse": True}},
    {"type": "presence", "data": {"channel": "a:b"}},
    {"type": "task_subscribe", "data": {"taskId": "t"}},
    {"type": "task_get", "data": {"taskId": "t"}},
    {"type": "task_cancel", "data": {"taskId": "t"}},
)
_HEAD = (
    b"GET /ws?a=b HTTP/1.1\r\nHost: example.com:80\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\nOrigin: https://a.example.com\r\n"
    b"Sec-WebSocket-Protocol: pushserver.v1.json, bearer.x\r\nX-Forwarded-For: 10.0.0.2, [::1]:80, 1.2.3.4\r\n"
    b"Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=10; server_no_context_takeover\r\n"
    b"Authorization: Bearer a.b.c\r\nX-Forwarded-Host: example.com, b\r\nForwarded: for=1.2.3.4;host=b\r\nVia: 1.1 x"
)
_BODIES: dict[str, object] = {
    "publish": {
        "channel": "a:b",
        "data": {},
        "type": "x",
        "messageId": "m",
        "excludeUser": 7,
        "excludeConnection": "c",
    },
    "broadcast": {"channels": ["system", "chat:b"], "data": 1},
    "notify": {"userIds": ["1", 2], "data": [], "ttl": "10m", "collapseKey": "k"},
    "task.create": {"taskId": "t", "userId": "1", "title": "T", "details": {}, "messageId": "m", "restart": True},
    "task.progress": {"taskId": "t", "percentage": 1.5, "currentStep": 1, "totalSteps": 2, "force": True, "attempt": 1},
    "task.status": {"taskId": "t", "status": "running", "message": "m", "output": {"text": "o"}},
    "task.complete": {"taskId": "t", "result": None, "truncated": True, "output": {"items": [1, {}], "name": "rows"}},
    "task.fail": {"taskId": "t", "error": "e", "output": {"text": "\u00e9\n"}},
    "task.cancel": {"taskId": "t", "attempt": 1},
    "task.output": {"taskId": "t", "text": "o", "producer": {"id": "p", "epoch": 2, "seq": 6}, "attempt": 1},
    "subscribe": {"channels": ["chat:a", "task:t"], "userId": 7},
    "unsubscribe": {"channels": ["chat:a"], "connectionId": "c"},
    "disconnect": {"userId": "7", "code": 3503, "reason": "r"},
    "revoke": {"jti": "j", "expiresAt": 1},
}
_EXTERNAL = _json({"data": {"a": 1}, "type": "x"}, {"data": None}, {"data": 1, "type": "task_update"})
_PUBLICATION = publication.encode(
    publication.Publication(type="x", channel="news:a", data=msgspec.Raw(b"{}"), timestamp=NOW, message_id="m")
)
_EVENT = json.dumps({"type": "task_update", "state": {"taskId": "t", "userId": "u", "status": "pending"}}).encode()
_V2 = b"\r\n\r\n\x00\r\nQUIT\n"


def _event_id() -> bytes:
    ids = EventIds()
    for at, channel in enumerate(_CHANNELS):
        ids.set(channel, 10**at, f"g.{at % 2}.epoch")
    return ids.id()


_COMMANDS = tuple(
    b'{"id":1,"connect":{"token":"a","subs":{"a":{"recover":true,"offset":1,"epoch":"e"}}}}\n'
    + json.dumps(one).encode()
    for one in (
        {"id": 2, "subscribe": {"channel": "a", "recover": True, "offset": 5, "epoch": "e", "flag": 2}},
        {"id": 3, "publish": {"channel": "chat:a", "data": {"content": "c"}}},
        {"id": 4, "history": {"channel": "a", "limit": -1, "since": {"offset": 1, "epoch": "e"}, "reverse": True}},
        {"id": 5, "rpc": {"method": "ack", "data": {"offset": 1, "epoch": "e"}}},
        {"id": 6, "sub_refresh": {"channel": "a", "token": "t"}},
        {"id": 7, "unsubscribe": {"channel": "a"}},
        {},
    )
)

_CENTRIFUGE_BODIES: dict[str, dict[str, Any]] = {
    "publish": {"channel": "public:a", "data": {"n": 1}, "tags": {"type": "message"}, "idempotency_key": "k"},
    "broadcast": {"channels": ["public:a", "user:u"], "b64data": "e30=", "skip_history": True},
    "history": {"channel": "chat:a", "limit": -1, "since": {"offset": 1, "epoch": "e"}, "reverse": True},
    "presence": {"channel": "chat:a"},
    "channels": {"pattern": "a*"},
    "subscribe": {"user": "u", "channel": "chat:a", "info": {}, "recover_since": {"offset": 1, "epoch": "e"}},
    "unsubscribe": {"user": "u", "channel": "chat:a", "client": "c"},
    "disconnect": {"user": "u", "whitelist": ["c"], "disconnect": {"code": 3500, "reason": "no"}},
    "refresh": {"user": "u", "expired": True, "expire_at": 1},
    "history_remove": {"channel": "chat:a"},
    "batch": {"commands": [{"publish": {"channel": "public:a", "data": 1}}, {"info": {}}, {"batch": {}}]},
}

TARGETS: dict[str, Target] = {
    "frames": Target(
        frames,
        (
            *(bytes([2 * at]) + frame(TEXT, message, mask=b"\1\2\3\4") for at, message in enumerate(_MESSAGES)),
            b"\x08" + frame(TEXT, _MESSAGES[0]) * 3,
            b"\x01" + frame(TEXT, b"\xaaV*\xa9,HU\xb2R*\xc8\xccKW\xaa\x05\0", rsv=4) + frame(PING, b"p") + frame(PING),
            b"\x06" + frame(TEXT, b'{"type":', fin=False) + frame(PING) + frame(CONTINUATION, b'"ping"}'),
            b"\x00" + frame(BINARY, b"{}") + frame(CLOSE, b"\x03\xe8bye"),
            b"\x01\x81\xfe\x00\x05\0\0\0\0hello\x81\xff" + (7).to_bytes(8, "big") + b"\0\0\0\0hello!!",
        ),
        2048,
    ),
    "messages": Target(messages, (*_MESSAGES, b"\0".join(_MESSAGES))),
    "commands in json": Target(commands_json, _COMMANDS),
    "commands in protobuf": Target(
        commands_protobuf,
        (
            b"\x05\x08\x01\x22\x01\x0a\0\0",
            b"\x0a\x08\x01\x22\x06\x1a\x04\x0a\x02ab\0",
            b"\x04\x08\x01\x22\0\x0b\x08\x02\x2a\x07\x0a\x01a\x18\x01\x38\x05",
            b"\x04\x08\x01\x22\0\x0c\x08\x03\x6a\x08\x0a\x02{}\x12\x02ab",
        ),
    ),
    "emulation requests": Target(
        emulation_requests,
        (
            b'\0{"session":"s.p","node":"n","data":"{\\"id\\":1}\\n{}"}',
            b"\x01\x0a\x01n\x12\x03s.p\x1a\x02{}",
            b"\x01\x12\x03s.p\x20\x05\x0a\x02ab\x1a\0",
        ),
    ),
    "heads": Target(heads, (_HEAD, b"GET http://a/b?c HTTP/1.1\r\nHost: a", b"POST / HTTP/1.0\r\nContent-Length: 5")),
    "bodies": Target(
        bodies,
        (
            *(bytes([_METHODS.index(method)]) + json.dumps(body).encode() for method, body in _BODIES.items()),
            bytes([len(_METHODS)])
            + json.dumps({"commands": [{"method": m, "params": p} for m, p in _BODIES.items()]}).encode(),
        ),
    ),
    "centrifuge bodies": Target(
        centrifuge_bodies,
        tuple(
            bytes([_centrifuge_methods().names.index(method)]) + json.dumps(body).encode()
            for method, body in _CENTRIFUGE_BODIES.items()
        ),
    ),
    "centrifuge lines": Target(
        centrifuge_lines,
        (
            b"\n".join(json.dumps({"method": m, "params": p}).encode() for m, p in _CENTRIFUGE_BODIES.items()),
            b'{"method":"info"}\n\n{"method":"rpc","params":{}}',
        ),
    ),
    "redis": Target(
        redis,
        (
            *(bytes([which]) + external for which in (0, 1) for external in _EXTERNAL),
            *(
                bytes([which]) + head + b"\n" + _PUBLICATION
                for which in (2, 3)
                for head in (b"m abc.1", b"p 4 e", b"p 3 e")
            ),
            b"\x02t abc.1\n" + _EVENT,
            *(b"\x04" + said for said in (b"q 1 push:control:0:x\n[]", b"a 1 i node\n1", b"n 1 i\n")),
            b'\x04s 0 push:control:0:x\n{"chat":{"1":5.0},"publications":{"1":2}}',
            *(b"\x05" + json.dumps({"method": m, "params": p}).encode() for m, p in _BODIES.items()),
        ),
    ),
    "event ids": Target(event_ids, (_event_id(), b"eyJ1c2VyOjEiOlszLCJlIl0sInN5c3RlbSI6WzAsImUiXX0", b"AQAA")),
    "toml": Target(
        toml,
        (
            *((Path(__file__).parents[2] / "etc" / "pushserver.toml").read_bytes().split(b"\n\n")[1:]),
            b'[[namespaces]]\nname = "a"\nhistory_size = 5\nhistory_ttl = "1h"\npresence = true\n[roles]\nr = ["a:*"]',
            b'[api]\nkeys = [{key = "0123456789abcdef", scopes = ["read"], name = "n"}]',
            b'[server]\nlisten = ["unix:/x"]\n[auth]\nsecret = "0123456789abcdef0123456789abcdef"',
        ),
    ),
    "console": Target(
        console,
        (
            b"P" + b"connections()\r\x1b[A\x1b[D\x1b[3~con\t\x15\x0b\x17\x0c\x1bOH\x01\x05\x7f",
            "\x14x = '房🙂' # é\x1b[2~y\x1b[H\x1b[C\x1b[1;5C\r\ndef f():\r\treturn 1\r\x03\x04".encode(),
        ),
        256,
    ),
    "proxy heads": Target(
        proxy_heads,
        (
            b"PROXY TCP4 192.0.2.7 192.0.2.1 1000 443\r\nGET /",
            b"PROXY TCP6 2001:db8::7 2001:db8::1 1000 443\r\nGET /",
            b"PROXY UNKNOWN\r\nGET /",
            b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n",
            _V2 + b"\x21\x11" + struct.pack("!H4s4sHH", 12, bytes(4), bytes(4), 1000, 443) + b"GET /",
            _V2 + b"\x21\x21" + struct.pack("!H16s16sHH", 36, bytes(16), bytes(16), 1000, 443) + b"GET /",
            _V2 + b"\x21\x31" + struct.pack("!H108s108s", 216, b"/a", b"/b") + b"GET /",
            _V2 + b"\x20\x00\x00\x00GET /",
        ),
        512,
    ),
}
