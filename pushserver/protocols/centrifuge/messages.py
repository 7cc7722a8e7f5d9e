"""The Centrifuge protocol's messages, whichever codec carries them. Pure.

    client -> server   Command   an id and one request; without both it answers a ping
    server -> client   Reply     the id and one result, or an error; or a push; without all of them it is a ping

`pushserver.protocols.centrifuge.json` and `.protobuf` read commands and write replies; a `Codec` is one of them. A
payload of an application (``data``, ``info``) is JSON in both, and passes as it came.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Final, Protocol

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from pushserver.core import publication
from pushserver.core.errors import Invalid

#: Data that did not come. (A union with None would take no object.)
ABSENT: Final = Raw(b"")

Number = Annotated[int, Meta(ge=0, le=2**32 - 1)]
#: No channel has had more messages than a signed number of 64 bits can count.
Offset = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Signed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]

# -- what a client asks for -------------------------------------------------------------------------------------------
#
# As in Go, which wrote this protocol down, null is the same as absence.


class SubscribeRequest(Struct, frozen=True):
    channel: str | None = None
    token: str | None = None
    recover: bool | None = None
    epoch: str | None = None
    offset: Offset | None = None
    #: a filter by tags; only whether there is one is looked at
    tf: Raw = ABSENT
    flag: Signed | None = None
    type: Signed | None = None


class ConnectRequest(Struct, frozen=True):
    token: str | None = None
    data: Raw = ABSENT
    subs: dict[str, SubscribeRequest | None] | None = None
    name: str | None = None
    version: str | None = None
    headers: dict[str, str | None] | None = None


class UnsubscribeRequest(Struct, frozen=True):
    channel: str | None = None


class PublishRequest(Struct, frozen=True):
    channel: str | None = None
    data: Raw = ABSENT
    type: Signed | None = None


class PresenceRequest(Struct, frozen=True):
    channel: str | None = None


class PresenceStatsRequest(Struct, frozen=True):
    channel: str | None = None


class StreamPosition(Struct, frozen=True):
    offset: Offset | None = None
    epoch: str | None = None


class HistoryRequest(Struct, frozen=True):
    channel: str | None = None
    limit: Signed | None = None
    since: StreamPosition | None = None
    reverse: bool | None = None


class PingRequest(Struct, frozen=True):
    """Asks for a sign of life."""


class SendRequest(Struct, frozen=True):
    data: Raw = ABSENT


class RpcRequest(Struct, frozen=True):
    data: Raw = ABSENT
    method: str | None = None


class RefreshRequest(Struct, frozen=True):
    token: str | None = None


class SubRefreshRequest(Struct, frozen=True):
    channel: str | None = None
    token: str | None = None
    type: Signed | None = None


Request = (
    ConnectRequest
    | SubscribeRequest
    | UnsubscribeRequest
    | PublishRequest
    | PresenceRequest
    | PresenceStatsRequest
    | HistoryRequest
    | PingRequest
    | SendRequest
    | RpcRequest
    | RefreshRequest
    | SubRefreshRequest
)


class Command(Struct, frozen=True):
    id: Number | None = None
    connect: ConnectRequest | None = None
    subscribe: SubscribeRequest | None = None
    unsubscribe: UnsubscribeRequest | None = None
    publish: PublishRequest | None = None
    presence: PresenceRequest | None = None
    presence_stats: PresenceStatsRequest | None = None
    history: HistoryRequest | None = None
    ping: PingRequest | None = None
    send: SendRequest | None = None
    rpc: RpcRequest | None = None
    refresh: RefreshRequest | None = None
    sub_refresh: SubRefreshRequest | None = None

    @property
    def request(self) -> Request | None:
        """Return what is asked for: the first of several, as Centrifugo takes them."""
        for name in REQUESTS:
            found: Request | None = getattr(self, name)
            if found is not None:
                return found
        return None


class EmulationRequest(Struct, frozen=True):
    """Commands for a stream, in a request of their own. ``session`` and ``node``: what the stream's connect reply told;
    ``data``: what would be a frame elsewhere."""

    node: str = ""
    session: str = ""
    data: bytes = b""


REQUESTS: Final = tuple(name for name in Command.__struct_fields__ if name != "id")

# -- what a client is told --------------------------------------------------------------------------------------------


class ErrorResult(Struct, frozen=True, omit_defaults=True):
    code: int
    message: str
    temporary: bool = False


class ClientInfo(Struct, frozen=True, omit_defaults=True):
    """One connection: its user's id, its own, and what their tokens say of them."""

    user: str
    client: str
    conn_info: Raw | None = None
    chan_info: Raw | None = None


