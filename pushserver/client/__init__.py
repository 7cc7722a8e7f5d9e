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
    from pushserver.client.aio import Client, Inbox, Subscription, TaskUpdates
    from pushserver.client.backoff import Backoff
    from pushserver.client.core import ClientCore, Options, State
    from pushserver.client.errors import (
        AuthFailed,
        ClientClosed,
        ClientError,
        Disconnected,
        QueueFull,
        RequestFailed,
        RequestTimeout,
        SubscriptionEnded,
    )
    from pushserver.client.messages import (
        ChatReceipt,
        History,
        Position,
        Presence,
        PresentUser,
        Published,
        Push,
        TaskState,
        Welcome,
    )
    from pushserver.client.tx import ClientService

_HOMES = {
    "pushserver.client.aio": ("Client", "Inbox", "Subscription", "TaskUpdates"),
    "pushserver.client.backoff": ("Backoff",),
    "pushserver.client.core": ("ClientCore", "Options", "State"),
    "pushserver.client.errors": (
        "AuthFailed",
        "ClientClosed",
        "ClientError",
        "Disconnected",
        "QueueFull",
        "RequestFailed",
        "RequestTimeout",
        "SubscriptionEnded",
    ),
    "pushserver.client.messages": (
        "ChatReceipt",
        "History",
        "Position",
        "Presence",
        "PresentUser",
        "Published",
        "Push",
        "TaskState",
        "Welcome",
    ),
    "pushserver.client.tx": ("ClientService",),
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
    "Options",
    "Position",
    "Presence",
    "PresentUser",
    "Published",
    "Push",
    "QueueFull",
    "RequestFailed",
    "RequestTimeout",
    "State",
    "Subscription",
    "SubscriptionEnded",
    "TaskState",
    "TaskUpdates",
    "Welcome",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(module), name)


def __dir__() -> list[str]:
    return sorted(__all__)
