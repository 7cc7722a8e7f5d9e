"""Publishing by users: as `Publishing`, at the pace that one user may have."""

from __future__ import annotations

from typing import Final

import msgspec

from pushserver.core import operations
from pushserver.core.channels import Kind
from pushserver.core.errors import Code, NotFound, Refused
from pushserver.core.permissions import may_publish
from pushserver.core.publication import Author
from pushserver.core.tokens import Identity
from pushserver.engine.interfaces import PublishResult
from pushserver.server.publishing import Publishing
from pushserver.server.subscriptions import REASONS
from pushserver.server.user_rates import UserRates

#: Bytes that a kept message has beside its data, its names and ids: keys of JSON, times, a row of the store.
ENVELOPE: Final = 160
#: Whose messages are chat: rooms, and another user's inbox.
CHAT: Final = frozenset({Kind.CHAT, Kind.USER})


class UserPublishing:
    """Takes messages of users in. ``rates``: counts them."""

    def __init__(self, publishing: Publishing, rates: UserRates) -> None:
        self._publishing = publishing
        self._rates = rates

    def takes_from_nobody(self, identity: Identity, channel: str) -> bool:
        """Return whether who has not signed in may publish to a channel. ``identity``: who that is there."""
        try:
            namespace = self._publishing.namespace(channel)
        except Refused:
            return False
        return may_publish(namespace, channel, identity.holder, identity.grants) is None

    async def take(self, identity: Identity, sender: Author, asked: operations.Publish) -> operations.PublicationTaken:
        """Publish what a user asks for. ``identity``: who that is in the channel. Raises `errors.Refused`, and what the
        engine raises."""
        namespace = self._publishing.namespace(asked.channel)
        self.count(identity.user_id, namespace.kind)
        refusal = may_publish(namespace, asked.channel, identity.holder, identity.grants)
        if refusal is not None:
            raise Refused(REASONS.get(refusal, "not allowed to publish here"), refusal)
        published = await self.publish(sender, asked.channel, asked.type, asked.data, message_id=asked.message_id)
        self.excuse(identity.user_id, namespace.kind, published)
        return operations.PublicationTaken(
            published.message_id, published.offset, published.epoch, published.duplicate, published.conflict
        )

    def count(self, user_id: str, kind: Kind) -> None:
        """Count a message, whichever request carries it and whether or not it is allowed. Raises `errors.Refused` with
        RATE_LIMITED. ``kind``: the channel's."""
        self._rates.take_publication(user_id, chat=kind in CHAT)

    def excuse(self, user_id: str, kind: Kind, published: PublishResult) -> None:
        """A repeat counts as no message of chat, so that who sends again what had no answer is not refused for it."""
        if published.duplicate and kind in CHAT:
            self._rates.give_back_chat(user_id)

    async def publish(
        self, sender: Author, channel: str, type: str, data: msgspec.Raw, *, message_id: str | None, chat: bool = False
    ) -> PublishResult:
        """Publish a user's message, after `count`. Raises `errors.Refused` with RATE_LIMITED for too many bytes or new
        channels, and what `Publishing.publish` raises."""
        namespace = self._publishing.namespace(channel)
        inbox = namespace.kind is Kind.USER
        kept = inbox or self._publishing.retention(namespace) is not None
        if kept:
            texts = (channel, type, message_id or "", sender.user_id, sender.connection_id, sender.info or "")
            self._rates.take_bytes(sender.user_id, len(data) + sum(map(len, texts)) + ENVELOPE)
        if inbox or not kept:
            return await self._publishing.publish(channel, type, data, message_id=message_id, sender=sender, chat=chat)
        return await self._publish_kept(sender, channel, type, data, message_id)

    async def _publish_kept(
        self, sender: Author, channel: str, type: str, data: msgspec.Raw, message_id: str | None
    ) -> PublishResult:
        wait = self._rates.take_new_channel(sender.user_id)
        new = False
        try:
            published = await self._publishing.publish(
                channel, type, data, message_id=message_id, sender=sender, create=not wait
            )
            new = published.offset == 1 and not published.duplicate
            return published
        except NotFound:
            if not wait:
                raise
            raise Refused("too many new channels", Code.RATE_LIMITED, retry_after=wait) from None
        finally:
            if not wait and not new:
                self._rates.give_back_new_channel(sender.user_id)
