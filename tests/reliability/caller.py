"""Somebody who calls a server again and again, in a process of their own: ``python -m tests.reliability.caller URL``.

Each call has its time taken, from before its connection is made until its whole answer has come. At the end of standard
input it ends, and says on standard output, as JSON: `calls`, `longest` (s), `failed` (each with its reason).
"""

from __future__ import annotations

import argparse
import http.client
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from tests.harness import ROOT

#: Seconds after which a call has failed.
PATIENCE = 60.0


class Calls(NamedTuple):
    """What became of them."""

    calls: int
    longest: float
    failed: list[str]


class Caller:
    """The process, seen from the one that started it.

    Args:
        url: what is called.
        key: of the API: then rooms are published to in turn; without one, ``url`` is read.
        rooms: how many.
        kept: over one connection as long as the server keeps it, else over a new one each time.
        ca: whom to trust, a file.
        pause: between two calls, s.
    """

    def __init__(
        self, url: str, key: str = "", rooms: int = 1, kept: bool = False, ca: str = "", pause: float = 0.0
    ) -> None:
        command = [sys.executable, "-m", "tests.reliability.caller", url, "--rooms", str(rooms), "--pause", str(pause)]
        command += ["--key", key] * bool(key) + ["--ca", ca] * bool(ca) + ["--kept"] * kept
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        # It says so when its first call was answered.
        self._process.stdout.readline()

    def end(self) -> Calls:
        """Let it end, and return what it has seen."""
        said, _ = self._process.communicate(timeout=2 * PATIENCE)
        return Calls(**json.loads(said))

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def call(options: argparse.Namespace, ended: threading.Event) -> Calls:
    """Call until the end."""
    parts = urlsplit(options.url)
    context = ssl.create_default_context(cafile=options.ca) if options.ca else None
    connection: http.client.HTTPConnection | None = None
    calls, longest = 0, 0.0
    failed: list[str] = []
    while not ended.is_set():
        began = time.monotonic()
        try:
            if connection is None:
                connection = _connect(parts.netloc, context)
            _call(connection, options, parts.path, calls)
            answer = connection.getresponse()
            said = answer.read()
            if answer.status != 200:
                failed.append(f"{answer.status} {said[:100]!r}")
            if not options.kept or answer.will_close:
                # What the server ends with its answer is no failure: the next call takes another connection.
                connection.close()
                connection = None
        except (OSError, http.client.HTTPException) as problem:
            failed.append(f"call {calls}: {problem!r}")
            if connection is not None:
                connection.close()
            connection = None
        longest = max(longest, time.monotonic() - began)
        calls += 1
        ended.wait(options.pause)
        if calls == 1:
            sys.stdout.write("\n")
            sys.stdout.flush()
    return Calls(calls, longest, failed)


def _connect(netloc: str, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(netloc, timeout=PATIENCE)
    return http.client.HTTPSConnection(netloc, timeout=PATIENCE, context=context)


def _call(connection: http.client.HTTPConnection, options: argparse.Namespace, path: str, number: int) -> None:
    headers = {} if options.kept else {"Connection": "close"}
    if not options.key:
        connection.request("GET", path, headers=headers)
        return
    body = json.dumps({"channel": f"room:{number % options.rooms}", "data": {"n": number}})
    connection.request("POST", path, body, {"X-API-Key": options.key, **headers})


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability.caller")
    parser.add_argument("url")
    parser.add_argument("--key", default="")
    parser.add_argument("--rooms", type=int, default=1)
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--ca", default="")
    parser.add_argument("--pause", type=float, default=0.0)
    options = parser.parse_args(words)
    ended = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    said: dict[str, Any] = call(options, ended)._asdict()
    sys.stdout.write(json.dumps(said) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
