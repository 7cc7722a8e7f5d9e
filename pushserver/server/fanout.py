"""The fan-out: what was published on a channel, to everyone here who follows it.

    Hub.deliver -> FanOut.take -> Channel.batches -> (end of the turn) -> lanes of sockets, one system call each
                                                                       -> outboxes, one by one, where one must ask

What arrives for a channel in one turn of the reactor leaves in one write per connection. A channel's batches go one
after another, so that each connection sees a channel in order. A fan-out to many runs in slices that yield to the
reactor. Who left meanwhile gets nothing, and who came back gets it from the channel's past.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from twisted.logger import Logger

from pushserver.core import errors
from pushserver.core.output import OutputPublication, told
from pushserver.core.protocol import Dialect
from pushserver.core.publication import Publication
from pushserver.server.channel import Batch, Channel, OutputChannel
from pushserver.server.clock import Clock
from pushserver.server.connection import Connection
from pushserver.server.outbox import CHUNK, Overflow, Policy, refused, send_each
from pushserver.server.stats import Counters
from pushserver.server.waiting import Mark

#: A fan-out yields to the reactor after so many seconds, so that nobody else waits noticeably longer than that.
SLICE: Final = 0.002
#: So many connections are written to between two looks at the clock.
STRIDE: Final = 256
#: So few followers are not worth being sorted into lanes.
FEW: Final = 8


class FanOut:
    """The way of publications to this node's connections."""

    _log = Logger()

    def __init__(self, clock: Clock, counters: Counters) -> None:
        self._clock = clock
        self._counters = counters
        self._dirty: deque[Channel] = deque()
        self._scheduled = False
        #: the fan-outs that go on in a later turn
        self._paused: dict[Channel, Iterator[None]] = {}
        #: the newest push of each subject to a connection whose socket is full; None once that was left out
        self._newest: dict[Connection, dict[str, Mark | None]] = {}
        self._resend_latest: Callable[[Connection, str], None] = lambda connection, subject: None
        self._fell_behind: Callable[[Connection, OutputPublication], None] = lambda connection, publication: None
        #: what an output is appended within so many s leaves as one
        self._output_interval = 0.04

    def bind(
        self,
        resend_latest: Callable[[Connection, str], None],
        fell_behind: Callable[[Connection, OutputPublication], None],
    ) -> None:
        """``resend_latest`` is called with a connection that has drained, and a subject whose newest push was left out
        for it; ``fell_behind`` with one whose socket is full, and what of an output it was not given for that."""
        self._resend_latest = resend_latest
        self._fell_behind = fell_behind

    def adopt(self, output_interval: int) -> None:
        """What an output is appended within so many ms leaves as one publication."""
        self._output_interval = output_interval / 1000

    # -- to a channel's followers -------------------------------------------------------------------------------------

    def take(self, channel: Channel, publication: Publication) -> None:
        """A publication for everyone who follows the channel now; it goes out when the turn ends."""
        if channel.gather(publication):
            self._put(channel)

    def _put(self, channel: Channel) -> None:
        self._dirty.append(channel)
        if not self._scheduled:
            self._scheduled = True
            self._clock.later(0, self._flush)

    def take_output(self, channel: OutputChannel, publication: OutputPublication) -> None:
        """What an output was appended: the first goes out when the turn ends, what follows within the interval later
        and together, the end with all before it at once."""
        first = channel.gather(publication)
        if first:
            wait = channel.due - self._clock.seconds()
            if wait <= 0 or publication.closes:
                self._leave(channel)
            else:
                channel.leaving = self._clock.later(wait, self._leave, channel)
        elif publication.closes and channel.leaving is not None:
            channel.leaving.cancel()
            self._leave(channel)

    def _leave(self, channel: OutputChannel) -> None:
        channel.leaving = None
        channel.due = self._clock.seconds() + self._output_interval
        self._put(channel)

    def send_now(self, channel: Channel) -> None:
        """Hand out what is on its way to a channel's followers, ahead of its turn: what they are sent next comes behind
        it."""
        begun = self._paused.pop(channel, None)
        if begun is not None:
            self._run(channel, begun, pauses=False)
        elif channel.batches and len(channel.followers) <= FEW:
            self._send(channel)
        elif channel.batches:
            self._run(channel, self._steps(channel), pauses=False)

    def _send(self, channel: Channel) -> None:
        while channel.batches:
            batch = channel.batches.pop(0)
            self._one_by_one(channel, batch, tuple(channel.followers))
            self._delivered(channel, batch)

    def _flush(self) -> None:
        """Begin what was published; where it is for many channels, others get their turn in between."""
        began = self._clock.seconds()
        dirty = self._dirty
        while dirty:
            channel = dirty.popleft()
            if len(channel.followers) > FEW:
                self._run(channel, self._steps(channel))
            else:
                self._send(channel)
                channel.batches = None
            if dirty and self._clock.seconds() - began > SLICE:
                self._clock.later(0, self._flush)
                return
        self._scheduled = False

    def _go_on(self, channel: Channel, steps: Iterator[None]) -> None:
        # Unless `send_now` came first.
        if self._paused.get(channel) is steps:
            del self._paused[channel]
            self._run(channel, steps)

    def _run(self, channel: Channel, steps: Iterator[None], pauses: bool = True) -> None:
        began = self._clock.seconds()
        try:
            for _ in steps:
                if pauses and self._clock.seconds() - began > SLICE:
                    self._paused[channel] = steps
                    self._clock.later(0, self._go_on, channel, steps)
                    return
        except Exception:
            # What is published next must not wait for ever behind this.
            self._log.failure("a fan-out to {channel} failed", channel=channel.name)
            channel.spread()
        channel.batches = None

    def _steps(self, channel: Channel) -> Iterator[None]:
        """Deliver the channel's batches one after another, a stride of followers at a step."""
        while channel.batches:
            batch = channel.batches.pop(0)
            channel.spreading = []
            lanes = channel.lanes
            # Who came after the batch was begun stands in the lanes too.
            for_all = batch.plain and batch.number == channel.number
            for lane in lanes.lanes:
                each, joined = batch.frames(lane.dialect)
                for start in range(0, len(lane.sockets), STRIDE):
                    if for_all and channel.stand(lanes):
                        taken = send_each(lane.sockets[start : start + STRIDE], joined)
                        whole = taken.count(len(joined))
                        self._counters.sent(whole * len(each), whole * len(joined))
                        if whole < len(taken):
                            self._in_part(channel, batch, each, lane.connections[start : start + STRIDE], taken)
                    else:
                        self._one_by_one(channel, batch, lane.connections[start : start + STRIDE])
                    yield
            for start in range(0, len(lanes.aside), STRIDE):
                self._one_by_one(channel, batch, lanes.aside[start : start + STRIDE])
                yield
            self._delivered(channel, batch)
            channel.spread()

    def _delivered(self, channel: Channel, batch: Batch) -> None:
        """Every follower's socket has a batch: note how old its first message is by now."""
        if channel.inbox:
            for connection in channel.followers:
                for publication in batch.publications:
                    connection.reach(publication)
        batch.delivered(self._counters, len(channel.followers))
        # Another node's clock may be ahead of this one, and what is summed up never goes back.
        age = max(0, self._clock.now() - batch.publications[0].timestamp)
        self._counters.timings.delivery.observe(age / 1000, len(batch.publications))

    def _in_part(
        self,
        channel: Channel,
        batch: Batch,
        each: list[bytes],
        connections: list[Connection],
        taken: list[int],
    ) -> None:
        """Look after those of the connections whose sockets did not take all of a batch."""
        whole = sum(map(len, each))
        for connection, octets in zip(connections, taken, strict=True):
            if octets != whole:
                try:
                    self._rest(channel, batch, each, connection, octets)
                except Exception:
                    self._trouble(connection)

    def _rest(self, channel: Channel, batch: Batch, each: list[bytes], connection: Connection, taken: int) -> None:
        """A socket took only so many octets of a batch: the frame that was cut goes on by the transport, and what is
        behind it waits like everything that a connection cannot take in time."""
        at = 0
        while taken >= len(each[at]):
            taken -= len(each[at])
            at += 1
        connection.outbox.rest(each[at], taken)
        if taken < 0:
            return
        self._counters.sent(at + 1, sum(map(len, each[: at + 1])))
        for publication, frame in zip(batch.publications[at + 1 :], each[at + 1 :], strict=True):
            if connection in channel.followers:
                self.hand_over(connection, publication, frame)

    def _one_by_one(self, channel: Channel, batch: Batch, connections: Iterable[Connection]) -> None:
        """Hand a batch to those of the connections that it is meant for, with all that is special about each."""
        followers, number, plain = channel.followers, batch.number, batch.plain
        frames: dict[Dialect, tuple[list[bytes], bytes]] = {}
        sent = octets = 0
        for connection in connections:
            # Who left meanwhile gets nothing, and who came back gets it from the channel's past.
            if followers.get(connection, number + 1) > number:
                continue
            try:
                outbox = connection.outbox
                behind = batch.left_behind(outbox)
                if behind is not None:
                    self._fell_behind(connection, behind)
                    continue
                dialect = connection.dialect
                if dialect not in frames:
                    frames[dialect] = batch.frames(dialect)
                each, joined = frames[dialect]
                direct = outbox.direct_socket
                if (
                    not plain
                    or outbox.stalled
                    or connection.trace is not None
                    # What paces itself is given no more at once than it can take back.
                    or (direct is None and len(joined) > CHUNK)
                ):
                    for publication, frame in zip(batch.publications, each, strict=True):
                        if connection in followers:
                            self.hand_over(connection, publication, frame)
                    continue
                if direct is not None:
                    try:
                        taken = direct.send(joined)
                    except OSError as problem:
                        taken = refused(problem)
                    if taken != len(joined):
                        self._rest(channel, batch, each, connection, taken)
                        continue
                else:
                    outbox.write(joined)
                sent += len(each)
                octets += len(joined)
            except Exception:
                self._trouble(connection)
        self._counters.sent(sent, octets)

    def _trouble(self, connection: Connection) -> None:
        """One connection's trouble must not keep the channel from everybody else."""
        self._log.failure("delivering to connection {id} failed", id=connection.id)
        connection.line.abort()

    # -- to one connection --------------------------------------------------------------------------------------------

    def hand_over(self, connection: Connection, publication: Publication, frame: bytes, subject: str = "") -> None:
        """Hand one publication to one connection, with everything that is special about either."""
        if not frame or not connection.open or publication.excludes(connection.user_id, connection.id):
            return
        if connection.trace is not None:
            shown = told(publication) if isinstance(publication, OutputPublication) else publication
            connection.trace.pushed(connection, shown)
        mark = Mark(publication.channel, publication.offset, subject)
        if subject and connection.outbox.stalled and connection.outbox.policy is not Policy.DISCONNECT:
            self._remember(connection, mark)
        try:
            if connection.outbox.push(frame, mark):
                self._counters.sent(1, len(frame))
        except Overflow:
            self._counters.slow_consumer()
            connection.close(errors.SLOW, discard=True)

    def send(self, publication: Publication, audience: Iterable[Connection], subject: str) -> None:
        """Hand a publication to these connections now, beside the channels' batches."""
        frames: dict[Dialect, bytes] = {}
        for connection in tuple(audience):
            dialect = connection.dialect
            if dialect not in frames:
                frames[dialect] = dialect.publication(publication)
            self.hand_over(connection, publication, frames[dialect], subject)

    def replay(self, connection: Connection, publication: Publication) -> None:
        """Send a message of the past: it was asked for, so it is never left out; its sender waits for the socket."""
        frame = connection.dialect.publication(publication)
        if connection.trace is not None:
            connection.trace.pushed(connection, publication)
        connection.outbox.write(frame)
        self._counters.sent(1, len(frame))

    # -- what did not fit ---------------------------------------------------------------------------------------------

    def _remember(self, connection: Connection, mark: Mark) -> None:
        """This push is its subject's newest, and may yet be left out."""
        newest = self._newest.get(connection)
        if newest is None:
            newest = self._newest[connection] = {}
            connection.outbox.drained().addCallback(lambda _: self._drained(connection))
        newest[mark.subject] = mark

    def _drained(self, connection: Connection) -> None:
        for subject, mark in self._newest.pop(connection).items():
            if mark is None and connection.open:
                self._resend_latest(connection, subject)

    def left_out(self, connection: Connection, mark: Mark) -> None:
        """A live message did not fit. Where it was its subject's newest, `resend_latest` is called when it would."""
        self._counters.left_out()
        if connection.user_id is not None:
            self._counters.events.remember(
                "evicted",
                connection.user_id,
                connection.outbox.policy.value,
                f"a message of {mark.channel} did not fit the queue",
                connection.peer.address,
                connection.id,
            )
        newest = self._newest.get(connection)
        if newest is not None and mark.subject and newest.get(mark.subject) is mark:
            newest[mark.subject] = None
