"""`IRevocations`: all of them in memory, so that asking costs nothing, and kept in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from pushserver.core.errors import Unavailable
from pushserver.engine.interfaces import Credential, IRevocations

from .operations import RowCall
from .rows import revocations as revocationrows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pushserver.engine.interfaces import EngineClock

    from .writer import Writer


@implementer(IRevocations)
class EmbeddedRevocations:
    """What was revoked holds once it is on the disk, or at the latest when the caller has its answer."""

    def __init__(self, writer: Writer, clock: EngineClock) -> None:
        self._writer = writer
        self._clock = clock
        self._tokens: dict[str, int] = {}
        self._users: dict[str, tuple[int, int]] = {}

    def __len__(self) -> int:
        return len(self._tokens) + len(self._users)

    def load(self, rows: Iterable[revocationrows.Row]) -> None:
        self._tokens.clear()
        self._users.clear()
        for row in rows:
            self._register(row)

    def _register(self, row: revocationrows.Row) -> None:
        kind, subject, issued_until, until = row
        if kind == revocationrows.TOKEN:
            self._tokens[subject] = max(until, self._tokens.get(subject, 0))
        else:
            before = self._users.get(subject, (issued_until, until))
            self._users[subject] = (max(issued_until, before[0]), max(until, before[1]))

    def _revoke(self, row: revocationrows.Row) -> Deferred[None]:
        kept = self._writer.submit(RowCall(revocationrows.revoke, row))
        return kept.addCallback(lambda _: self._register(row))

    def revoke_token(self, jti: str, until: int) -> Deferred[None]:
        return self._revoke((revocationrows.TOKEN, jti, 0, until))

    def revoke_user(self, user_id: str, issued_until: int, until: int) -> Deferred[None]:
        return self._revoke((revocationrows.USER, user_id, issued_until, until))

    def revoked(self, credentials: Sequence[Credential]) -> Deferred[list[bool]]:
        if not self._writer.accepting:
            return fail(Unavailable("the engine is stopped"))
        now = self._clock.settled()
        return succeed([self._blocked(credential, now) for credential in credentials])

    def _blocked(self, credential: Credential, now: int) -> bool:
        if credential.jti is not None and self._tokens.get(credential.jti, 0) > now:
            return True
        issued_until, until = self._users.get(credential.user_id, (0, 0))
        return until > now and (credential.issued_at is None or credential.issued_at <= issued_until)

    def sweep(self, now: int) -> None:
        """Forget what no longer matters at ``now``, ms."""
        self._tokens = {jti: until for jti, until in self._tokens.items() if until > now}
        self._users = {user_id: entry for user_id, entry in self._users.items() if entry[1] > now}
