"""Authentication: from a token to an identity that still holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pushserver.core import tokens
from pushserver.core.errors import Code, TokenRefused
from pushserver.core.tokens import ChannelToken, Identity, Keys, KeySource, TokenRules
from pushserver.engine.interfaces import Credential
from pushserver.server.clock import Clock
from pushserver.server.jwks import KeySet

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IRevocations


def credential(identity: Identity | ChannelToken) -> Credential:
    """What of a token can be revoked."""
    return Credential(identity.user_id, identity.jti, identity.issued_at)


def _nobody_listens(concerns: Callable[[Identity | ChannelToken], bool]) -> None:
    """Stands where nothing is bound yet."""


class Authenticator:
    """Verifies tokens and asks whether they were revoked; where that cannot be asked, nobody gets in."""

    def __init__(
        self,
        keys: Keys,
        rules: TokenRules,
        key_set: KeySet | None,
        revocations: IRevocations,
        clock: Clock,
    ) -> None:
        self._keys = keys
        self._rules = rules
        self._key_set = key_set
        self._revocations = revocations
        self._clock = clock
        self._revoked: Callable[[Callable[[Identity | ChannelToken], bool]], None] = _nobody_listens
        #: the identities that the engine is being asked about, and whether word of a revocation came meanwhile
        self._asking: dict[object, tuple[Identity | ChannelToken, list[bool]]] = {}

    def adopt(self, keys: Keys, rules: TokenRules, key_set: KeySet | None) -> None:
        """Verify by these from now on; who is signed in stays so. The key set of the same address goes on with the keys
        that it has."""
        self._keys = keys
        self._rules = rules
        if key_set is None or self._key_set is None or key_set.url != self._key_set.url:
            self._key_set = key_set

    async def identify(self, token: str, *, anonymous: bool = False) -> Identity:
        """Who the token says it is; ``anonymous``: it may be nobody's.

        Raises `errors.Refused` with INVALID_TOKEN or TOKEN_EXPIRED, and `errors.Unavailable` where the keys to verify
        it with cannot be had.
        """
        keys = await self._keys_for(token)
        return tokens.verify(token, keys, self._rules, self._clock.now(), anonymous=anonymous)

    def current(self, identity: Identity) -> Identity:
        """Return who was identified a while ago, with what the roles give now."""
        return identity.with_roles(self._rules.roles)

    async def identify_channel(self, token: str, *, anonymous: bool = False) -> ChannelToken:
        """Return what a token for one channel says; ``anonymous``: it may be nobody's. Raises as `identify` and `check`
        do."""
        keys = await self._keys_for(token)
        found = tokens.verify_channel(token, keys, self._rules, self._clock.now(), anonymous=anonymous)
        await self.check(found)
        return found

    async def _keys_for(self, token: str) -> KeySource:
        return self._keys if self._key_set is None else await self._key_set.keys_for(token, self._keys)

    async def check(self, identity: Identity | ChannelToken) -> None:
        """Raises `errors.Refused` with TOKEN_BLACKLISTED, or `errors.Unavailable` where the engine cannot say."""
        revoked_meanwhile: list[bool] = []
        question = object()
        self._asking[question] = (identity, revoked_meanwhile)
        try:
            (revoked,) = await self._revocations.revoked([credential(identity)])
        finally:
            del self._asking[question]
        if revoked or revoked_meanwhile:
            raise TokenRefused("the token was revoked", Code.TOKEN_BLACKLISTED, identity.user_id)

    async def revoked_of(self, held: Sequence[ChannelToken]) -> list[bool]:
        """Return for each of these tokens whether it was revoked. Raises `errors.Unavailable`."""
        return await self._revocations.revoked([credential(token) for token in held])

    def bind(self, revoked: Callable[[Callable[[Identity | ChannelToken], bool]], None]) -> None:
        """``revoked`` is called with what tells the tokens that a revocation concerns."""
        self._revoked = revoked

    def revoked(self, concerns: Callable[[Identity | ChannelToken], bool]) -> None:
        """Word of a revocation has come: an answer of the engine that is on its way may be older."""
        for identity, revoked in self._asking.values():
            if concerns(identity):
                revoked.append(True)
        self._revoked(concerns)
