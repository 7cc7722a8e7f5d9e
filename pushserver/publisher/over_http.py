"""Publishing over the HTTP API, with httpx."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec

try:
    # httpx imports these at the first request, in the background thread; a fork in the middle of that would leave the
    # child with half a module for ever.
    import certifi  # noqa: F401
    import httpcore  # noqa: F401
    import httpx
except ImportError as error:  # pragma: no cover - an installation without the extra
    raise ImportError("publishing over HTTP needs httpx: pip install pushserver[publisher]") from error

from pushserver.publisher.commands import PATHS, Command
from pushserver.publisher.errors import PASSING, PublishError, PublishRefused, PublishUnavailable, from_reply

#: Statuses of a server, or of a proxy before it, that is not there now.
_AWAY = frozenset({408, 425, 429, 500, 502, 503, 504})


def _request(command: Command) -> tuple[str, bytes]:
    path = PATHS.get(command.method)
    if path is not None:
        return path, msgspec.json.encode(command.params)
    return _batch_request([command])


def _batch_request(commands: Sequence[Command]) -> tuple[str, bytes]:
    return "/api/batch", msgspec.json.encode({"commands": commands})


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def _read(response: httpx.Response) -> Any:
    """The answer's body, or its error raised."""
    try:
        body = msgspec.json.decode(response.content) if response.content else {}
    except msgspec.DecodeError:
        body = {}
    if response.is_success:
        return body
    error = body.get("error") if isinstance(body, dict) else None
    told: PublishError
    if isinstance(error, dict) and "code" in error:
        told = from_reply(error)
    elif response.status_code in _AWAY:
        told = PublishUnavailable(f"HTTP {response.status_code}")
    else:
        told = PublishRefused(f"HTTP_{response.status_code}", response.reason_phrase)
    if response.status_code in _AWAY and told.code not in PASSING:
        told = PublishUnavailable(told.message, told.code)
    raise told


def _replies(body: Any, count: int) -> list[Any | PublishError]:
    replies = body.get("replies") if isinstance(body, dict) else None
    if not isinstance(replies, list) or len(replies) != count:
        raise PublishUnavailable("the answer is not the API's")
    return [from_reply(reply["error"]) if "error" in reply else reply.get("result") for reply in replies]


def _only(replies: list[Any | PublishError]) -> Any:
    if isinstance(replies[0], PublishError):
        raise replies[0]
    return replies[0]


class HttpTransport:
    """Blocking; one pool of connections, which is safe in many threads."""

    answers = True

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._api_key = api_key
        self._timeout = timeout
        self._client: httpx.Client | None = None

    def call(self, command: Command) -> Any:
        path, body = _request(command)
        answer = self._ask("POST", path, body)
        return answer if command.method in PATHS else _only(_replies(answer, 1))

    def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        return _replies(self._ask("POST", *_batch_request(commands)), len(commands))

    def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        raise ValueError("live=True is for Redis: over HTTP every publication is live at once")

    def task(self, task_id: str) -> dict[str, Any] | None:
        state = self._ask("GET", f"/api/tasks/{quote(task_id, safe='')}", None)
        return state if isinstance(state, dict) else None

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        if self._client is None:
            self._client = httpx.Client(timeout=self._timeout, headers=_headers(self._api_key))
        try:
            return _read(self._client.request(method, self._url + path, content=body))
        except httpx.TransportError as error:
            raise PublishUnavailable(f"{type(error).__name__}: {error}") from error

    def reset(self) -> None:
        self._client = None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class AsyncHttpTransport:
    """For one event loop."""

    def __init__(self, url: str, api_key: str | None, timeout: float) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.AsyncClient(timeout=timeout, headers=_headers(api_key))

    async def call(self, command: Command) -> Any:
        path, body = _request(command)
        answer = await self._ask(path, body)
        return answer if command.method in PATHS else _only(_replies(answer, 1))

    async def batch(self, commands: Sequence[Command]) -> list[Any | PublishError]:
        return _replies(await self._ask(*_batch_request(commands)), len(commands))

    async def publish_live(self, channel: str, data: Any, type: str | None) -> None:
        raise ValueError("live=True is for Redis: over HTTP every publication is live at once")

    async def _ask(self, path: str, body: bytes) -> Any:
        try:
            return _read(await self._client.post(self._url + path, content=body))
        except httpx.TransportError as error:
            raise PublishUnavailable(f"{type(error).__name__}: {error}") from error

    async def close(self) -> None:
        await self._client.aclose()
