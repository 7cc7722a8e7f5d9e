"""Native clients and SDKs in the same rooms: whatever happens, both are told the same, in the same order, once.

Each run does two hundred things by a seed: clients come, lose their connection, go on where they were, follow, leave,
publish and acknowledge, while the server side publishes and notifies. Then all that is missing has time to come.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from pushserver.core.protocol import ClientProtocol
from tests.fakes import texts
from tests.protocols.centrifuge.sdk import LANGUAGES, Sdk
from tests.protocols.paper import LocalNode, Native, Paper

ACTIONS = 200
SETTINGS = """
[centrifuge]
enabled = true
[[namespaces]]
name = "room"
publish = "authenticated"
history_size = 1000
presence = true
join_leave = true
[heartbeat]
interval = "1h"
timeout = "1h"
[rate_limits]
publications_per_second = 0
publication_bytes_per_second = 0
"""
ROOMS = ("room:a", "room:b")
USERS = ("ann", "bob")

Position = tuple[int, str]
#: An offset, and what stands there: the data, and who published it.
Message = tuple[int, Any, str | None]


class _Plain(Native):
    """The native protocol, its messages as they are."""

    def protocol(self) -> ClientProtocol:
        return super().protocol()

    def frames(self, commands: list[Any]) -> list[bytes]:
        return [json.dumps(command).encode() for command in commands]

    def read(self, octets: bytes) -> list[Any]:
        return texts(octets)


class Device:
    """One device of a user: it remembers where it was in each channel, and what it was told."""

    def __init__(self, place: LocalNode, user: str) -> None:
        self.place = place
        self.user = user
        self.rooms: set[str] = set()
        self.positions: dict[str, Position] = {}
        self.told: dict[str, list[Message]] = {}
        #: where each room stood when it was followed first
        self.begun: dict[str, int] = {}

    @property
    def inbox(self) -> str:
        return f"user:{self.user}"

    @property
    def connected(self) -> bool:
        raise NotImplementedError

    def begin(self, room: str, offset: int, epoch: str) -> None:
        """A room is followed from here on."""
        self.begun[room] = offset
        self.positions[room] = (offset, epoch)

    def note(self, channel: str, offset: int, data: Any, author: str | None) -> None:
        """A message was told."""
        epoch = self.positions[channel][1]
        self.told.setdefault(channel, []).append((offset, data, author))
        self.positions[channel] = (offset, epoch)

    async def come(self) -> None:
        """Connect, and follow what was followed before."""
        raise NotImplementedError

    async def follow(self, room: str) -> None:
        raise NotImplementedError

    async def leave(self, room: str) -> None:
        raise NotImplementedError

    async def publish(self, room: str, data: Any) -> None:
        raise NotImplementedError

    async def present(self, room: str) -> set[str]:
        """Return the users who are there."""
        raise NotImplementedError

    async def acknowledge(self) -> None:
        """Acknowledge what came of the inbox."""
        raise NotImplementedError

    def take(self) -> None:
        """Note what has come since."""
        raise NotImplementedError

    def vanish(self) -> None:
        raise NotImplementedError

    def left(self, room: str) -> None:
        """What was told of a room that was left counts no more; the next time begins anew."""
        self.rooms.discard(room)
        self.positions.pop(room, None)
        self.told.pop(room, None)


class NativeDevice(Device):
    _paper: Paper | None = None
    _taken = 0

    @property
    def connected(self) -> bool:
        return self._paper is not None

    async def _ask(self, type: str, **data: Any) -> Any:
        assert self._paper is not None
        paper, id = self._paper, next(self.place.numbers)
        paper.send({"type": type, "id": id, "data": data})  # type: ignore[arg-type]
        found = await self.place.until(lambda: next((m for m in paper.all if m.get("id") == id), None))  # type: ignore[attr-defined]
        assert found["type"] != "error", found
        return found["data"]

    async def come(self) -> None:
        self._paper, self._taken = self.place.connect(_Plain()), 0
        known = self.positions.get(self.inbox)
        positions = {} if known is None else {self.inbox: {"offset": known[0], "epoch": known[1]}}
        inbox = (await self._ask("auth", token=self.place.token(self.user), positions=positions))["inbox"]
        self.positions.setdefault(self.inbox, (0, inbox["epoch"]))
        for room in sorted(self.rooms):
            await self.follow(room)

    async def follow(self, room: str) -> None:
        known = self.positions.get(room)
        item: Any = room
        if known is not None:
            item = {"channel": room, "since": {"offset": known[0], "epoch": known[1]}}
        result = (await self._ask("subscribe", channels=[item]))["results"][room]
        if known is None:
            self.begin(room, result["offset"], result["epoch"])
        else:
            assert result["recovered"], (room, known, result)
            for message in result["messages"]:
                self.note(room, message["offset"], message["data"], message.get("from"))
        self.rooms.add(room)

    async def leave(self, room: str) -> None:
        await self._ask("unsubscribe", channels=[room])
        self.left(room)

    async def publish(self, room: str, data: Any) -> None:
        await self._ask("publish", channel=room, data=data)

    async def present(self, room: str) -> set[str]:
        return {user["userId"] for user in (await self._ask("presence", channel=room))["users"]}

    async def acknowledge(self) -> None:
        offset, epoch = self.positions[self.inbox]
        await self._ask("ack", offset=offset, epoch=epoch)

    def take(self) -> None:
        assert self._paper is not None
        messages: list[Any] = self._paper.all
        for message in messages[self._taken :]:
            channel = message.get("channel", "")
            wanted = channel in self.rooms or channel == self.inbox
            if wanted and "id" not in message and "offset" in message:
                self.note(channel, message["offset"], message["data"], message.get("from"))
        self._taken = len(messages)

    def vanish(self) -> None:
        assert self._paper is not None
        self.take()
        self._paper.vanish()
        self._paper = None


class SdkDevice(Device):
    """It goes on in its rooms one by one, and acknowledges by its pongs."""

    def __init__(self, place: LocalNode, user: str, language: str) -> None:
        super().__init__(place, user)
        self._language = language
        self._sdk: Sdk | None = None
        self._taken = 0

    @property
    def connected(self) -> bool:
        return self._sdk is not None

    async def _call(self, **request: Any) -> Any:
        assert self._sdk is not None
        reply = await self._sdk.call(**request)
        assert "error" not in reply, (request, reply)
        (result,) = reply.values()
        return result

    @staticmethod
    def _from(position: Position | None) -> dict[str, Any]:
        return {} if position is None else {"recover": True, "offset": position[0], "epoch": position[1]}

    async def come(self) -> None:
        self._sdk, self._taken = Sdk(self.place, LANGUAGES[self._language]()), 0
        known = self.positions.get(self.inbox)
        told = await self._sdk.connect(self.user, subs={self.inbox: self._from(known)})
        own = told["subs"][self.inbox]
        assert known is None or (own["recovered"], own["offset"]) == (True, known[0])
        self.positions[self.inbox] = (own.get("offset", 0), own["epoch"])
        for room in sorted(self.rooms):
            await self.follow(room)

    async def follow(self, room: str) -> None:
        known = self.positions.get(room)
        begun = await self._call(subscribe={"channel": room, **self._from(known)})
        if known is None:
            self.begin(room, begun["offset"], begun["epoch"])
        else:
            assert begun["recovered"], (room, known, begun)
            for publication in begun.get("publications", ()):
                self._note(room, publication)
        self.rooms.add(room)

    def _note(self, channel: str, publication: Any) -> None:
        author = publication.get("info", {}).get("user")
        self.note(channel, publication["offset"], publication["data"], author)

    async def leave(self, room: str) -> None:
        await self._call(unsubscribe={"channel": room})
        self.left(room)

    async def publish(self, room: str, data: Any) -> None:
        await self._call(publish={"channel": room, "data": data})

    async def present(self, room: str) -> set[str]:
        found = (await self._call(presence={"channel": room}))["presence"]
        return {shown["user"] for shown in found.values()}

    async def acknowledge(self) -> None:
        assert self._sdk is not None
        self._sdk.ping()
        self._sdk.pong()

    def take(self) -> None:
        assert self._sdk is not None
        pushes = self._sdk.told
        for push in pushes[self._taken :]:
            channel = push["channel"]
            if "pub" in push and (channel in self.rooms or channel == self.inbox) and "offset" in push["pub"]:
                self._note(channel, push["pub"])
        self._taken = len(pushes)

    def vanish(self) -> None:
        assert self._sdk is not None
        self.take()
        self._sdk.vanish()
        self._sdk = None


@pytest_twisted.async_yield_fixture
async def place(engine: str, tmp_path: Path) -> AsyncIterator[LocalNode]:
    place = await LocalNode(tmp_path, engine, SETTINGS).start()
    yield place
    await place.stop()


async def happen(place: LocalNode, devices: list[Device], rng: random.Random) -> None:
    """Let one thing happen."""
    device, room = rng.choice(devices), rng.choice(ROOMS)
    what = rng.choice(("publish",) * 6 + ("server", "notify", "notify", "follow", "follow", "leave", "drop", "ack"))
    number = next(place.numbers)
    if what == "server":
        await place.execute("publish", channel=room, data={"n": number})
    elif what == "notify":
        await place.execute("notify", userId=rng.choice(USERS), data={"n": number})
    elif not device.connected:
        await device.come()
    elif what == "publish":
        await device.publish(room, {"n": number, "by": device.user})
    elif what == "follow" and room not in device.rooms:
        device.take()
        await device.follow(room)
    elif what == "leave" and room in device.rooms:
        await device.leave(room)
    elif what == "drop":
        device.vanish()
    elif what == "ack":
        device.take()
        await device.acknowledge()


async def kept(place: LocalNode, channel: str) -> list[Message]:
    """Return all that a channel keeps."""
    page = await place.engine.history.read(channel, 0, 1_000, False)
    return [(m.offset, json.loads(bytes(m.data)), m.sender) for m in page.messages]


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full), pytest.param(3, marks=pytest.mark.full)])
async def test_both_are_told_the_same(place: LocalNode, seed: int) -> None:
    rng = random.Random(seed)
    devices: list[Device] = []
    for user in USERS:
        devices += [NativeDevice(place, user), SdkDevice(place, user, "json"), SdkDevice(place, user, "protobuf")]
    for device in devices:
        await device.come()
    for _ in range(ACTIONS):
        await happen(place, devices, rng)
    for device in devices:
        if not device.connected:
            await device.come()

    def caught_up(device: Device, channel: str, messages: list[Message]) -> bool:
        device.take()
        return not messages or device.positions[channel][0] >= messages[-1][0]

    for room in ROOMS:
        messages = await kept(place, room)
        for device in devices:
            if room not in device.rooms:
                continue
            await place.until(lambda device=device, room=room, messages=messages: caught_up(device, room, messages))
            # All since it came, in order, once.
            expected = [message for message in messages if message[0] > device.begun[room]]
            assert device.told.get(room, []) == expected, (device.user, room)
        users = {device.user for device in devices if room in device.rooms}
        assert {frozenset(await device.present(room)) for device in devices} == {frozenset(users)}
    for user in USERS:
        page = await place.engine.inbox.read(user, 0, 1_000)
        messages = [(m.offset, json.loads(bytes(m.data)), m.sender) for m in page.messages]
        assert messages
        for device in devices:
            if device.user == user:
                await place.until(lambda device=device, messages=messages: caught_up(device, device.inbox, messages))
                assert device.told[device.inbox] == messages
