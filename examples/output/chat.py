"""A chat page whose answers come word by word, and go on over reloads, in second tabs, and when a worker dies.

    python chat.py PORT

``PUSH_URL``, ``PUSH_API_KEY`` and ``PUSH_SECRET`` say where the push server is, and how tokens for it are signed;
``PUSH_PUBLIC_URL`` where browsers find it, if that is somewhere else.

Each question is a task, and each task has a worker, a process of its own. One that was killed is begun again with the
same task, as a queue of jobs does that delivers again what nobody finished. Words come from a generator, 30 a second; a
model that streams takes its place as it stands.
"""

from __future__ import annotations

import http.server
import importlib.resources
import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import jwt

from pushserver.publisher import Publisher

HERE = Path(__file__).resolve().parent
#: The browser client, as the package has it.
CLIENT = importlib.resources.files("pushserver.web") / "static" / "pushclient"
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
#: There is one user here; an application knows who is signed in.
USER = "ann"
#: Words of an answer, and how many come in a second.
WORDS, RATE = int(os.environ.get("CHAT_WORDS", "300")), 30
#: So often a worker is begun that was killed.
DELIVERIES = 5


def answer(question: str) -> Iterator[str]:
    """What is answered, word by word: the place of a model."""
    words = question.split() or ["nothing"]
    for number in range(WORDS):
        time.sleep(1 / RATE)
        yield f"{words[number % len(words)]}{number} "


def work(task_id: str, question: str) -> None:
    """Answer one question. Who does it again begins anew: readers are told."""
    with (
        Publisher(os.environ["PUSH_URL"], api_key=os.environ["PUSH_API_KEY"]) as publisher,
        publisher.task(user_id=USER, title=question, task_id=task_id) as task,
    ):
        for word in answer(question):
            # Known from the answers to what it writes.
            task.raise_if_cancelled()
            task.write(word)


def create(task_id: str, question: str) -> None:
    """Make the task before its worker begins, so that the page can follow it at once."""
    body = json.dumps({"taskId": task_id, "userId": USER, "title": question}).encode()
    headers = {"Authorization": f"Bearer {os.environ['PUSH_API_KEY']}", "Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{os.environ['PUSH_URL']}/api/tasks", body, headers)).close()


def deliver(task_id: str, question: str) -> None:
    """Have a question answered, again where the worker was killed."""
    for _ in range(DELIVERIES):
        command = [sys.executable, __file__, "work", task_id, question]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as worker:
            print(json.dumps({"worker": worker.pid, "taskId": task_id}), flush=True)
        print(json.dumps({"ended": worker.pid, "status": worker.returncode}), flush=True)
        if worker.returncode >= 0:
            return


class Page(http.server.BaseHTTPRequestHandler):
    """The page, tokens, and questions."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/token":
            now = int(time.time())
            claims = {"sub": USER, "iat": now, "exp": now + 600}
            self._answer(jwt.encode(claims, os.environ["PUSH_SECRET"], "HS256").encode(), "text/plain")
        elif path == "/where":
            self._answer(os.environ.get("PUSH_PUBLIC_URL", os.environ["PUSH_URL"]).encode(), "text/plain")
        elif path in ("/", "/pane.js"):
            self._send(HERE / ("chat.html" if path == "/" else "pane.js"))
        elif path.startswith("/pushclient/") and ".." not in path:
            self._send(CLIENT / path.removeprefix("/pushclient/"))
        else:
            self.send_error(404)

    def do_POST(self) -> None:
        question = self.rfile.read(int(self.headers["Content-Length"])).decode()
        task_id = uuid.uuid4().hex
        create(task_id, question)
        threading.Thread(target=deliver, args=(task_id, question), daemon=True).start()
        self._answer(json.dumps({"taskId": task_id}).encode(), "application/json")

    def _send(self, file: object) -> None:
        assert isinstance(file, Path)
        if file.is_file():
            self._answer(file.read_bytes(), TYPES[file.suffix])
        else:
            self.send_error(404)

    def _answer(self, body: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing of requests."""


if __name__ == "__main__":
    if sys.argv[1] == "work":
        work(*sys.argv[2:4])
    else:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Page)
        print(json.dumps({"port": server.server_port}), flush=True)
        server.serve_forever()
