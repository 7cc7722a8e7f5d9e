"""The API's calls about events: reading the outbox, and what webhooks did not take.

GET   events?after=&limit=&wait=     events/dead
POST  events/retry
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final

import msgspec
from twisted.web.server import Request

from pushserver.core import durations, events
from pushserver.core.errors import Invalid, NotFound
from pushserver.engine.interfaces import PAGE_BYTES
from pushserver.server.backend_commands import decode
from pushserver.server.clock import Clock
from pushserver.web.api import Api, Route
from pushserver.web.parameters import EventsQuery, RetryParams, query

if TYPE_CHECKING:
    from pushserver.engine.interfaces import IEngine, StoredEvent

SCOPE: Final = "events"
#: How long an answer may wait for an event, ms, and how often it is looked for meanwhile, s.
MAX_WAIT: Final = 60_000
POLL: Final = 0.25


class EventCalls:
    """The calls.

    Args:
        webhooks: returns the names of those that are configured now.
        ends: whether this process is about to end, and takes nobody new: nothing is waited for any more.
    """

    def __init__(
        self, clock: Clock, engine: IEngine, webhooks: Callable[[], Collection[str]], ends: Callable[[], bool]
    ) -> None:
        self._clock = clock
        self._engine = engine
        self._webhooks = webhooks
        self._ends = ends

    def add_to(self, api: Api) -> None:
        """Bring the calls to the API."""
        api.add("events", "GET", Route(SCOPE, self._pull))
        api.add("events/dead", "GET", Route(SCOPE, self._dead))
        api.add("events/retry", "POST", Route(SCOPE, self._retry))

    async def _pull(self, request: Request, path: list[str]) -> dict[str, object]:
        asked = query(request, EventsQuery)
        wait = _wait(asked.wait)
        ended: list[object] = []
        request.notifyFinish().addBoth(ended.append)
        deadline = self._clock.seconds() + wait / 1000
        while True:
            page = await self._engine.events.read(asked.after, asked.limit, PAGE_BYTES)
            left = deadline - self._clock.seconds()
            if page.events or page.lost or left <= 0 or ended or self._ends():
                break
            await self._clock.sleep(min(POLL, left))
        whole = [msgspec.Raw(each.body) for each in page.events if _is_whole(each)]
        answer: dict[str, object] = {"events": whole, "last": page.last}
        return answer | ({"lost": True} if page.lost or len(whole) < len(page.events) else {})

    async def _dead(self, request: Request, path: list[str]) -> dict[str, Any]:
        return {"events": await self._engine.deliveries.dead()}

    async def _retry(self, request: Request, path: list[str]) -> dict[str, int]:
        assert request.content is not None
        asked = decode(request.content.read(), RetryParams)
        if asked.webhook not in self._webhooks():
            raise NotFound("no such webhook")
        return {"retried": await self._engine.deliveries.retry(asked.webhook, asked.ids)}


def _is_whole(stored: StoredEvent) -> bool:
    """Return whether this is an event: one that is damaged would spoil the answer for the others."""
    try:
        events.read_kept(stored.body, stored.id)
    except ValueError:
        return False
    return True


def _wait(given: str) -> int:
    """Return ms."""
    try:
        wait = int(given) if given.isascii() and given.isdigit() and len(given) < 9 else durations.parse(given)
    except ValueError:
        wait = -1
    if not 0 <= wait <= MAX_WAIT:
        raise Invalid('wait is a duration of at most 60s, such as "30s"')
    return wait
