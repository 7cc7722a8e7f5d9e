"""Devices: a user's connections, which follow the documented protocol alone and write down all that they see.

comes back after every loss, on a node that chance chooses, after a pause
signs in with its positions (``positions``), or without; acknowledges what came (``acks``), or not
subscribes to its channels with its positions; after a loss that it was told of, without
sends a `ping` when nothing comes, and takes a connection that stays silent for lost
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import jwt
from twisted.internet.address import IPv4Address
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from . import wire
from .history import History
from .network import Network
from .nodes import PORT, SECRET
from .world import BEGINNING, Process, World

#: Seconds that connecting and the handshake may take.
OPENING = 5.0

#: Of so many messages that came last some are marked, or deleted.
RECENT = 8

#: A position: offset and epoch.
Position = tuple[int, str]


def token(world: World, user: str, **claims: Any) -> str:
    """Return a token that outlives the run, also by a clock that is set by a day."""
    now = BEGINNING // 1000 + int(world.now)
    return jwt.encode({"sub": user, "iat": now - 86_400, "exp": now + 10 * 86_400, **claims}, SECRET, "HS256")


class Line(Protocol):
    """A device's connection: a WebSocket."""

    transport: Any
    #: seconds of silence until its device sends a ping, and until it gives the connection up
    ping_after, silence = 8.0, 12.0

    def __init__(self, device: Device, number: int) -> None:
        self._device = device
        self.number = number
        self._buffer = b""
        self._open = False
        self.over = False
        self.code: int | None = None
        self.received_at = device.world.now

    def connectionMade(self) -> None:
        self.transport.purpose = "device"
        self.transport.write(wire.upgrade())

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        self.received_at = self._device.world.now
        try:
            if not self._open:
                status, _, self._buffer = wire.take_head(self._buffer)
                if status != 101:
                    self.code = status
                    self.transport.abortConnection()
                    return
                self._open = True
                self._device.opened(self)
            while not self.over:
                opcode, payload, self._buffer = wire.take_frame(self._buffer)
                self._take(opcode, payload)
        except wire.Incomplete:
            pass

    def _take(self, opcode: int, payload: bytes) -> None:
        if opcode == wire.TEXT:
            self._device.receive(self, json.loads(payload))
        elif opcode == wire.PING:
            self.transport.write(wire.frame(wire.PONG, payload))
        elif opcode == wire.CLOSE:
            self.code = int.from_bytes(payload[:2], "big") if payload else 1005
            self.transport.loseConnection()

    def send(self, type: str, data: Any, id: int | None = None) -> None:
        message = {"type": type, "data": data} | ({} if id is None else {"id": id})
        self.transport.write(wire.frame(wire.TEXT, json.dumps(message).encode()))

    def close(self) -> None:
        self.transport.write(wire.frame(wire.CLOSE, (1000).to_bytes(2, "big")))
        self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.over:
            self.over = True
            self._device.lost(self, self.code)


