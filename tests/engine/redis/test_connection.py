"""Ways to Redis: addresses, users, TLS, time limits, bounds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import hiredis
import pytest
import txredisapi
from twisted.internet import task, tcp
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.main import CONNECTION_LOST
from twisted.internet.task import deferLater
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from pushserver.core import errors
from pushserver.engine.interfaces import IdempotencyKey
from pushserver.engine.redis import connection
from pushserver.engine.redis.settings import RedisAddress
from pushserver.server.clock import Clock
from tests.certificates import certificates
from tests.conftest import LoggedErrors

from .nodes import KEPT, Cluster, impatient, publication, settings, until
from .servers import RedisServer, free_port

#: What `docs/redis.md` asks for.
ACL = (
    "on >secret resetkeys ~push:* resetchannels &push:* "
    "-@all +@read +@write +@pubsub +@scripting +@connection +time +wait -@dangerous +info +role"
)


async def works(node: Any) -> None:
    """Everything that the engine does with Redis, once."""
    assert node.engine.trouble() is None
    await node.broker.subscribe("a")
    await node.broker.publish(publication("a", 1), None, None)
    await node.broker.publish(publication("a", 2), KEPT, IdempotencyKey(node.name))
    await node.received(2)
    await node.history.read("a", 0, 10, False)
    published = await node.inbox.append(publication("user:7", 1), "7", True, 1000, "c", None)
    await node.inbox.read("7", None, 10)
    await node.inbox.acknowledge("7", 1, published.epoch)
    await node.inbox.clear("7")
    await node.tasks.of_user("7", False, 10)
    await node.tasks.stale(1, 10)
    await node.presence.connect("7", "c")
    await node.presence.join("a", "7", "c", None)
    await node.presence.members("a")
    await node.presence.leave("a", "7", "c")
    await node.presence.disconnect("7", "c", 1)
    await node.revocations.revoke_token("j", node.engine.presence._clock.now() + 60_000)
    await node.revocations.revoke_user("7", 1, node.engine.presence._clock.now() + 60_000)
    assert len((await node.broker.survey(b"?", 1000)).answers) == len(await node.broker.nodes())
    node.broker.unsubscribe("a")


async def test_a_unix_socket_and_another_database(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(f"unix://{redis.path}?db=3")
    await works(node)
    assert "db3:" in redis.command("INFO", "keyspace")
    assert "db0:" not in redis.command("INFO", "keyspace")


async def test_deployments_in_two_databases_do_not_hear_each_other(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    foreign = await cluster.start(redis.url.replace("/0", "/1"), "b")
    for each in (node, foreign):
        await each.broker.subscribe("a")
    await node.broker.publish(publication("a", 1), None, None)
    await foreign.broker.publish(publication("a", 2), None, None)
    await foreign.received(1)
    assert [len(each.listener.delivered) for each in (node, foreign)] == [1, 1]


async def test_a_user_with_only_the_documented_rights(cluster: Cluster, redis: RedisServer) -> None:
    redis.command("ACL", "SETUSER", "push", *ACL.split(" "))
    redis.command("ACL", "SETUSER", "default", "off")
    node = await cluster.start(redis.url.replace("//", "//push:secret@"))
    await works(node)
    commands: list[Any] = []

    async def execute(method: str, params: Any, once: IdempotencyKey) -> None:
        commands.append(method)

    node.engine.ingest.start(execute)
    await until(lambda: node.engine.ingest.holds)


async def test_a_password_alone(cluster: Cluster, start_redis: Callable[..., RedisServer]) -> None:
    redis = start_redis(requirepass="p%w")
    await works(await cluster.start(redis.url.replace("//", "//:p%25w@")))


@pytest.mark.parametrize("credentials", ["", ":wrong@", "nobody:wrong@"])
async def test_a_wrong_password_ends_the_start(
    cluster: Cluster, start_redis: Callable[..., RedisServer], credentials: str
) -> None:
    redis = start_redis(requirepass="right")
    node = cluster.make(redis.url.replace("//", f"//{credentials}"))
    with pytest.raises(errors.ConfigError, match=r"redis: Redis refused us: (NOAUTH|WRONGPASS)") as caught:
        await node.engine.start(node.listener)
    assert "wrong@" not in str(caught.value)


async def test_a_database_that_does_not_exist_ends_the_start(cluster: Cluster, redis: RedisServer) -> None:
    node = cluster.make(redis.url.replace("/0", "/99"))
    with pytest.raises(errors.ConfigError, match="out of range"):
        await node.engine.start(node.listener)


async def test_tls_with_a_private_authority(
    cluster: Cluster, start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    files = certificates(tmp_path / "pki")
    options = {
        "tls-cert-file": files["cert"],
        "tls-key-file": files["key"],
        "tls-ca-cert-file": files["ca"],
        "tls-auth-clients": "no",
    }
    port = free_port()
    redis = start_redis(**{"port": port, "tls-port": port} | options)
    url = redis.url.replace("redis:", "rediss:")
    await works(await cluster.start(f"{url}?ca={files['ca']}"))
    await works(await cluster.start(f"{url.replace('127.0.0.1', 'localhost')}?ca={files['ca']}", "b"))


async def test_tls_from_someone_else_is_refused(
    cluster: Cluster, start_redis: Callable[..., RedisServer], tmp_path: Path
) -> None:
    files, others = certificates(tmp_path / "pki"), certificates(tmp_path / "others")
    port = free_port()
    options = {
        "port": port,
        "tls-port": port,
        "tls-cert-file": files["cert"],
        "tls-key-file": files["key"],
        "tls-auth-clients": "no",
        "tls-ca-cert-file": files["ca"],
    }
    redis = start_redis(**options)
    for ca in (f"?ca={others['ca']}", ""):
        node = cluster.make(redis.url.replace("redis:", "rediss:") + ca)
        with pytest.raises(errors.ConfigError, match="certificate"):
            await node.engine.start(node.listener)


async def test_more_commands_than_the_bound_fail_at_once(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await cluster.start(redis.url)
    monkeypatch.setattr(connection, "MAX_PENDING", 50)
    calls = [node.broker.publish(publication("a", n), KEPT, None) for n in range(200)]
    results = await DeferredList(calls, consumeErrors=True)
    assert [success for success, _ in results] == [True] * 50 + [False] * 150
    assert all(isinstance(failure.value, errors.Unavailable) for success, failure in results if not success)
    assert [published.offset for success, published in results if success] == list(range(1, 51))


async def test_more_bytes_than_the_bound_fail_at_once(
    cluster: Cluster, redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = await cluster.start(redis.url)
    monkeypatch.setattr(connection, "MAX_PENDING_BYTES", 100_000)
    calls = [node.broker.publish(publication("a", "x" * 60_000, f"m{n}"), KEPT, None) for n in range(3)]
    results = await DeferredList(calls, consumeErrors=True)
    assert [success for success, _ in results] == [True, False, False]


async def test_scripts_that_redis_forgot_are_given_again(cluster: Cluster, redis: RedisServer) -> None:
    node = await cluster.start(redis.url)
    await node.broker.publish(publication("a", 1), KEPT, None)
    redis.command("SCRIPT", "FLUSH")
    assert (await node.broker.publish(publication("a", 2), KEPT, None)).offset == 2
    await works(node)


async def test_stopping_while_redis_is_stopped(cluster: Cluster, redis: RedisServer) -> None:
    from twisted.internet import reactor

    node = await cluster.start(redis.url)
    redis.pause()
    with impatient(node):
        answer = node.broker.publish(publication("a", 1), KEPT, None)
        answer.addErrback(lambda failure: failure.trap(errors.Unavailable))
        await deferLater(reactor, 0)
        cluster.running.remove(node)
        await node.engine.stop()
    await answer
    await node.engine.stop()


async def test_stopping_before_redis_was_ever_there(cluster: Cluster, redis: RedisServer) -> None:
    redis.kill()
    node = await cluster.start(redis.url)
    cluster.running.remove(node)
    await node.engine.stop()
    assert node.engine.trouble() == "the engine is stopped"


async def test_stopping_while_the_first_attempt_waits_for_redis(cluster: Cluster, redis: RedisServer) -> None:
    redis.pause()
    node = cluster.make(redis.url)
    starting = node.engine.start(node.listener)
    await until(lambda: node.engine._commands.commands.attempts == 1, "it connects")
    await node.engine.stop()
    await starting
    assert node.engine.trouble() == "the engine is stopped"


class Moving:
    """A connection on paper, whose clock moves on with every reply."""

    def __init__(self, seconds: float) -> None:
        self.reactor = task.Clock()
        self.protocol = connection.CommandProtocol(Clock(self.reactor))
        self.transport = StringTransport()
        self.protocol.makeConnection(self.transport)
        self.given: list[Any] = []
        self._seconds = seconds

    def ask(self, count: int) -> None:
        for _ in range(count):
            self.protocol.send(5, "PING").addCallbacks(self._note, lambda failure: self._note(failure.value))

    def _note(self, reply: Any) -> None:
        self.given.append(reply)
        self.reactor.rightNow += self._seconds

    def turn(self) -> None:
        """One turn of the reactor: what is due now, and not what that asks for."""
        for call in [call for call in self.reactor.calls if call.getTime() <= self.reactor.seconds()]:
            self.reactor.calls.remove(call)
            call.called = 1
            call.func(*call.args, **call.kw)

    def take(self) -> int:
        given, self.given = self.given, []
        return len(given)


class PaperSocket(tcp.Connection):
    """A socket on paper, which takes so many bytes at once; None: it is lost."""

    def __init__(self, room: int | None = 1000) -> None:
        self.at_once, self.later = b"", b""
        self._room = room

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def writeSomeData(self, data: bytes) -> int | ConnectionLost:
        if self._room is None:
            return CONNECTION_LOST
        self.at_once += data[: self._room]
        return min(len(data), self._room)

    def write(self, data: bytes) -> None:
        self.later += data


def on_a_socket(socket: PaperSocket, reactor: task.Clock | None = None) -> connection.CommandProtocol:
    protocol = connection.CommandProtocol(Clock(reactor or task.Clock()))
    protocol.transport = socket
    protocol.connectionMade()
    return protocol


PING = b"*1\r\n$4\r\nPING\r\n"


def test_what_is_asked_first_is_sent_at_once_and_what_comes_meanwhile_together() -> None:
    socket, reactor = PaperSocket(), task.Clock()
    protocol = on_a_socket(socket, reactor)
    answers = [protocol.send(5, "PING") for _ in range(3)]
    assert (socket.at_once, socket.later) == (PING, b"")
    reactor.advance(0)
    assert (socket.at_once, socket.later) == (PING, 2 * PING)
    protocol.dataReceived(b"+one\r\n+two\r\n")
    answers.append(protocol.send(5, "PING"))
    reactor.advance(0)
    assert (socket.at_once, socket.later) == (PING, 3 * PING)
    protocol.dataReceived(b"+three\r\n+four\r\n")
    assert [each.result for each in answers] == [b"one", b"two", b"three", b"four"]
    protocol.send(5, "PING")
    assert (socket.at_once, socket.later) == (2 * PING, 3 * PING)


@pytest.mark.parametrize("large_first", [False, True])
def test_what_is_large_keeps_its_place_among_what_is_sent_together(large_first: bool) -> None:
    socket, reactor = PaperSocket(0), task.Clock()
    protocol = on_a_socket(socket, reactor)
    large = "x" * (connection.AT_ONCE + 1)
    sent = ["first", *([large, "second", large] if large_first else ["second", large, "third"])]
    for each in sent:
        protocol.send(5, each)
    reactor.advance(0)
    assert socket.later == b"".join(hiredis.pack_command((each,)) for each in sent)


def test_what_was_to_be_sent_with_a_turn_is_lost_with_the_connection() -> None:
    socket, reactor = PaperSocket(), task.Clock()
    protocol = on_a_socket(socket, reactor)
    answers = [protocol.send(5, "PING") for _ in range(2)]
    protocol.connectionLost(Failure(ConnectionDone()))
    for answer in answers:
        answer.addErrback(lambda failure: failure.trap(errors.Unavailable))
        assert answer.result is errors.Unavailable
    assert reactor.getDelayedCalls() == []


@pytest.mark.parametrize("room", [0, 5, None])
def test_what_the_socket_does_not_take_goes_later(room: int | None) -> None:
    socket = PaperSocket(room)
    on_a_socket(socket).send(5, "PING")
    assert (socket.at_once, socket.later) == (PING[: room or 0], PING[room or 0 :])


class PaperTransport(StringTransport):
    """Ends as soon as it is told to, once."""

    def abortConnection(self) -> None:
        if not self.disconnecting:
            self.disconnecting = True
            self.protocol.connectionLost(Failure(ConnectionDone()))


class PaperRoute:
    """Leads to a Redis on paper."""

    address = RedisAddress(host="127.0.0.1")
    watched = False

    async def endpoint(self) -> PaperRoute:
        return self

    def connect(self, factory: Any) -> Deferred[connection.CommandProtocol]:
        self.protocol = factory.buildProtocol(None)
        transport = PaperTransport()
        transport.protocol = self.protocol
        self.protocol.makeConnection(transport)
        return succeed(self.protocol)


def test_stopping_while_redis_hangs_as_a_connection_is_prepared_is_done_at_once() -> None:
    clock, route = task.Clock(), PaperRoute()

    async def prepare(protocol: connection.CommandProtocol) -> None:
        await protocol.send(60, "PING")

    link = connection.RedisConnection(Clock(clock), "one", route, settings("redis://127.0.0.1"), prepare=prepare)
    first = link.start()
    greet(route)
    assert route.protocol.waiting == 1
    assert link.protocol is None
    stopped = Deferred.fromCoroutine(link.stop())
    assert stopped.called
    assert first.called
    assert clock.getDelayedCalls() == []


def greet(route: PaperRoute) -> None:
    """Redis on paper says what it is."""
    info = b"redis_version:7.0.0\r\nrun_id:1\r\n"
    route.protocol.dataReceived(b"$%d\r\n%s\r\n" % (len(info), info))


def pause(clock: task.Clock) -> float:
    """Let the clock go on to the next attempt; return how long that was, s."""
    clock.advance(0)
    (call,) = clock.getDelayedCalls()
    seconds: float = call.getTime() - clock.seconds()
    clock.advance(seconds)
    return seconds


def test_the_pause_grows_until_a_connection_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda least, most: most)
    clock, route = task.Clock(), PaperRoute()
    link = connection.RedisConnection(Clock(clock), "one", route, settings("redis://127.0.0.1"))
    link.start()

    def lost_after(seconds: float) -> float:
        greet(route)
        clock.advance(seconds)
        link.drop("for once")
        return round(pause(clock), 6)

    assert [lost_after(4.9) for _ in range(7)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0]
    assert [lost_after(5), lost_after(0)] == [0.05, 0.1]


def test_what_cannot_be_prepared_is_closed_and_tried_again() -> None:
    clock, route = task.Clock(), PaperRoute()

    async def prepare(protocol: connection.CommandProtocol) -> None:
        raise errors.Unavailable("not today")

    link = connection.RedisConnection(Clock(clock), "one", route, settings("redis://127.0.0.1"), prepare=prepare)
    first = link.start()
    greet(route)
    assert route.protocol.transport.disconnecting
    assert (link.protocol, link.trouble, first.called) == (None, "not today", True)
    pause(clock)
    assert link.attempts == 2


def test_it_may_be_stopped_by_who_is_told_that_it_is_ready() -> None:
    clock, route = task.Clock(), PaperRoute()
    link = connection.RedisConnection(Clock(clock), "one", route, settings("redis://127.0.0.1"))
    stopping: list[Deferred[None]] = []
    link.start(ready=lambda: stopping.append(Deferred.fromCoroutine(link.stop())))
    greet(route)
    clock.advance(0)
    assert [each.called for each in stopping] == [True]
    assert (link.protocol, link.trouble, clock.getDelayedCalls()) == (None, "the engine is stopped", [])


def test_it_comes_back_also_where_nobody_could_be_told_of_its_end(flush_errors: LoggedErrors) -> None:
    clock, route = task.Clock(), PaperRoute()
    link = connection.RedisConnection(Clock(clock), "one", route, settings("redis://127.0.0.1"))

    def interrupted() -> None:
        raise ZeroDivisionError

    link.start(interrupted=interrupted)
    greet(route)
    link.drop("for once")
    assert len(flush_errors(ZeroDivisionError)) == 1
    assert (link.protocol, link.trouble, link.interruptions) == (None, "for once", 1)
    pause(clock)
    greet(route)
    assert link.protocol is route.protocol
    assert (link.attempts, link.trouble) == (2, None)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is looked at behind each reply."""
    monkeypatch.setattr(connection, "STRIDE", 1)


