"""A node's HTTP API and event streams without sockets: channels of HTTP on paper, and a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.address import IPv4Address
from twisted.internet.testing import StringTransport

from pushserver.config.values import SCOPES
from pushserver.core.rate_limit import KeyedTokenBuckets
from pushserver.web.admission import Admission
from pushserver.web.api import Api, ApiKeys
from pushserver.web.context import Context, Sections
from pushserver.web.http import PushChannel, PushSite
from pushserver.web.site import Root
from pushserver.web.sse import EventStreams
from pushserver.web.stream_posts import StreamPosts
from pushserver.web.tickets import Tickets
from tests.answers import check, check_message
from tests.fakes import Rig
from tests.harness import Answer

#: A key for everything; what else is known is given beside it.
KEY = "everything-there-is"


class Exchange:
    """One HTTP connection, and what is said on it."""

    def __init__(self, site: PushSite) -> None:
        self.transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 1))
        self.channel: PushChannel = site.http(self.transport.getPeer())  # type: ignore[assignment]
        self.channel.makeConnection(self.transport)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Exchange:
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
        lines = [f"{method} {path} HTTP/1.1", "Host: push.example", *map(": ".join, headers.items())]
        self.channel.dataReceived("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        return self

    @property
    def answer(self) -> Answer | None:
        """The answer, once it is whole; ``body`` is parsed where it is JSON, else as it came."""
        head, whole, octets = self.transport.value().partition(b"\r\n\r\n")
        if not whole:
            return None
        status, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body: Any = octets
        if "chunked" in headers.get("transfer-encoding", ""):
            body, ended = _chunks(octets)
            if not ended:
                return None
        elif len(octets) < int(headers.get("content-length", 0)):
            return None
        if "json" in headers.get("content-type", ""):
            body = json.loads(body)
        return Answer(int(status.split(" ")[1]), body, headers)

    @property
    def events(self) -> list[Any]:
        """What an event stream has told so far."""
        octets, _ = _chunks(self.transport.value().partition(b"\r\n\r\n")[2])
        return [json.loads(line[6:]) for line in octets.split(b"\n") if line.startswith(b"data: ")]

    def vanish(self) -> None:
        self.channel.connectionLost()


def _chunks(octets: bytes) -> tuple[bytes, bool]:
    """The content of a chunked body so far, and whether it has ended."""
    content = b""
    while octets:
        size, _, octets = octets.partition(b"\r\n")
        if not int(size, 16):
            return content, True
        content += octets[: int(size, 16)]
        octets = octets[int(size, 16) + 2 :]
    return content, False


async def _tickets() -> Tickets:
    return Tickets(bytes(32), 3_600_000)


class PaperHttp:
    """The paths of a node, whose answers are held against their description."""

    def __init__(self, rig: Rig, *keys: tuple[str, Sequence[str], str, Sequence[str]]) -> None:
        """``keys``: of the API, beside `KEY`; each with its scopes, its name, and what it reaches."""
        self.rig = rig
        node = rig.node
        admission = Admission(
            allowed_origins=[],
            trusted_proxies=(),
            loopback_only=False,
            max_connections=100,
            open_now=lambda: len(node.hub.connections),
            connects=KeyedTokenBuckets(0),
            now=rig.now,
        )
        context = Context(
            reactor=rig.clock,
            clock=node.clock,
            rooms=rig.rooms,
            counters=node.counters,
            admission=admission,
            sections=Sections(server=rig.config.server),
        )
        known = ApiKeys([(KEY, SCOPES, "", ()), *keys])
        api = Api(context, known, rig.engine, node.commands, node.reading, node.tasks, node.stats_channel.everything)
        streams = EventStreams(context, _tickets, StreamPosts(context), api)
        root = Root(admission)
        root.putChild(b"api", api)
        root.putChild(b"sse", streams)
        root.take_bodies("api", api.allow)
        root.take_bodies("sse", streams.allow)
        self.site = PushSite(context, root, root.allow)

    async def until(self, what: Callable[[], Any]) -> Any:
        """Return the first true answer, while the rooms go on."""
        for _ in range(100):
            answer = what()
            if answer:
                return answer
            await self.rig.until_idle()
        raise AssertionError("it did not come to that")

    async def api(self, method: str, path: str, body: Any = None, *, key: str = KEY, **headers: str) -> Answer:
        """One request with an API key; ``body`` may be bytes, sent as they are."""
        octets = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        exchange = Exchange(self.site).ask(method, path, octets, **{"X-API-Key": key, **headers})
        answer: Answer = await self.until(lambda: exchange.answer)
        exchange.vanish()
        if not isinstance(answer.body, bytes):
            check(method, path, answer.status, answer.body)
        return answer

    async def stream(self, user: str) -> Stream:
        """Open an event stream for a user."""
        stream = Stream(self, user)
        await self.until(lambda: stream.exchange.events)
        return stream


class Stream:
    """A user's event stream, and the messages that are posted to it."""

    def __init__(self, http: PaperHttp, user: str) -> None:
        self._http = http
        self._credential = f"Bearer {http.rig.token(user)}"
        self._number = 0
        self.exchange = Exchange(http.site).ask("GET", "/sse", Authorization=self._credential)

    async def ask(self, type: str, **data: Any) -> Any:
        """Post a request and return the reply to it, which comes by the stream."""
        self._number += 1
        path = f"/sse/{self.exchange.events[0]['data']['connectionId']}"
        body = json.dumps({"type": type, "id": self._number, "data": data}).encode()
        post = Exchange(self._http.site).ask("POST", path, body, Authorization=self._credential)
        assert (await self._http.until(lambda: post.answer)).status == 202
        post.vanish()
        reply = await self._http.until(self._reply)
        check_message(reply)
        return reply

    def _reply(self) -> Any:
        return next((event for event in self.exchange.events if event.get("id") == self._number), None)