class Device:
    """One device of a user.

    Args:
        acks: whether it acknowledges what it received.
        positions: whether it signs in with the position that it reached.
        channels: what it subscribes to.
        node: chooses the address of a node to connect to; None where there is none.
    """

    def __init__(
        self,
        world: World,
        network: Network,
        history: History,
        name: str,
        user: str,
        *,
        acks: bool,
        positions: bool,
        channels: list[str],
        choose: Callable[[], tuple[str, str] | None],
        number: int,
    ) -> None:
        self.world = world
        self.name = name
        self.user = user
        self.acks = acks
        self.with_positions = positions
        self.channels = channels
        self.network = network
        self._history = history
        self.choose = choose
        self.process = Process(world, name, f"10.0.2.{number}")
        self.line: Line | None = None
        self._node = ""
        self._connections = 0
        self.positions: dict[str, Position] = {}
        #: whether it is to be connected
        self.wanted = True
        self.signed_in = False
        #: by number: what is called with the reply
        self.requests: dict[int, Callable[[str, Any], None]] = {}
        self._number = 0
        self._acked: Position | None = None
        #: by epoch: the offsets in the inbox of what came, in that order
        self._inbox: dict[str, list[int]] = {}
        self._acking = False
        #: channels that are subscribed to once more in a moment
        self._again_soon: set[str] = set()

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "user": self.user,
            "acks": self.acks,
            "positions": self.with_positions,
            "channels": self.channels,
        }

    # -- connecting ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Be connected from now on."""
        self.wanted = True
        self.process.later(0, self._connect)

    def leave(self) -> None:
        """Close, and stay away."""
        self.wanted = False
        self.process.later(0, self._leave)

    def _leave(self) -> None:
        if self.line is None:
            return
        if self.line.transport is None:
            self._give_up(self.line)
        else:
            self.line.close()

    def drop(self) -> None:
        """Lose the connection without a word, and come back."""
        if self.line is not None and self.line.transport is not None:
            self.line.transport.cut()

    def _connect(self) -> None:
        if not self.wanted or self.line is not None:
            return
        chosen = self.choose()
        if chosen is None:
            self._again()
            return
        self._node, host = chosen
        self._connections += 1
        line = self.line = self.make_line(self._connections)
        self.requests = {}
        self._again_soon = set()
        self.signed_in = self._acking = False

        def build(address: IPv4Address) -> Line | None:
            return None if line.over else line

        self.network.connect(self.process, (host, PORT), build, lambda failure: self.lost(line, None))
        self.process.later(OPENING, self._late, line)

    def make_line(self, number: int) -> Line:
        """Return a connection that is to be made."""
        return Line(self, number)

    def _late(self, line: Line) -> None:
        if self.line is line and not self.signed_in:
            self._give_up(line)

    def _give_up(self, line: Line) -> None:
        if line.transport is not None:
            line.transport.abortConnection()
        else:
            line.over = True
            self.lost(line, None)

    def _again(self) -> None:
        self.process.later(self.world.chance.uniform(0.05, 1.0), self._connect)

    def lost(self, line: Line, code: int | None) -> None:
        if self.line is not line:
            return
        self.line = None
        self.signed_in = False
        self._history.note("lost", device=self.name, connection=line.number, code=code)
        for on_answer in list(self.requests.values()):
            on_answer("lost", None)
        self.requests = {}
        if self.wanted:
            self._again()

    def opened(self, line: Line) -> None:
        self.begin(line)
        own = f"user:{self.user}"
        given = {own: self.positions[own]} if self.with_positions and own in self.positions else {}
        data: dict[str, Any] = {"token": self.token()}
        if given:
            data["positions"] = {name: {"offset": at, "epoch": epoch} for name, (at, epoch) in given.items()}
        self._ask("auth", data, lambda type, data: self._signed_in(line, given, type, data))

    def token(self) -> str:
        """Return a token of the user, who may write to others."""
        return token(self.world, self.user, permissions=["publish:user:*"])

    def begin(self, line: Line) -> None:
        """A connection begins: from now on it is watched."""
        self._history.note("opened", device=self.name, connection=line.number, node=self._node)
        self._watch(line)

    def _watch(self, line: Line) -> None:
        """Look whether the connection still lives."""
        if self.line is not line:
            return
        silence = self.world.now - line.received_at
        if silence >= line.silence:
            self._give_up(line)
            return
        if silence >= line.ping_after:
            line.send("ping", {})
        self.process.later(1.0, self._watch, line)

    def _signed_in(self, line: Line, given: dict[str, Position], type: str, data: Any) -> None:
        if type != "auth_success":
            return
        self.note_signed_in(line, given, data.get("results", {}), data)
        inbox = data["inbox"]
        # Where it stood holds until something else came, also over a loss: what it has not seen is still after that.
        if inbox["pending"] == 0:
            self.positions[f"user:{self.user}"] = (inbox["offset"], inbox["epoch"])
        if self.channels:
            self._subscribe(self.channels)

    def note_signed_in(self, line: Line, given: Mapping[str, Position | None], results: Any, data: Any) -> None:
        """It is signed in. ``given``: the positions that it signed in with."""
        self.signed_in = True
        self._history.note(
            "signed_in",
            device=self.name,
            connection=line.number,
            given=given,
            results=results,
            inbox=data["inbox"],
            tasks=data["tasks"],
        )

    def _subscribe(self, channels: list[str]) -> None:
        line = self.line
        assert line is not None
        given = {name: self.positions[name] for name in channels if name in self.positions}
        items: list[Any] = [
            {"channel": name, "since": {"offset": given[name][0], "epoch": given[name][1]}} if name in given else name
            for name in channels
        ]

        def answered(type: str, data: Any) -> None:
            if type == "subscription_success":
                self.subscribed(line, channels, given, data)

        self._ask("subscribe", {"channels": items}, answered)

    def subscribed(self, line: Line, channels: list[str], given: Mapping[str, Position], data: Any) -> None:
        """An answer came of a subscription to these channels."""
        results = {name: data["results"][name] for name in channels if name in data["results"]}
        plain = {name: {k: v for k, v in result.items() if k != "messages"} for name, result in results.items()}
        rejected = {name: problem["code"] for name, problem in data.get("rejected", {}).items()}
        self._history.note(
            "subscribed", device=self.name, connection=line.number, given=given, results=plain, rejected=rejected
        )
        for name, result in results.items():
            for push in result.get("messages", []):
                self.deliver(line, push, replay=True)
            if "offset" in result:
                self.positions[name] = (result["offset"], result["epoch"])
        again = [name for name, code in rejected.items() if code == "UNAVAILABLE"]
        for name in again:
            self.subscribe_soon(line, name, 0.5)

    def subscribe_soon(self, line: Line, channel: str, seconds: float) -> None:
        """Subscribe once more after so long, however often that is asked meanwhile."""
        if channel not in self._again_soon:
            self._again_soon.add(channel)
            self.process.later(seconds, self._subscribe_again, line, channel)

    def _subscribe_again(self, line: Line, channel: str) -> None:
        if self.line is line and self.signed_in:
            self._again_soon.discard(channel)
            self._subscribe([channel])

    def resubscribe(self) -> None:
        """Subscribe once more to all that it follows, with what it has."""
        self.process.later(0, self._resubscribe)

    def _resubscribe(self) -> None:
        if self.signed_in:
            self._subscribe(self.channels)

    def ask_statuses(self) -> None:
        """Subscribe once more to what tells who is online."""
        statuses = [name for name in self.channels if name.startswith("status:")]
        if self.signed_in and statuses:
            self._subscribe(statuses)

    # -- requests -----------------------------------------------------------------------------------------------------

    def _ask(self, type: str, data: Any, on_answer: Callable[[str, Any], None]) -> None:
        """Send a request; ``on_answer`` is called with the reply's type and data, or ``lost``."""
        assert self.line is not None
        self._number += 1
        self.requests[self._number] = on_answer
        self.line.send(type, data, self._number)

    def call(self, what: str, type: str, data: Any) -> None:
        """Make a call of a user's own, such as a publication, where it is signed in."""
        if not self.signed_in:
            return
        number = self._history.call(self.name, self._node, what, data)

        def on_answer(type: str, reply: Any) -> None:
            if type == "lost":
                self._history.unknown(number, "lost")
            elif type == "error":
                self._history.refused(number, reply["code"])
            else:
                self._history.done(number, reply)

        self._ask(type, data, on_answer)

    def change_inbox(self, what: str, more: dict[str, Any], up_to: bool) -> None:
        """Mark some of the messages that came last, all up to one (``up_to``), or delete them."""
        self.process.later(0, self._change_inbox, what, more, up_to)

    def _change_inbox(self, what: str, more: dict[str, Any], up_to: bool) -> None:
        position = self.positions.get(f"user:{self.user}")
        latest = [] if position is None else self._inbox.get(position[1], [])[-RECENT:]
        if position is None or not latest:
            return
        offsets = sorted(self.world.chance.sample(latest, min(len(latest), self.world.chance.randint(1, 3))))
        chosen: dict[str, Any] = {"upTo": offsets[-1]} if up_to else {"offsets": offsets}
        self.call(what, what.replace(".", "_"), {"epoch": position[1]} | chosen | more)

    def list_inbox(self, unread: bool) -> None:
        """Ask for the newest page of the inbox."""
        self.process.later(0, self.call, "inbox.list", "inbox", {"limit": 50, "unread": unread})

    # -- what comes ---------------------------------------------------------------------------------------------------

    def receive(self, line: Line, message: Any, **more: Any) -> None:
        """Something came. ``more``: what else the history says of it where it is a message of a channel."""
        if self.line is not line:
            return
        on_answer = self.requests.pop(message["id"], None) if "id" in message else None
        if on_answer is not None:
            on_answer(message["type"], message.get("data"))
        elif message["type"] in ("resync", "inbox_overflow", "unsubscribed", "going_away", "error", "inbox_changed"):
            self._told(line, message)
        elif "channel" in message:
            self.deliver(line, message, replay=False, **more)

    def _told(self, line: Line, message: Any) -> None:
        data = message.get("data") or {}
        self._history.note("told", device=self.name, connection=line.number, what=message["type"], data=data)
        if message["type"] != "resync":
            return
        channel = data.get("channel") or message.get("channel")
        if channel in self.channels:
            self.positions.pop(channel, None)
            self.subscribe_soon(line, channel, self.world.chance.uniform(0.01, 0.2))

    def deliver(self, line: Line, push: Any, replay: bool, **more: Any) -> None:
        """A message came. ``more``: what else the history says of it."""
        channel = push["channel"]
        fields = {name: push[name] for name in ("offset", "epoch", "from") if name in push}
        self._history.note(
            "delivery",
            device=self.name,
            connection=line.number,
            channel=channel,
            type=push["type"],
            messageId=push["messageId"],
            data=push["data"],
            replay=replay,
            **fields,
            **more,
        )
        if "offset" not in push:
            return
        self.positions[channel] = (push["offset"], push["epoch"])
        if channel == f"user:{self.user}":
            self._inbox.setdefault(push["epoch"], []).append(push["offset"])
        if self.acks and channel == f"user:{self.user}" and not self._acking:
            self._acking = True
            self.process.later(self.world.chance.uniform(0, 0.5), self._ack, line)

    def _ack(self, line: Line) -> None:
        self._acking = False
        position = self.positions.get(f"user:{self.user}")
        if self.line is line and self.signed_in and position is not None:
            self.call("ack", "ack", {"offset": position[0], "epoch": position[1]})
