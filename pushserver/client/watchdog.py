"""Whether a link is alive: after some silence it is asked, and without an answer it is dead."""

from __future__ import annotations

from pushserver.client.messages import HeartbeatTimes


class Watchdog:
    """One link's signs of life. All times are milliseconds of the core's clock."""

    def __init__(self) -> None:
        self._received_at = 0
        self._pinged_at: int | None = None

    def receive(self, now: int) -> None:
        """Something came."""
        self._received_at = now
        self._pinged_at = None

    def due(self, heartbeat: HeartbeatTimes) -> int:
        """Return when to look again."""
        if self._pinged_at is None:
            return self._received_at + heartbeat.interval
        return self._pinged_at + heartbeat.timeout

    def is_dead(self, heartbeat: HeartbeatTimes, now: int) -> bool:
        return self._pinged_at is not None and now >= self._pinged_at + heartbeat.timeout

    def must_ask(self, heartbeat: HeartbeatTimes, now: int) -> bool:
        """Return whether to ping now, which counts as done."""
        if self._pinged_at is not None or now < self._received_at + heartbeat.interval:
            return False
        self._pinged_at = now
        return True
