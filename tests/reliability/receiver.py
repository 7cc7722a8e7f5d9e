"""A receiver of webhooks that is a process, so that it can be killed: ``python -m tests.reliability.receiver``.

It fails a third of the attempts, and takes each event at its third one at the latest: by 503, by 429, without a word,
or by an answer that comes after the sender's patience. What it sees stands in a journal, a JSON object a line, which
its next life goes on with:

    {"begun": id, "subject", "n"}   an attempt whose signature holds
    {"taken": id} {"failed": id}    written before its answer is sent
    {"fault": text}                 what no sender may do
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import random
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.webhooks import SECRET

#: Seconds that the sender waits, and more than that.
TIMEOUT = 2
TOO_LATE = 2.5
#: How often it fails an event at most.
MOST_FAILURES = 2


def left(connection: socket.socket) -> bool:
    """Return whether the peer has closed its side."""
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


class Journal:
    """What was seen, by all lives of the receiver."""

    def __init__(self, path: Path, seed: int) -> None:
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._failures: dict[str, int] = {}
        #: by subject: the attempts that are here
        self._here: dict[str, list[socket.socket]] = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            entry = json.loads(line)
            if "failed" in entry:
                self._failures[entry["failed"]] = self._failures.get(entry["failed"], 0) + 1
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def _write(self, **entry: Any) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    def fault(self, text: str) -> None:
        with self._lock:
            self._write(fault=text)

    def begin(self, event: Any, connection: socket.socket) -> str:
        """An attempt begins; return what is to be answered."""
        subject = event["data"]["channel"]
        with self._lock:
            here = self._here.setdefault(subject, [])
            # Whoever has hung up does not send it any more.
            if any(not left(other) for other in here):
                self._write(fault=f"{event['id']} of {subject} came while another of it was here")
            here.append(connection)
            self._write(begun=event["id"], subject=subject, n=event["data"]["data"])
            if self._failures.get(event["id"], 0) < MOST_FAILURES and self._chance.random() < 1 / 3:
                return self._chance.choice(["503", "429", "nothing", "late"])
            return "200"

    def end(self, event: Any, connection: socket.socket, taken: bool) -> None:
        """An attempt ends; its answer is sent next."""
        with self._lock:
            self._here[event["data"]["channel"]].remove(connection)
            if not taken:
                self._failures[event["id"]] = self._failures.get(event["id"], 0) + 1
            self._write(**{"taken" if taken else "failed": event["id"]})


def serve(path: Path, port: int, seed: int) -> None:
    """Listen until the process ends; say where on standard output."""
    journal = Journal(path, seed)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                event: Any = Webhook(SECRET).verify(body, headers)
            except WebhookVerificationError as problem:
                journal.fault(f"{body[:60]!r} is not signed: {problem}")
                self._answer(400)
                return
            answer = journal.begin(event, self.connection)
            if answer == "late":
                time.sleep(TOO_LATE)
            journal.end(event, self.connection, taken=answer == "200")
            if answer == "nothing":
                self.close_connection = True
                return
            self._answer(200 if answer == "late" else int(answer))

        def _answer(self, status: int) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            if status == 429:
                self.send_header("Retry-After", "1")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    class Listener(http.server.ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, *_: Any) -> None:
            """The sender has hung up."""

    listener = Listener(("127.0.0.1", port), Handler)
    sys.stdout.write(f"{listener.server_port}\n")
    sys.stdout.flush()
    listener.serve_forever()


if __name__ == "__main__":
    words = argparse.ArgumentParser(prog="python -m tests.reliability.receiver")
    words.add_argument("journal", type=Path)
    words.add_argument("--port", type=int, default=0)
    words.add_argument("--seed", type=int, default=1)
    options = words.parse_args()
    serve(options.journal, options.port, options.seed)