class Publication(Struct, frozen=True, omit_defaults=True):
    data: Raw
    info: ClientInfo | None = None
    offset: int = 0
    tags: dict[str, str] = {}
    time: int = 0


class SubscribeResult(Struct, frozen=True):
    expires: bool = False
    ttl: int = 0
    recoverable: bool = False
    epoch: str = ""
    publications: tuple[Publication, ...] = ()
    recovered: bool = False
    offset: int = 0
    positioned: bool = False
    data: Raw | UnsetType = UNSET
    was_recovering: bool = False


class ConnectResult(Struct, frozen=True, omit_defaults=True):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0
    data: Raw | None = None
    subs: dict[str, SubscribeResult] = {}
    ping: int = 0
    pong: bool = False
    session: str = ""
    node: str = ""


class UnsubscribeResult(Struct, frozen=True):
    """Says no more than that it is done."""


class PublishResult(Struct, frozen=True):
    """Says no more than that it is done."""


class PingResult(Struct, frozen=True):
    """Says no more than that it is done."""


class PresenceResult(Struct, frozen=True):
    presence: dict[str, ClientInfo]


class PresenceStatsResult(Struct, frozen=True):
    num_clients: int
    num_users: int


class HistoryResult(Struct, frozen=True):
    publications: tuple[Publication, ...]
    epoch: str
    offset: int


class RpcResult(Struct, frozen=True):
    data: Raw


class RefreshResult(Struct, frozen=True):
    client: str
    version: str
    expires: bool = False
    ttl: int = 0


class SubRefreshResult(Struct, frozen=True):
    expires: bool = False
    ttl: int = 0


class Join(Struct, frozen=True):
    info: ClientInfo


class Leave(Struct, frozen=True):
    info: ClientInfo


class Unsubscribe(Struct, frozen=True):
    code: int
    reason: str


class Subscribe(Struct, frozen=True, omit_defaults=True):
    recoverable: bool = False
    epoch: str = ""
    offset: int = 0
    positioned: bool = False
    data: Raw | None = None


class Disconnect(Struct, frozen=True):
    code: int
    reason: str


class Push(Struct, frozen=True, omit_defaults=True):
    channel: str = ""
    pub: Publication | None = None
    join: Join | None = None
    leave: Leave | None = None
    unsubscribe: Unsubscribe | None = None
    subscribe: Subscribe | None = None
    disconnect: Disconnect | None = None


class Reply(Struct, frozen=True, omit_defaults=True):
    id: int = 0
    error: ErrorResult | None = None
    push: Push | None = None
    connect: ConnectResult | None = None
    subscribe: SubscribeResult | None = None
    unsubscribe: UnsubscribeResult | None = None
    publish: PublishResult | None = None
    presence: PresenceResult | None = None
    presence_stats: PresenceStatsResult | None = None
    history: HistoryResult | None = None
    ping: PingResult | None = None
    rpc: RpcResult | None = None
    refresh: RefreshResult | None = None
    sub_refresh: SubRefreshResult | None = None


#: A reply that says nothing is a ping.
PING: Final = Reply()


class Codec(Protocol):
    """One way to write messages down."""

    def commands(self, payload: bytes) -> Iterator[Command]:
        """Read the commands of a frame one by one: one that ends the connection may stand before thousands. Raises
        `Malformed`, and nothing else, whatever the octets."""

    def emulation_request(self, body: bytes) -> EmulationRequest:
        """Return what a request to a stream says. Raises `Malformed`, and nothing else, whatever the octets."""

    def reply(self, reply: Reply) -> bytes:
        """Return what stands for a reply in a frame."""

    def readable(self, payload: bytes, inbound: bool) -> bytes:
        """Return the commands or the reply of a frame in JSON, for an operator; as it is where it cannot be read."""


class Malformed(Invalid):
    """A frame that cannot be read."""


def raw(text: str | None) -> Raw | None:
    """Return JSON as it goes into a message; None where there is none."""
    return None if text is None else Raw(text.encode())


_LINE_ENDS: Final = bytes.maketrans(b"\r\n", b"  ")
_any: Final = msgspec.json.Decoder(Any)


def payload(given: Raw) -> Raw:
    """Return an application's data as it passes: octet by octet, but line ends, which stand between tokens of JSON and
    would end a message of this protocol, become spaces. Raises `errors.Invalid` for what is no JSON."""
    octets = bytes(given)
    if publication.too_deep(octets):
        raise Invalid("data is nested too deep")
    try:
        octets.decode()
        _any.decode(octets)
    except (ValueError, RecursionError):
        raise Invalid("data is not JSON") from None
    return Raw(octets.translate(_LINE_ENDS))
