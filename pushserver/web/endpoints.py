"""The paths on which WebSockets are opened, and the client protocols that are spoken there, by the configuration."""

from __future__ import annotations

from pushserver.core.protocol import Endpoint
from pushserver.protocols.centrifuge.protocol import CentrifugeEndpoint
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
        rules = Rules(
            names=ChannelNames(door.inbox_channel),
            anonymous=sections.auth.anonymous,
            ping=-(-sections.heartbeat.interval // 1000),
            acknowledges=door.inbox_ack == "pong",
            subscribes=sections.server.max_channels_per_connection,
        )
        found.append(CentrifugeEndpoint(f"{door.path}/websocket", context.rates, rules, smallest))
    return found
