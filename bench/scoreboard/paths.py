"""The paths: what is measured, of whom, in which figures, and what is to be reached."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from bench.scoreboard import meters
from bench.scoreboard.meters import Meter, Stage
from bench.scoreboard.peers import (
    Centrifugo,
    FloorInC,
    FloorInPython,
    HalfCentrifugo,
    HalfNodeWs,
    HalfOurs,
    MicroWebSockets,
    Nats,
    NchanPeer,
    NodeWs,
    NodeWss,
    NotifyingOurs,
    Ours,
    Peer,
    SecureCentrifugo,
    SecureOurs,
    SecureTwistedAndAutobahn,
    Slower,
    SocketIo,
    Sockudo,
    TheSame,
    TwistedAndAutobahn,
    TwistedAndPyJwt,
    TwistedAndTxredisapi,
    TwistedWeb,
)
from bench.scoreboard.verdicts import Target

#: Starts one peer of a path on a stage, and returns what takes its rounds.
Prepare = Callable[[Stage, type[Peer]], Meter]


@dataclass(frozen=True)
class Path:
    """One path that a user pays for. ``figures``: what each name of its figures means, with the unit."""

    name: str
    title: str
    figures: Mapping[str, str]
    peers: tuple[type[Peer], ...]
    prepare: Prepare
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = field(default=())


#: Who stands beside us where everybody has the same.
FOLLOWED = (Ours, Centrifugo, Sockudo, Nats, SocketIo, MicroWebSockets, NodeWs, NchanPeer, FloorInC, FloorInPython)
BOTH = (Ours, Centrifugo)
ON_FLOOR = (*BOTH, TwistedAndAutobahn)
SECURE = (SecureOurs, SecureCentrifugo, NodeWss)
#: Of what the peers have nothing that compares.
ALONE = (Ours,)
#: Names of paths are typed.
PLAIN = str.maketrans({" ": "-", "µ": "u"})
DELIVERY = {"cpu": "µs of CPU for a delivery"}

CERTIFICATE = "an ECDSA key on P-256, TLS 1.3; what is published comes to a plain port"
FLOOR = "Twisted and Autobahn: pushserver with its own part taken out, which answers with octets that are ready"
SIGNED_IN = (
    "Twisted, Autobahn and PyJWT: tokens are checked and channels followed, in dictionaries; none of what pushserver "
    "promises besides"
)
STORED = "without Redis, pushserver has histories in SQLite, on the disk before the answer; Centrifugo, in memory"


def _latency(kind: type[Peer]) -> Path:
    """The latencies of both at half of what the peer can; the peer is prepared first, and says how much that is."""

    def prepare(stage: Stage, which: type[Peer]) -> Meter:
        return meters.paced(stage, which, sets_rate=which is kind)

    return Path(
        f"latency-{kind.name.lower().translate(PLAIN)}",
        f"Publication to receipt at half of what {kind.name} can, 1,000 connections",
        {"p50": "median, ms", "p99": "99th percentile, ms", "p99.9": "99.9th percentile, ms"},
        (kind, Ours, FloorInC),
        prepare,
        (Target("p99", 0.8, kind.name),),
        ("a publication's time begins when it is due, also where the answer to the last one is late",),
    )


PATHS: tuple[Path, ...] = (
    Path(
        "fanout",
        "Fan-out to 1,000 connections, one publication a turn",
        DELIVERY,
        FOLLOWED,
        meters.one_a_turn,
        (
            Target("cpu", 0.6, "Centrifugo"),
            Target("cpu", 0.8, "sockudo"),
            Target("cpu", 1.3, "µWebSockets"),
            Target("cpu", 0.5, "NATS"),
            Target("cpu", 1.3, "C floor"),
        ),
    ),
    Path(
        "bursts",
        "Fan-out to 1,000 connections, bursts of 10 in one request",
        DELIVERY,
        FOLLOWED,
        meters.ten_a_turn,
        notes=(
            "nchan takes one message a request, so its ten come one after another; socket.io writes each by itself",
        ),
    ),
    Path(
        "half-compressed",
        "Fan-out of 2 kB to 1,000 connections, one publication a turn, every second one with permessage-deflate",
        DELIVERY,
        (HalfOurs, HalfCentrifugo, HalfNodeWs),
        meters.one_a_turn,
        notes=("without context takeover on any of them",),
    ),
    Path(
        "tls-fanout",
        "Fan-out over TLS to 1,000 connections, one publication a turn",
        DELIVERY,
        SECURE,
        meters.one_a_turn,
        (Target("cpu", 0.8, "node wss"), Target("cpu", 1.0, "Centrifugo")),
        (CERTIFICATE,),
    ),
    Path(
        "tls-sign-in",
        "Connect over TLS, sign in with a JWT and subscribe to 3 channels, 1,000 clients, 64 at a time",
        {"cpu": "µs of CPU for a client", "wait": "ms for a client, one by one"},
        (*SECURE, SecureTwistedAndAutobahn),
        partial(meters.arrivals, redis=False),
        (Target("cpu", 1.0, "node wss"),),
        (CERTIFICATE, FLOOR),
    ),
    Path(
        "publish-history",
        "Publish with history, 32 publishers at once, one message a request",
        {"rate": "messages a second", "cpu": "µs of CPU for a message"},
        BOTH,
        partial(meters.kept, redis=False),
        notes=(STORED,),
    ),
    Path(
        "publish-history-redis",
        "Publish with history through Redis, 32 publishers at once, one message a request",
        {"rate": "messages a second", "cpu": "µs of CPU for a message", "redis": "µs of Redis' CPU for a message"},
        (*BOTH, TwistedWeb),
        partial(meters.kept, redis=True),
        (Target("rate", 1.0, "Centrifugo", least=True),),
        ("twisted.web: its answer is ready once Redis has answered a script by txredisapi; nobody is sent anything",),
    ),
    Path(
        "users-redis",
        "Publish to one user each of 1,000 through Redis, 32 publishers at once, one message a request",
        {"rate": "messages a second", "cpu": "µs of CPU for a message", "redis": "µs of Redis' CPU for a message"},
        BOTH,
        meters.one_user_each,
    ),
    Path(
        "sign-in",
        "Connect, sign in with a JWT and subscribe to 3 channels, 1,000 clients, 64 at a time",
        {"cpu": "µs of CPU for a client", "wait": "ms for a client, one by one"},
        (Ours, Centrifugo, SocketIo, MicroWebSockets, NodeWs, TwistedAndAutobahn, TwistedAndPyJwt),
        partial(meters.arrivals, redis=False),
        notes=(FLOOR, SIGNED_IN),
    ),
    Path(
        "sign-in-redis",
        "Connect, sign in with a JWT and subscribe to 3 channels over Redis, 1,000 clients, 64 at a time",
        {
            "cpu": "µs of CPU for a client",
            "wait": "ms for a client, one by one",
            "redis": "µs of Redis' CPU for a client",
        },
        (*ON_FLOOR, TwistedAndTxredisapi),
        partial(meters.arrivals, redis=True),
        (Target("cpu", 0.7, "Centrifugo"), Target("wait", 0.7, "Centrifugo")),
        (
            FLOOR,
            "Twisted and Autobahn: asks nothing of Redis",
            "Twisted, Autobahn and txredisapi: with a token by PyJWT, a SUBSCRIBE of two names, and one script",
        ),
    ),
    Path(
        "storm",
        "Reconnect storm: 5,000 clients of 50 addresses, cut at once, with positions in 3 channels, 20 messages missed",
        {
            "seconds": "s until all are live",
            "cpu": "µs of CPU for a client",
            "meanwhile": "ms for the others, 99th percentile",
        },
        (Ours, Centrifugo, SocketIo, TwistedAndPyJwt),
        meters.storm,
        (Target("seconds", 0.7, "Centrifugo"), Target("seconds", 0.5, "socket.io")),
        (
            "live: subscribed to all three, with the 20; the others: 100 that stay and are sent 20 messages a second",
            STORED,
            SIGNED_IN,
        ),
    ),
    Path(
        "recovery",
        "Recovery: 1,000 clients sign in and are told the 100 messages behind their position",
        {"cpu": "µs of CPU for a client", "seconds": "s for all"},
        (*ON_FLOOR, TwistedAndPyJwt),
        meters.recovery,
        (Target("cpu", 0.7, "Centrifugo"),),
        (STORED, FLOOR, SIGNED_IN),
    ),
    Path(
        "presence",
        "Presence: 10,000 in one channel, 200 more sign in and join in a second",
        {"cpu": "ms of CPU for a join"},
        (*ON_FLOOR, TwistedAndPyJwt),
        meters.presence,
        (Target("cpu", 0.7, "Centrifugo"),),
        ("presence is kept; joins are not announced to the 10,000", FLOOR, SIGNED_IN),
    ),
    Path(
        "channels",
        "100,000 channels of one subscriber, 100 to a connection: publications to one after another",
        {"cpu": "µs of CPU for a publication", "memory": "bytes of memory for a channel"},
        BOTH,
        meters.own_channels,
        notes=("a channel's memory holds its part of the connection",),
    ),
    Path(
        "idle",
        "10,000 idle connections, signed in, 3 subscriptions, pings on",
        {"memory": "KiB of memory for a connection", "cpu": "ms of CPU a second, for all"},
        BOTH,
        meters.idle,
        (Target("memory", 0.3, "Centrifugo"), Target("cpu", 1.0, "Centrifugo")),
    ),
    Path(
        "inbox",
        "Durable messages to the inboxes of 1,000 connected users, 32 publishers at once, one message a request",
        {"rate": "messages a second", "cpu": "µs of CPU for a message"},
        ALONE,
        meters.notified,
    ),
    Path(
        "inbox-reading",
        "Reading inboxes: 1,000 users sign in and are sent the 20 messages that wait for each",
        {"cpu": "µs of CPU for a user", "seconds": "s for all"},
        ALONE,
        meters.pending,
    ),
    Path(
        "progress",
        "Progress of 1,000 tasks, 10 reports a second each in batches of 100, shown to their owners once a second",
        {"cpu": "µs of CPU for a report"},
        ALONE,
        meters.progress,
        notes=("where the server cannot keep that pace, reports come later: each round's record has the rate reached",),
    ),
    Path(
        "output",
        "Output of 32 tasks at once, 100 bytes an append, a follower for each",
        {"rate": "appends a second", "cpu": "µs of CPU for an append"},
        ALONE,
        meters.output,
    ),
    Path(
        "events",
        "Ends of tasks told to a webhook, 32 publishers at once, one task a request",
        {"rate": "events a second", "cpu": "µs of CPU for an event"},
        (NotifyingOurs,),
        meters.told,
        notes=("with what ending the task costs",),
    ),
    *map(_latency, (Centrifugo, Sockudo, Nats, SocketIo, MicroWebSockets, NodeWs)),
    Path(
        "start",
        "Process start to ready",
        {"seconds": "s"},
        (Ours, Centrifugo, SocketIo, MicroWebSockets, NodeWs),
        meters.start,
        (Target("seconds", 1.5),),
    ),
)

#: Not one that a user pays for, and so not taken unless it is named: it shows that the others can be believed.
PROOF = Path(
    "proof",
    "What the scoreboard notices: fan-out as above, of one build, beside itself and with a planted slowdown",
    DELIVERY,
    (Ours, TheSame, Slower),
    meters.one_a_turn,
    (
        Target("cpu", 1.05, "pushserver", row="the same build"),
        Target("cpu", 1.05, "pushserver", row="slower by a tenth", planted=True),
    ),
)

BY_NAME = {path.name: path for path in (*PATHS, PROOF)}

PEERS = {kind.name: kind for path in PATHS for kind in path.peers if not issubclass(kind, Ours)}
