"""Where which client protocols are spoken, by the configuration: the paths of WebSockets, and streams.

A protocol that is off is not imported: a server without it starts sooner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pushserver.core.protocol import Endpoint
from pushserver.protocols.centrifuge import framing as centrifuge
from pushserver.protocols.native import framing as native
from pushserver.protocols.native.protocol import NativeEndpoint, NativeProtocol
from pushserver.web.context import Context

if TYPE_CHECKING:
    from pushserver.protocols.centrifuge.protocol import StreamProtocols
    from pushserver.protocols.centrifuge.session import Rules

#: The names of all that may be spoken on WebSockets, and of the streams to SDKs of Centrifugo.
DIALECTS: Final = (native.SUBPROTOCOL, *centrifuge.DIALECTS)


def endpoints(context: Context) -> list[Endpoint]:
    """Return the paths on which WebSockets are opened."""
    sections = context.sections
    smallest = sections.delivery.compression_min_size
    native = NativeProtocol(context.rates, sections.auth.anonymous, smallest)
    found: list[Endpoint] = [NativeEndpoint(sections.server.websocket_path, native)]
    door = sections.centrifuge
    if door.enabled:
        from pushserver.protocols.centrifuge.protocol import CentrifugeEndpoint

        path = f"{door.path}/websocket"
        found.append(CentrifugeEndpoint(path, context.rates, _centrifuge_rules(context), smallest))
    return found


def stream_protocols(context: Context) -> StreamProtocols:
    """Return what is spoken in streams to client SDKs of Centrifugo."""
    from pushserver.protocols.centrifuge.protocol import StreamProtocols

    return StreamProtocols(context.rates, _centrifuge_rules(context))


def _centrifuge_rules(context: Context) -> Rules:
    from pushserver.protocols.centrifuge.pushes import ChannelNames
    from pushserver.protocols.centrifuge.session import Rules

    sections = context.sections
    door = sections.centrifuge
    return Rules(
        names=ChannelNames(door.inbox_channel),
        anonymous=sections.auth.anonymous,
        ping=-(-sections.heartbeat.interval // 1000),
        acknowledges=door.inbox_ack == "pong",
        subscribes=sections.server.max_channels_per_connection,
    )
