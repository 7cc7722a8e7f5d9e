"""Revoking tokens: written down in the engine first, then sent to every node, and looked for again now and then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from pushserver.core import errors
from pushserver.core.errors import Invalid, Unavailable
from pushserver.core.tokens import ChannelToken, Identity
from pushserver.server.auth import Authenticator, credential
from pushserver.server.clock import Clock, Recurring
from pushserver.server.cluster import Answer, Cluster, Revoked
from pushserver.server.hub import Hub

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IRevocations

#: Seconds between two looks at whether what is connected was revoked, and how many are asked about at a time.
RECHECK_EVERY: Final = 60
RECHECK_BATCH: Final = 500


class Revocations:
    """Blocks tokens, and closes what they opened.

    Args:
        max_token_lifetime, leeway: ms; how long a token may be valid, and how much clocks may differ.
    """

    _log = Logger()

    def __init__(
        self,
        clock: Clock,
        store: IRevocations,
        hub: Hub,
        authenticator: Authenticator,
        cluster: Cluster,
        *,
        max_token_lifetime: int,
        leeway: int,
    ) -> None:
        self._clock = clock
        self._store = store
        self._hub = hub
        self._authenticator = authenticator
        self._cluster = cluster
        self._max_token_lifetime = max_token_lifetime
        self._leeway = leeway
        self._rechecking: Recurring | None = None

    def adopt(self, max_token_lifetime: int, leeway: int) -> None:
        """Block by these from now on. What is blocked already is so for as long as was said then."""
        self._max_token_lifetime = max_token_lifetime
        self._leeway = leeway

    def start(self) -> None:
        """Look again from now on."""
        self._rechecking = self._clock.every(RECHECK_EVERY, self.recheck, self._log, "looking for revoked tokens")

    def stop(self) -> None:
        """Look no more. May be called more than once."""
        if self._rechecking is not None:
            self._rechecking.stop()

    async def revoke_token(self, jti: str, expires_at: int | None) -> Answer[int]:
        """Block a token for as long as it is taken for valid, and close its connections on every node; return how many
        were closed. ``expires_at``: its end, ms, where that is known."""
        now = self._clock.now()
        until = (expires_at if expires_at is not None else now + self._max_token_lifetime) + self._leeway
        await self._store.revoke_token(jti, until)
        return await self._cluster.revoke(Revoked(jti=jti))

    async def revoke_user(self, user_id: str, issued_before: int | None = None) -> tuple[Answer[int], int]:
        """Block every token of a user that was issued before a moment (ms; None: now) or does not say when, and close
        their connections on every node. Return how many were closed, and the moment.

        Raises `errors.Invalid` for a moment further ahead than clocks may differ.
        """
        now = self._clock.now()
        issued_before = now if issued_before is None else issued_before
        if issued_before > now + self._leeway:
            raise Invalid("issuedBefore is in the future")
        # One that was issued by a clock ahead of ours, and is taken a little past its end.
        until = now + self._max_token_lifetime + 2 * self._leeway
        await self._store.revoke_user(user_id, issued_before - 1, until)
        closed = await self._cluster.revoke(Revoked(user_id=user_id, issued_until=issued_before - 1))
        return closed, issued_before

    def apply(self, revoked: Revoked) -> int:
        """Close this node's connections of revoked tokens; return how many."""

        def concerns(identity: Identity | ChannelToken) -> bool:
            if revoked.user_id is None:
                return revoked.jti is not None and identity.jti == revoked.jti
            issued_at = identity.issued_at
            return identity.user_id == revoked.user_id and (issued_at is None or issued_at <= revoked.issued_until)

        self._authenticator.revoked(concerns)
        hub = self._hub
        among = hub.connections.values() if revoked.user_id is None else hub.of_user(revoked.user_id)
        targets = [c for c in among if c.shown is not None and concerns(c.shown)]
        return hub.close(targets, errors.DISCONNECTED)

    def recheck_soon(self) -> Deferred[None]:
        """Look again now, beside all else; fires when that is done. A failure is logged."""
        return self._clock.detach(self.recheck(), self._log, "looking for revoked tokens")

    async def recheck(self) -> None:
        """Ask again whether what is connected was revoked: word of it may not have reached this node. Where the engine
        cannot say now, the next look will."""
        held = [(c, c.shown) for c in self._hub.connections.values() if c.shown is not None]
        for start in range(0, len(held), RECHECK_BATCH):
            batch = held[start : start + RECHECK_BATCH]
            try:
                revoked = await self._store.revoked([credential(shown) for _, shown in batch])
            except Unavailable:
                return
            # A token that was refreshed meanwhile is not the one that was asked about.
            self._hub.close(
                [c for (c, shown), gone in zip(batch, revoked, strict=True) if gone and c.shown is shown],
                errors.DISCONNECTED,
            )
