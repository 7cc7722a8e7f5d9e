"""The Python client: a sans-I/O core and two shells, one for asyncio, one for Twisted.

::

    from pushserver.client import Client            # asyncio; pip install pushserver[client]
    from pushserver.client import ClientService     # Twisted

Names are looked up on first use, so that neither shell's library is needed for the other.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushserver.client.aio import Client
    from pushserver.client.aio_readers import Inbox, Subscription, TaskOutput, TaskUpdates
    from pushserver.client.backoff import Backoff, Retry
    from pushserver.client.core import ClientCore
    from pushserver.client.errors import (
        AuthFailed,
        ClientClosed,
        ClientError,
        Disconnected,
        NotOpened,
        QueueFull,
        RequestFailed,
        RequestTimeout,
        SubscriptionEnded,
        Unauthorized,
        UserChanged,
    )
    from pushserver.client.messages import (
        ChatReceipt,
        History,
        InboxChange,
        InboxPage,
        OutputChunk,
        Position,
        Presence,
        PresentUser,
        Published,
        Push,
        TaskState,
        Unread,
        Welcome,
    )
    from pushserver.client.state import Options, Settings, State
    from pushserver.client.tx import ClientService
    from pushserver.client.tx_reading import Reading

_HOMES = {
    "pushserver.client.aio": ("Client",),
    "pushserver.client.aio_readers": ("Inbox", "Subscription", "TaskOutput", "TaskUpdates"),
    "pushserver.client.backoff": ("Backoff", "Retry"),
    "pushserver.client.core": ("ClientCore",),
    "pushserver.client.errors": (
        "AuthFailed",
        "ClientClosed",
        "ClientError",
        "Disconnected",
        "NotOpened",
        "QueueFull",
        "RequestFailed",
        "RequestTimeout",
        "SubscriptionEnded",
        "Unauthorized",
        "UserChanged",
    ),
    "pushserver.client.messages": (
        "ChatReceipt",
        "History",
        "InboxChange",
        "InboxPage",
        "OutputChunk",
        "Position",
        "Presence",
        "PresentUser",
        "Published",
        "Push",
        "TaskState",
        "Unread",
        "Welcome",
    ),
    "pushserver.client.state": ("Options", "Settings", "State"),
    "pushserver.client.tx": ("ClientService",),
    "pushserver.client.tx_reading": ("Reading",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "AuthFailed",
    "Backoff",
    "ChatReceipt",
    "Client",
    "ClientClosed",
    "ClientCore",
    "ClientError",
    "ClientService",
    "Disconnected",
    "History",
    "Inbox",
    "InboxChange",
    "InboxPage",
    "NotOpened",
    "Options",
    "OutputChunk",
    "Position",
    "Presence",
    "PresentUser",
    "Published",
    "Push",
    "QueueFull",
    "Reading",
    "RequestFailed",
    "RequestTimeout",
    "Retry",
    "Settings",
    "State",
    "Subscription",
    "SubscriptionEnded",
    "TaskOutput",
    "TaskState",
    "TaskUpdates",
    "Unauthorized",
    "Unread",
    "UserChanged",
    "Welcome",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
