"""Waiting for several things at once."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred, FirstError, gatherResults


async def together(
    *work: Coroutine[Any, Any, Any],
) -> list[Any]:  # Any: each returns a value of its own type
    """Run coroutines side by side; return what each returns, in their order. Raises what the first to fail raises; the
    others go on, and their failures count no more. Cancelling it cancels all."""
    running = [Deferred.fromCoroutine(one) for one in work]
    try:
        return await gatherResults(running, consumeErrors=True)
    except FirstError as first:
        first.subFailure.raiseException()
        raise
