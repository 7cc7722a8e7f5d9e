"""What a client shows over everything that ends connections: each message once, in order, to the right user, and soon.

The same rows with both clients, against the server itself; what is cut is cut in a proxy between them. Clocks that are
wrong, or run ahead as after a sleep, are given to the client.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from pushserver.client import Backoff, Client, ClientService, Options, State, UserChanged
from pushserver.publisher import Publisher
from tests.client.fake_proxy import FakeProxy
from tests.harness import Server

CONFIG = """
[auth]
leeway = "0s"
refresh_grace = "1s"
[[namespaces]]
name = "news"
history_size = 1000
"""

QUICK = Options(backoff=Backoff(first=100, cap=300, alone=50))

#: The most ms that a client waits after a lone cut before it comes back.
SOON = 1_000


class Subject(ABC):
    """A client that reads a channel and the inbox, and keeps what it showed."""

    client: Client | ClientService

    def __init__(self, **options: Any) -> None:
        self.ahead = 0.0
        self.states: list[State] = []
        #: ms, of each wait for the next attempt
        self.waits: list[int] = []
        self.shown: list[Any] = []
        self.changes: list[UserChanged] = []
        self.options = {
            "clock": lambda: time.monotonic() + self.ahead,
            "on_state": self.note,
            "on_user_changed": self.changed,
            **options,
        }

    def note(self, state: State) -> None:
        self.states.append(state)
        if state is State.WAITING:
            self.waits.append((self.client._core.deadline() or 0) - self.client._now())

    def changed(self, change: UserChanged) -> None:
        """Read on as whoever came."""
        self.changes.append(change)
        self.read()

    def show(self, push: Any) -> None:
        assert push.type in ("message", "user_notification"), push.type
        self.shown.append((push.channel, push.data["n"]))

    def idle(self) -> bool:
        """Nothing waits for an answer that a clock running ahead would call late."""
        core = self.client._core
        return not core._requests._pending and core._cursor.outstanding is None

    def connections(self) -> int:
        return self.states.count(State.CONNECTED)

    @abstractmethod
    def read(self) -> None: ...

    @abstractmethod
    async def open(self) -> None:
        """Connect and read; what is published after it is shown."""

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def pause(self, seconds: float) -> None: ...

    @abstractmethod
    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call what blocks, while the client goes on."""

    async def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline, (self.shown, self.states)
            await self.pause(0.01)


class Asyncio(Subject):
    client: Client

    async def open(self) -> None:
        self.readers: list[asyncio.Task[None]] = []
        self.client = Client(**self.options)
        await self.client.open()
        self.read()
        await self.client.subscribe("news:a").ready()

    def read(self) -> None:
        for reader in (self.client.subscribe("news:a"), self.client.inbox()):
            self.readers.append(asyncio.ensure_future(self._read(reader)))

    async def _read(self, reader: Any) -> None:
        try:
            async for push in reader:
                self.show(push)
        except UserChanged:
            pass

    async def close(self) -> None:
        await self.client.close()
        await asyncio.gather(*self.readers)

    async def pause(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)


class Twisted(Subject):
    client: ClientService

    async def open(self) -> None:
        self.client = ClientService(**self.options, reactor=reactor)
        self.client.startService()
        await self.client.when_connected()
        self.read()
        probe = self.client.subscribe("news:a", lambda push: None)
        await probe.ready()
        probe.close()

    def read(self) -> None:
        for reading in (self.client.subscribe("news:a", self.show), self.client.inbox(self.show)):
            reading.done.addErrback(lambda failure: failure.trap(UserChanged))

    async def close(self) -> None:
        await self.client.stopService()

    async def pause(self, seconds: float) -> None:
        pausing: Deferred[None] = Deferred()
        reactor.callLater(seconds, pausing.callback, None)  # type: ignore[attr-defined]
        await pausing

    async def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        return await deferToThread(function, *arguments)


async def run(kind: type[Subject], row: Coroutine[Any, Any, None]) -> None:
    if kind is Asyncio:
        asyncio.run(row)
    else:
        await row


both = pytest.mark.parametrize("kind", [Asyncio, Twisted])


class World:
    """A server, a proxy before it, and somebody who publishes."""

    def __init__(self, start_server: Callable[..., Server], proxy: FakeProxy) -> None:
        self._start = start_server
        self.proxy = proxy
        self.server = start_server(config=CONFIG)
        self.publisher = Publisher(self.server.url, api_key=self.server.api_key, timeout=30)
        self.sent = 0

    def options(self, **more: Any) -> dict[str, Any]:
        return {"url": self.server.ws_url, "proxy": self.proxy.url, "token": self.server.token("42"), **more}

    def send(self, user: str = "42") -> None:
        """One message to the channel and one to the user."""
        self.sent += 1
        self.publisher.publish("news:a", {"n": self.sent})
        self.publisher.notify(user, {"n": self.sent})

    def kill(self) -> None:
        self.server.kill()

    def start_again(self) -> None:
        old = self.server
        self.server = self._start(
            "--state-dir", str(old.state_dir), config=CONFIG, port=old.port, secret=old.secret, api_key=old.api_key
        )

    def close(self) -> None:
        self.publisher.close()


