"""The tokens of the channels that are read: asked for when they are wanted, and again before they end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pushserver.client.channel_tokens import KeptToken
from pushserver.client.effects import FetchChannelToken
from pushserver.client.feeds import ReadChannel
from pushserver.client.line import RETRY, CoreLine


class TokenRenewal:
    """A room of the core. `subscribe` and `end` are what follows from a token, and from there being none."""

    def __init__(
        self,
        line: CoreLine,
        channels: Mapping[str, ReadChannel],
        *,
        subscribe: Callable[[list[ReadChannel], int], None],
        end: Callable[[ReadChannel, str, str, int], None],
    ) -> None:
        self._line = line
        self._channels = channels
        self._subscribe = subscribe
        self._end = end

    def any(self) -> bool:
        """Return whether the end of any token matters here."""
        return any(True for _ in self._renewable())

    def ready(self, channels: Iterable[ReadChannel], now: int) -> list[ReadChannel]:
        """Return those that can be subscribed now; ask for the tokens of the others."""
        ready: list[ReadChannel] = []
        for channel in channels:
            token = channel.token
            if token is None or not token.is_wanted(now, self._line.server_ahead):
                ready.append(channel)
            elif token.asked_until is None and (token.retry_at is None or now >= token.retry_at):
                self._ask(channel.name, token, now)
        return ready

    def due(self) -> list[int]:
        """Return when something is to be done."""
        moments = (token.due(self._line.server_ahead) for _, token in self._renewable())
        return [at for at in moments if at is not None]

    def act(self, now: int) -> None:
        """Do what is due."""
        for name, token in list(self._renewable()):
            at = token.due(self._line.server_ahead)
            if at is None or now < at:
                continue
            if token.asked_until is not None:
                self.failed(token, now)
            else:
                self._ask(name, token, now)

    def came(self, token: KeptToken, text: object, now: int) -> None:
        """The application's function answered. Nothing, or what is no text, ends the subscription."""
        if not isinstance(text, str) or not text:
            given = "nothing" if not text else f"{type(text).__name__}, not text"
            self.refused(token, f"the token function gave {given}", now)
            return
        token.take(text, now)
        channel = self._channel_of(token)
        if channel is not None:
            self._subscribe([channel], now)

    def failed(self, token: KeptToken, now: int) -> None:
        """The function gave no token now, or not in time."""
        token.fail(now + RETRY + self._line.jitter(RETRY))

    def refused(self, token: KeptToken, reason: str, now: int) -> None:
        """The function says that there will be no token."""
        channel = self._channel_of(token)
        if channel is not None:
            self._end(channel, "UNAUTHORIZED", reason, now)

    def _ask(self, name: str, token: KeptToken, now: int) -> None:
        token.asked_until = now + self._line.options.token_timeout
        token.retry_at = None
        self._line.emit(FetchChannelToken(name, token))

    def _channel_of(self, token: KeptToken) -> ReadChannel | None:
        return next((channel for channel in self._channels.values() if channel.token is token), None)

    def _renewable(self) -> Iterable[tuple[str, KeptToken]]:
        for name, channel in self._channels.items():
            if channel.token is not None and channel.token.function is not None:
                yield name, channel.token
