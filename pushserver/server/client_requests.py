"""What a client may ask for, carried out: each operation by the room that it belongs to.

Each request ends in exactly one call of ``reply`` or one exception, in the order in which the connection asked
(`pushserver.server.inbound` sees to that).
"""

from __future__ import annotations

from pushserver.core import operations
from pushserver.core.errors import Code, NotFound, Refused
from pushserver.core.positions import Position
from pushserver.core.publication import Author
from pushserver.core.tokens import NOBODY, Identity
from pushserver.server.chat import Chat
from pushserver.server.connection import Connection
from pushserver.server.reading import ReadRequests
from pushserver.server.sign_in import SignIn
from pushserver.server.subscriptions import Reply, Subscriptions
from pushserver.server.tasks import Tasks
from pushserver.server.user_publishing import UserPublishing


class ClientRequests:
    """Carries out what clients ask for. ``anonymous``: whether who has not signed in may subscribe and read."""

    def __init__(
        self,
        sign_in: SignIn,
        subscriptions: Subscriptions,
        chat: Chat,
        reading: ReadRequests,
        publishing: UserPublishing,
        tasks: Tasks,
        *,
        anonymous: bool,
    ) -> None:
        self._sign_in = sign_in
        self._subscriptions = subscriptions
        self._chat = chat
        self._reading = reading
        self._publishing = publishing
        self._tasks = tasks
        self._anonymous = anonymous

    def begin(self, connection: Connection) -> None:
        """A client has connected."""
        self._sign_in.begin(connection)

    def leave(self, connection: Connection) -> None:
        """A connection has ended, or is about to: nothing of it stays behind. May be called more than once."""
        self._sign_in.leave(connection)

    def leave_channel(self, connection: Connection, name: str) -> None:
        """The client has left a channel by itself."""
        if name in connection.channels:
            self._subscriptions.drop(connection, name)

    async def sign_in(
        self,
        connection: Connection,
        identity: Identity,
        positions: dict[str, Position],
        reply: Reply,
        items: tuple[operations.SubscribeItem, ...] = (),
    ) -> None:
        """Make the connection the user's (`SignIn.sign_in`)."""
        await self._sign_in.sign_in(connection, identity, positions, reply, items)

    async def follow(self, connection: Connection, channels: tuple[str, ...]) -> None:
        """Let a connection of the server side follow channels (`Subscriptions.force_subscribe`)."""
        await self._subscriptions.force_subscribe(connection, channels)

    async def carry_out(self, connection: Connection, operation: operations.Operation, reply: Reply) -> None:
        """Do what was asked. Raises `errors.PushError` for whatever the client is to be told instead."""
        if isinstance(operation, operations.Authenticate):
            await self._sign_in.authenticate(connection, operation, reply)
            return
        identity = connection.identity
        if identity is None:
            await self._carry_out_anonymously(connection, operation, reply)
            return
        match operation:
            case operations.Subscribe():
                await self._subscriptions.subscribe(connection, operation, reply)
            case operations.Unsubscribe():
                await self._subscriptions.unsubscribe(connection, operation, reply)
            case operations.Publish():
                here = _in(connection, operation.channel, identity)
                reply(await self._publishing.take(here, _sender(connection, identity), operation))
            case operations.SendChat():
                here = _in(connection, operation.channel, identity)
                reply(await self._chat.send(here, _sender(connection, identity), operation))
            case operations.Acknowledge(position):
                reply(await self._reading.inbox.acknowledge(identity.user_id, position))
            case operations.ReadInbox():
                reply(await self._reading.inbox.read(identity.user_id, operation, connection))
            case operations.MarkInbox(selection, read):
                reply(await self._reading.inbox.mark(identity.user_id, selection, read, connection))
            case operations.DeleteFromInbox(selection):
                reply(await self._reading.inbox.delete(identity.user_id, selection, connection))
            case operations.ReadHistory():
                here = _in(connection, operation.channel, identity)
                reply(await self._reading.history(connection, here, operation))
            case operations.ReadPresence(channel):
                reply(await self._reading.presence(_in(connection, channel, identity), channel))
            case operations.ReadConnections(channel):
                reply(await self._reading.connections(_in(connection, channel, identity), channel))
            case operations.ReadTask(task_id):
                reply(operations.TaskRead(await self._tasks.get_visible(task_id, connection)))
            case operations.ReadSession():
                reply(await self._sign_in.describe(connection, identity))
            case operations.RenewChannelToken():
                reply(await self._subscriptions.renew_token(connection, operation))
            case operations.CancelTask(task_id):
                state = await self._tasks.get(task_id)
                if state.user_id != identity.user_id:
                    raise NotFound("no such task")
                reply(operations.TaskRead(await self._tasks.request_cancel(task_id)))

    async def _carry_out_anonymously(
        self, connection: Connection, operation: operations.Operation, reply: Reply
    ) -> None:
        if self._anonymous:
            match operation:
                case operations.Subscribe():
                    return await self._subscriptions.subscribe(connection, operation, reply)
                case operations.Unsubscribe():
                    return await self._subscriptions.unsubscribe(connection, operation, reply)
                case operations.ReadHistory(channel=channel):
                    here = _in(connection, channel, NOBODY)
                    return reply(await self._reading.history(connection, here, operation))
                case operations.ReadConnections(channel):
                    return reply(await self._reading.connections(_in(connection, channel, NOBODY), channel))
                case operations.Publish(channel=channel):
                    here = _in(connection, channel, NOBODY)
                    if self._publishing.takes_from_nobody(here, channel):
                        return reply(await self._publishing.take(here, _sender(connection, here), operation))
                case operations.RenewChannelToken():
                    return reply(await self._subscriptions.renew_token(connection, operation))
                case _:
                    pass
        raise Refused("authenticate first", Code.NOT_AUTHENTICATED)


def _sender(connection: Connection, identity: Identity) -> Author:
    """Return whose messages a connection publishes."""
    return Author(identity.user_id, connection.id, connection.info)


def _in(connection: Connection, channel: str, identity: Identity) -> Identity:
    """Return who a connection is in a channel."""
    return connection.identity_for(channel) or identity
