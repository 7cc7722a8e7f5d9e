"""Where which client protocols are spoken, by the configuration: the paths of WebSockets, and streams."""

from __future__ import annotations

from pushserver.core.protocol import Endpoint
from pushserver.protocols.centrifuge.protocol import CentrifugeEndpoint, StreamProtocols
from pushserver.protocols.centrifuge.pushes import ChannelNames
from pushserver.protocols.centrifuge.session import Rules
from pushserver.protocols.native.protocol import NativeEndpoint, NativeProtocol
from pushserver.web.context import Context


def endpoints(context: Context) -> list[Endpoint]:
    """Return the paths on which WebSockets are opened."""
    sections = context.sections
    smallest = sections.delivery.compression_min_size
    native = NativeProtocol(context.rates, sections.auth.anonymous, smallest)
    found: list[Endpoint] = [NativeEndpoint(sections.server.websocket_path, native)]
    door = sections.centrifuge
    if door.enabled:
        path = f"{door.path}/websocket"
        found.append(CentrifugeEndpoint(path, context.rates, _centrifuge_rules(context), smallest))
    return found


def stream_protocols(context: Context) -> StreamProtocols:
    """Return what is spoken in streams to client SDKs of Centrifugo."""
    return StreamProtocols(context.rates, _centrifuge_rules(context))


def _centrifuge_rules(context: Context) -> Rules:
    sections = context.sections
    door = sections.centrifuge
    return Rules(
        names=ChannelNames(door.inbox_channel),
        anonymous=sections.auth.anonymous,
        ping=-(-sections.heartbeat.interval // 1000),
        acknowledges=door.inbox_ack == "pong",
        subscribes=sections.server.max_channels_per_connection,
    )
