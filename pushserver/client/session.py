"""Who this client is: its token, the user whom the server took it for, and when the token is due.

A token is kept over as many connections as it lasts: until the server refuses it or it is due. `expiresAt` is the
server's time, and no client's clock has to be right: it is compared with the server's own clock, as an answered `ping`
showed it.
"""

from __future__ import annotations

from pushserver.client.messages import HeartbeatTimes, Welcome

#: Milliseconds that a token is kept at least: what is wrong about its end must not become a loop of refreshes.
_SOONEST = 10_000


def renewal(taken_at: int, ends_at: int) -> int:
    """Return when a token that ends is to be renewed: a tenth of its time before, but 5 s at least and 60 s at most.

    That leaves time for some tries.
    """
    left = ends_at - taken_at
    return taken_at + max(_SOONEST, left - min(60_000, max(5_000, left // 10)))


class ClientSession:
    """One client's identity. All times are milliseconds of the core's clock."""

    def __init__(self, token: str | None, can_fetch: bool) -> None:
        self.token = token
        self.can_fetch = can_fetch
        #: the token has run out
        self.spent = False
        #: when the token function is given up; None while it is not asked
        self.fetch_until: int | None = None
        self.welcome: Welcome | None = None
        #: the user before, where the newest token turned out to be another's
        self.left: str | None = None
        self.refresh_at: int | None = None
        #: the server's clock minus the core's; 0 until it is known: the core's clock stands for both
        self.server_ahead = 0

    @property
    def user_id(self) -> str | None:
        return self.welcome.user_id if self.welcome is not None else None

    @property
    def heartbeat(self) -> HeartbeatTimes:
        return self.welcome.heartbeat if self.welcome is not None else HeartbeatTimes()

    @property
    def needs_token(self) -> bool:
        return self.can_fetch and (self.token is None or self.spent)

    def take_token(self, token: str) -> None:
        self.token = token
        self.spent = False

    def leave(self) -> None:
        """The token is another user's: what the server said of the one before counts no more."""
        self.left = self.user_id
        self.welcome = None

    def signed_in(self, welcome: Welcome, now: int) -> str | None:
        """Signed in. Return the user before, where that was another."""
        before = self.left if self.left is not None else self.user_id
        self.left = None
        self.welcome = welcome
        self.plan_refresh(now)
        return before if before not in (None, welcome.user_id) else None

    def learn_time(self, server_time: int, now: int) -> None:
        """The server's clock showed `server_time` a moment ago."""
        self.server_ahead = server_time - now
        self.plan_refresh(now)

    def plan_refresh(self, now: int) -> None:
        expires_at = self.welcome.expires_at if self.welcome is not None else None
        self.refresh_at = None
        if expires_at is not None and self.can_fetch:
            self.refresh_at = renewal(now, expires_at - self.server_ahead)
