"""The server's HTTP API, called: one request, one answer, and clear ends where there is none."""

from __future__ import annotations

import http.client
import socket
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import click
import msgspec

from pushserver.pushctl.place import ServerPlace

#: Seconds for an answer. The server itself gives its other nodes two.
TIMEOUT: Final = 15


class Unreachable(click.ClickException):
    """There is no server there, or it does not answer."""

    exit_code = 3


class CallRefused(click.ClickException):
    """The server answered with an error."""

    exit_code = 1

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code or status}: {message}" if message else f"the server answered {status}")
        self.status = status
        self.code = code


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
    try:
        result = msgspec.json.decode(said)
    except msgspec.DecodeError:
        raise CallRefused(answer.status, "", "not an answer of a push server") from None
    if answer.status >= 400:
        error = result.get("error", {}) if isinstance(result, dict) else {}
        raise CallRefused(answer.status, str(error.get("code", "")), str(error.get("message", "")))
    return result


def task_path(task_id: str, verb: str = "") -> str:
    return f"tasks/{quote(task_id, safe='')}" + (f"/{verb}" if verb else "")
