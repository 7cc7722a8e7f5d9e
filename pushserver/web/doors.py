"""The doors of one node, put together: what stands on the public listeners, and what on those of the API."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from twisted.web.server import Request

from pushserver.web.api import Api, ApiKeys, Route
from pushserver.web.context import Context, Sections
from pushserver.web.http import PushSite, headers_of
from pushserver.web.openapi import describer
from pushserver.web.port import PortFactory, PortProtocol, peer_address
from pushserver.web.site import Health, Metrics, Ready, Root, WebSocketPath
from pushserver.web.sse import EventStreams
from pushserver.web.static_files import Page, StaticFiles
from pushserver.web.stream_posts import StreamPosts
from pushserver.web.tickets import Tickets, issuer
from pushserver.web.websocket import WebSocketDoorFactory

if TYPE_CHECKING:
    from pushserver.web.centrifuge_api import CentrifugeApi
    from pushserver.web.emulation import EmulationDoors


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the doors show of the process around them.

    Attributes:
        trouble: why the node should get no connections now; None where it should.
        warnings: what an operator should know though it is ready.
        metrics: the text of a scrape.
        token: makes a demo token for a user; None outside development mode.
        tickets: the tickets, with the secret that all nodes share.
    """

    trouble: Callable[[], str | None]
    warnings: Callable[[], list[str]]
    metrics: Callable[[], Awaitable[bytes]]
    token: Callable[[str], str] | None
    tickets: Callable[[], Awaitable[Tickets]]


class Doors:
    """The listeners' factories: `public`, and `private` for ``server.api_listen``, where that is set."""

    def __init__(
        self, context: Context, keys: ApiKeys, calls: Api, facts: Facts, centrifuge: CentrifugeApi | None = None
    ) -> None:
        """``centrifuge``: the API for clients of Centrifugo, where there is one."""
        self.context = context
        self._keys = keys
        self._calls = calls
        self._centrifuge = centrifuge
        self._facts = facts
        self._sockets = WebSocketDoorFactory(context)
        apart = bool(context.sections.server.api_listen)
        # Where the API has a port of its own, its keys open nothing on the public one.
        self.posts = StreamPosts(context)
        self._streams = EventStreams(context, facts.tickets, self.posts, None if apart else calls)
        self._emulation: EmulationDoors | None = None
        if context.sections.centrifuge.enabled:
            from pushserver.web.emulation import EmulationDoors

            self._emulation = EmulationDoors(context, self.posts, facts.tickets)
        calls.add("tickets", "POST", Route("sessions", issuer(facts.tickets, context.clock.now)))
        calls.add("openapi.json", "GET", Route("", describer(calls)))
        root = Root(context.admission)
        self.public = self._port(root)
        self._add_public(root)
        if apart:
            root.putChild(b"readyz", Ready(facts.trouble, lambda request: False))
            inner = Root(context.admission)
            self.private: PortFactory | None = self._port(inner)
            inner.putChild(b"healthz", Health())
            self._add_private(inner)
        else:
            self.private = None
            self._add_private(root)

    def _port(self, root: Root) -> PortFactory:
        sockets = self._sockets
        site = PushSite(self.context, root, root.allow)
        return PortFactory(self.context, site.http, sockets.door, sockets.endpoints)

    def adopt(self, sections: Sections) -> None:
        """Go by these sections from now on."""
        self.context.adopt(sections)
        self._sockets.adopt()
        if self._emulation is not None:
            self._emulation.adopt()

    @property
    def waiting(self) -> set[PortProtocol]:
        """The sockets that have not asked for anything yet."""
        return self.public.waiting | (self.private.waiting if self.private is not None else set())

    def _add_public(self, root: Root) -> None:
        context, facts = self.context, self._facts
        path = context.sections.server.websocket_path
        root.putChild(b"sse", self._streams)
        root.take_bodies("sse", self._streams.allow)
        root.putChild(b"healthz", Health())
        static = StaticFiles()
        root.putChild(b"pushclient.js", static.file("pushclient.js", public=True))
        root.putChild(b"pushclient", static.folder("pushclient", public=True))
        root.putChild(b"pushclient.tgz", static.npm_package())
        if context.sections.server.page:
            root.putChild(b"", Page(path, facts.token))
            root.putChild(b"page", static.folder("page"))
        if self._emulation is not None:
            for place, resource in self._emulation.places().items():
                root.place(place, resource)
            for begin, allow in self._emulation.bodies().items():
                root.take_bodies(begin, allow)
        for endpoint in self._sockets.endpoints:
            root.place(
                endpoint,
                WebSocketPath(lambda transport, head, octets: self.public.upgrade(None, transport, head, octets)),
            )

    def _add_private(self, root: Root) -> None:
        facts = self._facts
        root.putChild(b"api", self._calls)
        root.take_bodies("api", self._calls.allow)
        if self._centrifuge is not None:
            path = self.context.sections.centrifuge.api_path
            root.place(path, self._centrifuge)
            root.take_bodies(path.strip("/"), self._centrifuge.allow)
        root.putChild(b"readyz", Ready(facts.trouble, self._trusted, facts.warnings))
        root.putChild(b"metrics", Metrics(facts.metrics, self._trusted, self.context.counters))
        if self.context.sections.server.page:
            # The operators' page stands where the API is that it calls.
            static = StaticFiles()
            root.putChild(b"page", static.folder("page"))
            root.putChild(b"operators", static.operators())

    def _trusted(self, request: Request) -> bool:
        if self.context.sections.server.metrics_public or self._keys.scopes(request) is not None:
            return True
        transport: Any = request.transport
        return self.context.admission.is_local(peer_address(transport), headers_of(request))
