"""The publisher: what workers use to push, from Celery, RQ, Django or a plain script.

::

    from pushserver.publisher import Publisher      # pip install pushserver[publisher]

    publisher = Publisher("http://127.0.0.1:8080", api_key=key)
    for row in publisher.track(rows, user_id=42, title="Import"):
        ...

Names are looked up on first use: HTTP needs no redis-py, Redis no httpcore, and tqdm only its bars.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pushserver.publisher.asynchronous import AsyncPublisher
    from pushserver.publisher.bars import tqdm, trange
    from pushserver.publisher.errors import PublishError, PublishRefused, PublishUnavailable, TaskCancelled
    from pushserver.publisher.receipts import Notified, PendingNotified, PendingReceipt, Receipt
    from pushserver.publisher.synchronous import Publisher
    from pushserver.publisher.tasks import Task
    from pushserver.publisher.tracks import Track

_HOME_OF = {
    "AsyncPublisher": "asynchronous",
    "Notified": "receipts",
    "PendingNotified": "receipts",
    "PendingReceipt": "receipts",
    "PublishError": "errors",
    "PublishRefused": "errors",
    "PublishUnavailable": "errors",
    "Publisher": "synchronous",
    "Receipt": "receipts",
    "Task": "tasks",
    "TaskCancelled": "errors",
    "Track": "tracks",
    "tqdm": "bars",
    "trange": "bars",
}

__all__ = [
    "AsyncPublisher",
    "Notified",
    "PendingNotified",
    "PendingReceipt",
    "PublishError",
    "PublishRefused",
    "PublishUnavailable",
    "Publisher",
    "Receipt",
    "Task",
    "TaskCancelled",
    "Track",
    "tqdm",
    "trange",
]


def __getattr__(name: str) -> Any:
    module = _HOME_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
