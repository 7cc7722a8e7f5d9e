"""Chat: messages to a room, and from one user to another who shares a room with them."""

from __future__ import annotations

from pushserver.core import operations, publication
from pushserver.core.channels import Kind, is_id
from pushserver.core.errors import Invalid, Refused
from pushserver.core.permissions import may_publish
from pushserver.core.publication import Author
from pushserver.core.tokens import Identity
from pushserver.server.cluster import Cluster
from pushserver.server.hub import Hub
from pushserver.server.presence import Presence
from pushserver.server.publishing import Publishing
from pushserver.server.subscriptions import REASONS
from pushserver.server.tasks import user_channel
from pushserver.server.user_publishing import UserPublishing


class Chat:
    """Takes chat messages."""

    def __init__(
        self,
        hub: Hub,
        publishing: Publishing,
        user_publishing: UserPublishing,
        presence: Presence,
        cluster: Cluster,
    ) -> None:
        self._hub = hub
        self._publishing = publishing
        self._user_publishing = user_publishing
        self._presence = presence
        self._cluster = cluster

    async def send(self, identity: Identity, sender: Author, asked: operations.SendChat) -> operations.ChatTaken:
        """Send a message to a room or a user. ``identity``: who the sender is in the room. Raises `errors.Invalid`,
        `errors.Refused`, and what the engine raises."""
        target = asked.target_id
        if target is not None and not is_id(target):
            raise Invalid("targetId is not an id")
        name = asked.channel if target is None else user_channel(target)
        namespace = self._publishing.namespace(name)
        # What is refused counts too: to find that out may take asking every node.
        self._user_publishing.count(identity.user_id, namespace.kind)
        if target is None:
            if namespace.kind is not Kind.CHAT:
                raise Refused("not a chat room")
            refusal = may_publish(namespace, name, identity.user_id, identity.grants)
            if refusal is not None:
                raise Refused(REASONS.get(refusal, "not allowed to chat here"), refusal)
        elif not (identity.grants.direct_chat(target) or await self._share_a_room(identity.user_id, target)):
            raise Refused("no room is shared with that user")
        data = {"from": identity.user_id, "content": asked.content, "messageType": asked.message_type}
        if target is not None:
            data["targetId"] = target
        published = await self._user_publishing.publish(
            sender,
            name,
            "chat_message",
            publication.body(data),
            message_id=asked.message_id,
            chat=target is not None,
        )
        self._user_publishing.excuse(identity.user_id, namespace.kind, published)
        here = len(self._hub.followers(name))
        delivered = self._publishing.delivered(name, asked.message_id, published, here, identity.user_id)
        return operations.ChatTaken(
            published.message_id, delivered, target is not None, published.duplicate, published.conflict
        )

    def rooms(self, user_id: str) -> set[str]:
        """Return the chat rooms that a user is in through this node."""
        names = {name for mine in self._hub.of_user(user_id) for name in mine.channels}
        return {name for name in names if self._publishing.namespace(name).kind is Kind.CHAT}

    async def _share_a_room(self, user_id: str, target: str) -> bool:
        """Whether both are in some room. Other nodes are asked only where the sender's rooms here do not say so."""
        here = self.rooms(user_id)
        return await self._in_one_of(here, target) or await self._in_one_of(
            await self._cluster.rooms(user_id) - here, target
        )

    async def _in_one_of(self, rooms: set[str], user_id: str) -> bool:
        for name in rooms:
            if any(member.user_id == user_id for member in await self._presence.members(name)):
                return True
        return False