@pytest.mark.usefixtures("one_at_a_time")
def test_replies_that_came_at_once_are_given_over_several_turns_in_their_order() -> None:
    stage = Moving(connection.SLICE / 2.5)
    stage.ask(10)
    stage.protocol.dataReceived(b"".join(b":%d\r\n" % n for n in range(8)))
    assert stage.given == [0, 1, 2]
    assert stage.transport.producerState == "paused"
    # What was on its way already waits behind them.
    stage.protocol.dataReceived(b":8\r\n:")
    assert stage.given == [0, 1, 2]
    stage.turn()
    assert stage.given == [0, 1, 2, 3, 4, 5]
    stage.turn()
    assert stage.given == list(range(9))
    stage.turn()
    assert stage.transport.producerState == "producing"
    stage.protocol.dataReceived(b"9\r\n")
    assert stage.given == list(range(10))
    assert stage.protocol.waiting == 0


@pytest.mark.usefixtures("one_at_a_time")
def test_replies_that_wait_have_as_long_as_the_turn_took_for_all_else_within_limits() -> None:
    stage = Moving(connection.SLICE / 4)
    stage.ask(30)
    stage.protocol.dataReceived(b":1\r\n" * 30)
    assert stage.take() in (4, 5)  # sums of floats
    stage.reactor.rightNow += 1.5 * connection.SLICE
    stage.turn()
    assert stage.take() in (6, 7)
    stage.reactor.rightNow += 1
    stage.turn()
    assert stage.take() in (8, 9)


