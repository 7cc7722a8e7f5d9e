"""A receiver of events in a thread of this process: what came, whether its signature holds, and what it answers."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from standardwebhooks.webhooks import Webhook as Verifier

KEY = bytes(range(24))
SECRET = "whsec_" + base64.b64encode(KEY).decode()


class Delivery(NamedTuple):
    """One attempt: the event, and what was answered (0: nothing was)."""

    event: Any
    status: int


class HttpReceiver:
    """``answer`` gives the status for an event; 0 closes the connection without a word."""

    def __init__(self) -> None:
        self.answer: Callable[[Any], int] = lambda event: 200
        self.deliveries: list[Delivery] = []
        #: events of one subject that were here at a time, and what did not verify
        self.faults: list[str] = []
        self._here: set[str] = set()
        self._lock = threading.Lock()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                status = receiver.take(body, {name.lower(): value for name, value in self.headers.items()})
                if status == 0:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        class Listener(http.server.ThreadingHTTPServer):
            request_queue_size = 128
            daemon_threads = True

        self._server = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/events"

    def take(self, body: bytes, headers: Mapping[str, str]) -> int:
        event = json.loads(body)
        try:
            Verifier(SECRET).verify(body, dict(headers))
        except Exception as problem:
            self.faults.append(f"{event['id']} is not signed: {problem!r}")
        with self._lock:
            if event["id"] in self._here:
                self.faults.append(f"{event['id']} is here twice at a time")
            self._here.add(event["id"])
        try:
            status = self.answer(event)
        finally:
            with self._lock:
                self._here.discard(event["id"])
        self.deliveries.append(Delivery(event, status))
        return status

    @property
    def taken(self) -> list[Any]:
        """The events that were taken, in their order."""
        return [each.event for each in list(self.deliveries) if 200 <= each.status < 300]

    def configuration(self, types: str = '["*"]', **keys: str) -> str:
        """The configuration of a server whose only webhook this is."""
        lines = "".join(f"{key} = {value}\n" for key, value in keys.items())
        return (
            f"[events]\ntypes = {types}\n{lines}[[events.webhooks]]\n"
            f'name = "mail"\nurl = "{self.url}"\nsecret = "{SECRET}"\ntimeout = "2s"\n'
        )

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiving() -> Iterator[HttpReceiver]:
    """A receiver that listens."""
    receiver = HttpReceiver()
    receiver.start()
    try:
        yield receiver
    finally:
        receiver.stop()