@pytest.fixture
def world(start_server: Callable[..., Server], proxy: FakeProxy) -> Iterator[World]:
    world = World(start_server, proxy)
    yield world
    world.close()


def everything(world: World, subject: Subject) -> bool:
    """Whether each message was shown once and in order, and none is missing."""
    news = [n for channel, n in subject.shown if channel == "news:a"]
    mine = [n for channel, n in subject.shown if channel != "news:a"]
    assert news == sorted(set(news))
    assert mine == sorted(set(mine))
    return news == mine == list(range(1, world.sent + 1))


@both
@pytest_twisted.ensureDeferred
async def test_cut(world: World, kind: type[Subject]) -> None:
    async def row() -> None:
        subject = kind(**world.options())
        await subject.open()
        for n in range(3):
            await subject.call(world.send)
            world.proxy.cut()
            await subject.call(world.send)
            await subject.until(lambda n=n: subject.connections() == n + 2)
        assert subject.waits[0] <= SOON
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        await subject.close()

    await run(kind, row())


@both
@pytest_twisted.ensureDeferred
async def test_node_killed(world: World, kind: type[Subject]) -> None:
    async def row() -> None:
        # Its waits are for crowds: here it is alone, and a test is in a hurry.
        subject = kind(**world.options(options=QUICK))
        await subject.open()
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        await subject.call(world.kill)
        await subject.call(world.start_again)
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        assert subject.connections() == 2
        await subject.close()

    await run(kind, row())


@both
@pytest_twisted.ensureDeferred
async def test_token_expired(world: World, kind: type[Subject]) -> None:
    async def row() -> None:
        def token() -> str:
            # A busy machine may be late with the first one: then it gets another that ends soon.
            life = 3600 if subject.connections() else 2
            return world.server.token("42", exp=int(time.time()) + life)

        subject = kind(**world.options(token=token))
        await subject.open()
        await subject.call(world.send)
        await subject.until(lambda: subject.connections() == 2)
        assert subject.waits[0] <= SOON
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        await subject.close()

    await run(kind, row())


@both
@pytest.mark.full
@pytest_twisted.ensureDeferred
async def test_another_user(world: World, kind: type[Subject]) -> None:
    users = iter(["42", "7"])

    async def row() -> None:
        subject = kind(**world.options(token=lambda: world.server.token(next(users), exp=int(time.time()) + 600)))
        await subject.open()
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        await subject.until(subject.idle)
        subject.ahead = 590.0
        # The server's heartbeat or anything else that comes has the client look at its clock.
        await subject.call(world.send)
        await subject.until(lambda: subject.connections() == 2)
        assert [(change.from_, change.to) for change in subject.changes] == [("42", "7")]
        shown = len(subject.shown)
        await subject.call(world.send, "42")
        await subject.call(world.send, "7")
        await subject.until(lambda: ("user:7", world.sent) in subject.shown)
        assert not any(channel == "user:42" for channel, _ in subject.shown[shown:])
        await subject.close()

    await run(kind, row())


@both
@pytest.mark.full
@pytest.mark.parametrize("wrong_by", [-3600, 3600])
@pytest_twisted.ensureDeferred
async def test_clock_an_hour_wrong(
    world: World, kind: type[Subject], wrong_by: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def fetch() -> str:
        fetched.append(1)
        return world.server.token("42", exp=int(time.time()) + 1_000)

    async def row() -> None:
        wall = SimpleNamespace(time=lambda: time.time() + wrong_by)
        with monkeypatch.context() as patch:
            patch.setattr("pushserver.client.shell.time", wall)
            subject = kind(**world.options(token=fetch))
        await subject.open()
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        await subject.until(subject.idle)
        subject.ahead = 600.0
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        assert len(fetched) == 1
        await subject.until(subject.idle)
        subject.ahead = 950.0
        await subject.call(world.send)
        await subject.until(lambda: len(fetched) == 2)
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        assert subject.connections() == 1
        await subject.close()

    await run(kind, row())


@both
@pytest.mark.full
@pytest_twisted.ensureDeferred
async def test_asleep_for_ten_minutes(world: World, kind: type[Subject]) -> None:
    async def row() -> None:
        subject = kind(**world.options())
        await subject.open()
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        world.proxy.cut()
        subject.ahead = 600.0
        await subject.call(world.send)
        await subject.until(lambda: everything(world, subject))
        assert subject.connections() == 2
        await subject.close()

    await run(kind, row())
