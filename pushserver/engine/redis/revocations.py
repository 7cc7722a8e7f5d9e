"""`IRevocations`: which tokens no longer hold. ``<prefix>:revoked:jti:<jti>`` is public: anyone may set it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from pushserver.core.errors import Unavailable
from pushserver.engine.coroutines import started
from pushserver.engine.interfaces import IRevocations

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pushserver.engine.interfaces import Credential, EngineClock

    from .commands import RedisCommands
    from .names import Names

#: So many credentials are asked for in one command.
_BATCH: Final = 200


@implementer(IRevocations)
class RedisRevocations:
    """Revocations as keys that expire with the tokens."""

    _log = Logger()

    def __init__(self, commands: RedisCommands, names: Names, clock: EngineClock) -> None:
        self._commands = commands
        self._names = names
        self._clock = clock
        #: tokens that are asked about in this turn, and who waits for their answers
        self._asked: list[tuple[Credential, Deferred[list[bool]]]] = []

    def revoke_token(self, jti: str, until: int) -> Deferred[None]:
        return started(self._revoke("revoke_token", self._names.revoked_token(jti), until))

    def revoke_user(self, user_id: str, issued_until: int, until: int) -> Deferred[None]:
        return started(self._revoke("revoke_user", self._names.revoked_user(user_id), issued_until, until))

    async def _revoke(self, script: str, key: str, *arguments: int) -> None:
        await self._commands.run(script, [key], *arguments, durable=True)

    def revoked(self, credentials: Sequence[Credential]) -> Deferred[list[bool]]:
        if len(credentials) != 1:
            return started(self._revoked(credentials))
        answer: Deferred[list[bool]] = Deferred()
        self._asked.append((credentials[0], answer))
        if len(self._asked) == 1:
            self._clock.later(0, self._ask)
        return answer

    def _ask(self) -> None:
        """Ask about all who came in this turn: of a crowd that signs in, each would cost a command."""
        asked, self._asked = self._asked, []
        self._clock.detach(self._answer(asked), self._log, "looking for revoked tokens")

    async def _answer(self, asked: list[tuple[Credential, Deferred[list[bool]]]]) -> None:
        try:
            revoked = await self._revoked([credential for credential, _ in asked])
        except Exception as problem:
            # Whatever it is: each of them waits for an answer.
            for _, answer in asked:
                answer.errback(Unavailable(str(problem)) if isinstance(problem, Unavailable) else problem)
            return
        for (_, answer), each in zip(asked, revoked, strict=True):
            answer.callback([each])

    async def _revoked(self, credentials: Sequence[Credential]) -> list[bool]:
        if not credentials:
            # Also a question about nothing fails where nothing could be answered.
            await self._commands.call("PING")
        answer: list[bool] = []
        for start in range(0, len(credentials), _BATCH):
            batch = credentials[start : start + _BATCH]
            keys: list[str] = []
            for each in batch:
                user = self._names.revoked_user(each.user_id)
                keys += [user if each.jti is None else self._names.revoked_token(each.jti), user]
            issued = ["" if each.issued_at is None else each.issued_at for each in batch]
            answer += [bool(each) for each in await self._commands.run("revoked", keys, *issued)]
        return answer
