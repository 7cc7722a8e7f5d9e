"""Tokens for one channel: what they grant a connection there, and for how long.

subscribe -> verified, not revoked, this user's and this channel's -> `Connection.channel_tokens`
its end (and the grace) passes, or it is revoked -> the grant goes, and the subscription where nothing else allows it
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Final
from weakref import ref

from twisted.logger import Logger

from pushserver.core.errors import Code, Refused, Unavailable
from pushserver.core.tokens import NOBODY, ChannelToken
from pushserver.server.auth import Authenticator
from pushserver.server.clock import Clock, Recurring
from pushserver.server.connection import Connection
from pushserver.server.hub import Hub
from pushserver.server.revocations import RECHECK_BATCH, RECHECK_EVERY

#: Seconds between two looks at whose time is over.
TICK: Final = 0.5

#: Ends that are noted before those are left out that tell nothing any more.
MANY: Final = 1_000

Ended = Callable[[Connection, str, Code], None]


def _nobody_listens(connection: Connection, channel: str, code: Code) -> None:
    """Stands where nothing is bound yet."""


class ChannelTokens:
    """The tokens of this node's connections. ``grace``: ms after a token's end."""

    _log = Logger()

    def __init__(self, clock: Clock, authenticator: Authenticator, hub: Hub, *, grace: int) -> None:
        self._clock = clock
        self._authenticator = authenticator
        self._hub = hub
        self._grace = grace
        #: when a token ends (ms, wall clock), a number that breaks ties, whose it is, and for which channel
        self._ends: list[tuple[int, int, ref[Connection], str]] = []
        self._most_ends = MANY
        self._numbers = count()
        self._recurring: list[Recurring] = []
        self._ended: Ended = _nobody_listens

    def bind(self, ended: Ended) -> None:
        """``ended`` is called when a connection lost what a token granted it in a channel."""
        self._ended = ended

    def start(self) -> None:
        """Look for tokens that have ended, or were revoked, from now on."""
        self._recurring = [
            self._clock.every(TICK, self._look, self._log, "ending tokens of channels"),
            self._clock.every(RECHECK_EVERY, self.recheck, self._log, "looking for revoked tokens of channels"),
        ]

    def stop(self) -> None:
        """Look no more. May be called more than once."""
        for each in self._recurring:
            each.stop()

    async def check(
        self, connection: Connection, channel: str | None, token: str, nobody: bool = False
    ) -> ChannelToken:
        """Return what a token says that a connection shows for a channel; None: for the one that it is for. ``nobody``:
        who has not signed in may show one of no user.

        Raises `errors.Refused`: NOT_AUTHENTICATED for who has not signed in, INVALID_TOKEN for another user's token or
        another channel's, and what is wrong with the token itself; `errors.Unavailable` where that cannot be told now.
        """
        identity = connection.identity
        if identity is None and not nobody:
            raise Refused("authenticate first", Code.NOT_AUTHENTICATED)
        found = await self._authenticator.identify_channel(token, anonymous=identity is None)
        if found.user_id != (identity or NOBODY).user_id:
            raise Refused("invalid token: it is another user's", Code.INVALID_TOKEN)
        if found.connection_id is not None and found.connection_id != connection.id:
            raise Refused("invalid token: it is for another connection", Code.INVALID_TOKEN)
        if channel is not None and found.channel != channel:
            raise Refused("invalid token: it is for another channel", Code.INVALID_TOKEN)
        return found

    def grant(self, connection: Connection, token: ChannelToken) -> None:
        """Let a token count for a connection, in the place of an earlier one for its channel."""
        if connection.channel_tokens is None:
            connection.channel_tokens = {}
        connection.channel_tokens[token.channel] = token
        heapq.heappush(self._ends, self._end_of(connection, token))
        if len(self._ends) > self._most_ends:
            # Each renewal and each connection that left has an end here, which may be a month away.
            self._ends = [self._end_of(holder, held) for holder, held in self.held()]
            heapq.heapify(self._ends)
            self._most_ends = max(MANY, 2 * len(self._ends))

    def _end_of(self, connection: Connection, token: ChannelToken) -> tuple[int, int, ref[Connection], str]:
        return token.expires_at + self._grace, next(self._numbers), ref(connection), token.channel

    def forget(self, connection: Connection, channel: str) -> None:
        """The connection left the channel."""
        if connection.channel_tokens is not None:
            connection.channel_tokens.pop(channel, None)

    def held(self) -> Iterator[tuple[Connection, ChannelToken]]:
        """Return every token that counts here."""
        for connection in self._hub.connections.values():
            for token in (connection.channel_tokens or {}).values():
                yield connection, token

    def end(self, connection: Connection, token: ChannelToken, code: Code) -> None:
        """A token counts no more; nothing happens where another one took its place."""
        held = connection.channel_tokens
        if held is not None and held.get(token.channel) is token:
            del held[token.channel]
            if connection.open:
                self._ended(connection, token.channel, code)

    def revoke(self, concerns: Callable[[ChannelToken], bool]) -> None:
        """Word of a revocation has come."""
        for connection, token in list(self.held()):
            if concerns(token):
                self.end(connection, token, Code.TOKEN_BLACKLISTED)

    def recheck_soon(self) -> None:
        """Ask again, beside all else, whether the tokens were revoked: word of it may not have come."""
        self._clock.detach(self.recheck(), self._log, "looking for revoked tokens of channels")

    async def recheck(self) -> None:
        """Ask again whether the tokens were revoked. Where the engine cannot say now, the next look will."""
        held = list(self.held())
        for start in range(0, len(held), RECHECK_BATCH):
            batch = held[start : start + RECHECK_BATCH]
            try:
                revoked = await self._authenticator.revoked_of([token for _, token in batch])
            except Unavailable:
                return
            for (connection, token), gone in zip(batch, revoked, strict=True):
                if gone:
                    self.end(connection, token, Code.TOKEN_BLACKLISTED)

    def _look(self) -> None:
        now = self._clock.now()
        while self._ends and self._ends[0][0] <= now:
            _, _, whose, channel = heapq.heappop(self._ends)
            connection = whose()
            token = None if connection is None else (connection.channel_tokens or {}).get(channel)
            if connection is None or token is None:
                continue
            if token.expires_at + self._grace <= now:
                self.end(connection, token, Code.TOKEN_EXPIRED)