@pytest.mark.usefixtures("one_at_a_time")
def test_what_has_come_and_waits_for_its_turn_is_not_late() -> None:
    stage = Moving(connection.SLICE)
    stage.ask(3)
    stage.protocol.dataReceived(b":1\r\n:2\r\n")
    (turn,) = [call for call in stage.reactor.calls if call.func == stage.protocol._go_on]
    turn.delay(10)
    stage.reactor.advance(6)
    assert stage.given == [1]
    assert stage.protocol.connected
    stage.reactor.advance(10)
    assert stage.given[:2] == [1, 2]
    # The third never came.
    assert not stage.protocol.connected


@pytest.mark.usefixtures("one_at_a_time")
def test_what_is_lost_in_between_gives_nothing_more() -> None:
    stage = Moving(connection.SLICE)
    stage.ask(3)
    stage.protocol.dataReceived(b":1\r\n:2\r\n:3\r\n")
    stage.protocol.connectionLost(Failure(ConnectionDone()))
    assert [stage.given[0], *map(type, stage.given[1:])] == [1, errors.Unavailable, errors.Unavailable]
    assert stage.reactor.getDelayedCalls() == []


@pytest.mark.usefixtures("one_at_a_time")
def test_what_is_no_reply_ends_the_connection_also_in_a_later_turn() -> None:
    stage = Moving(connection.SLICE)
    stage.ask(3)
    stage.protocol.dataReceived(b":1\r\n?\r\n")
    with pytest.raises(txredisapi.InvalidData):
        stage.reactor.advance(0)
    assert not stage.protocol.connected
    assert "cannot be taken" in stage.protocol.reason
