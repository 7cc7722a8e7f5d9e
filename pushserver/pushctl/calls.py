"""The server's HTTP API, called: one request, one answer, and clear ends where there is none."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import click
import msgspec

from pushserver.pushctl.place import ServerPlace

#: Seconds for an answer. The server itself gives its other nodes two.
TIMEOUT: Final = 15
#: Seconds without a sign of life after which a stream is dead: servers give one each ``heartbeat.interval``.
SILENCE: Final = 120


class Unreachable(click.ClickException):
    """There is no server there, or it does not answer."""

    exit_code = 3
    code = "UNREACHABLE"


class CallRefused(click.ClickException):
    """The server answered with an error."""

    exit_code = 1

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code or status}: {message}" if message else f"the server answered {status}")
        self.status = status
        self.code = code
        #: what the server said, without the code
        self.said = message


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(self._path)


def _connect(url: str) -> http.client.HTTPConnection:
    if url.startswith("unix:"):
        return _UnixConnection(url.removeprefix("unix:"))
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise click.UsageError(f"not the address of a server: {url}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(parts.hostname, parts.port, timeout=TIMEOUT)


def call(place: ServerPlace, method: str, path: str, body: Any = None, **query: str | None) -> Any:
    """Call the API once, with the first of the place's keys that may; return what it answers.

    Nodes of which the answer knows nothing are named on standard error. Raises `CallRefused` or `Unreachable`.
    """
    asked = {name: value for name, value in query.items() if value is not None}
    target = f"/api/{path}" + (f"?{urlencode(asked)}" if asked else "")
    *others, last = place.api_keys
    for key in others:
        try:
            return _warned(_call(place, key, method, target, body))
        except CallRefused as refused:
            if refused.status != 403 or "scope" not in refused.message:
                raise
    return _warned(_call(place, last, method, target, body))


def stream(place: ServerPlace, channels: Sequence[str]) -> Iterator[bytes]:
    """Yield the messages of channels as they come, each as JSON, with the first of the place's keys that may read.

    Ends where the server ends the stream. Raises `CallRefused` or `Unreachable`.
    """
    *others, last = place.api_keys
    for key in others:
        try:
            yield from _stream(place, key, channels)
            return
        except CallRefused as refused:
            if refused.status != 403:
                raise
    yield from _stream(place, last, channels)


def _stream(place: ServerPlace, key: str, channels: Sequence[str]) -> Iterator[bytes]:
    connection = _connect(place.url)
    try:
        headers = {"X-API-Key": key, "User-Agent": "pushctl"}
        connection.request("GET", f"/sse?{urlencode({'channels': ','.join(channels)})}", headers=headers)
        answer = connection.getresponse()
        if answer.status != 200:
            raise _refusal(answer.status, answer.read())
        if connection.sock is not None:
            connection.sock.settimeout(SILENCE)
        for line in answer:
            if line.startswith(b"data: "):
                yield line.removeprefix(b"data: ").rstrip(b"\r\n")
    except (OSError, http.client.HTTPException) as problem:
        raise Unreachable(f"no answer from {place.url}: {problem}") from None
    finally:
        connection.close()


def _refusal(status: int, said: bytes) -> CallRefused:
    try:
        result = msgspec.json.decode(said)
    except msgspec.DecodeError:
        return CallRefused(status, "", "not an answer of a push server")
    error = result.get("error", {}) if isinstance(result, dict) else {}
    return CallRefused(status, str(error.get("code", "")), str(error.get("message", "")))


def _warned(result: Any) -> Any:
    unanswered = result.get("unanswered") if isinstance(result, dict) else None
    if unanswered:
        click.echo(f"warning: no answer from {', '.join(map(str, unanswered))}", err=True)
    return result


def _call(place: ServerPlace, key: str, method: str, target: str, body: Any) -> Any:
    headers = {"X-API-Key": key, "User-Agent": "pushctl"}
    octets = None
    if body is not None:
        octets = msgspec.json.encode(body)
        headers["Content-Type"] = "application/json"
    connection = _connect(place.url)
    try:
        connection.request(method, target, octets, headers)
        answer = connection.getresponse()
        said = answer.read()
    except (OSError, http.client.HTTPException) as problem:
        raise Unreachable(f"no answer from {place.url}: {problem}") from None
    finally:
        connection.close()
    if answer.status >= 400:
        raise _refusal(answer.status, said)
    try:
        return msgspec.json.decode(said)
    except msgspec.DecodeError:
        raise CallRefused(answer.status, "", "not an answer of a push server") from None


def task_path(task_id: str, verb: str = "") -> str:
    return f"tasks/{quote(task_id, safe='')}" + (f"/{verb}" if verb else "")
