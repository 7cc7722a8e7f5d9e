"""Who is present, as the Centrifuge protocol and its server API tell it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pushserver.core.operations import PresentConnection
from pushserver.protocols.centrifuge.messages import ClientInfo, PresenceResult, PresenceStatsResult, raw


def clients(present: Iterable[PresentConnection]) -> PresenceResult:
    """Return each connection by its id."""
    return PresenceResult(
        {
            one.connection_id: ClientInfo(one.user_id, one.connection_id, raw(one.info), raw(one.channel_info))
            for one in present
        }
    )


def numbers(present: Sequence[PresentConnection]) -> PresenceStatsResult:
    """Return how many connections are there, and of how many users."""
    return PresenceStatsResult(len(present), len({one.user_id for one in present}))
