"""A small push server's HTTP API for the publisher's tests, in threads of its own; it can go away and come back."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tools.ports import free_port

KEY = "test-key"
ROOT = Path(__file__).resolve().parents[2]
FINAL = {"completed", "failed", "cancelled"}
#: Seconds that a publisher of a test waits, where a shorter wait is not what is tested: the machine may be busy.
PATIENT: dict[str, Any] = {"timeout": 30.0, "exit_timeout": 30.0, "end_timeout": 30.0}


def child_environment(**more: str) -> dict[str, str]:
    """For a Python of ours: it finds the project before it runs its first line, as measuring it needs.

    From 3.12 on Python warns of each fork beside a thread: that is what is tried here, and what a publisher allows.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    quiet = "ignore:This process (pid:DeprecationWarning"
    return {**os.environ, "PYTHONPATH": path, "PYTHONWARNINGS": quiet, **more}


class FakeApi:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: every command carried out or refused, in order: (method, params)
        self.log: list[tuple[str, dict[str, Any]]] = []
        self.requests = 0
        self.tasks: dict[str, dict[str, Any]] = {}
        self.published: dict[str, dict[str, Any]] = {}
        self.cancel_requested: set[str] = set()
        #: what was appended to each output, and each producer's newest seq
        self.outputs: dict[tuple[str, str], list[Any]] = {}
        self.appended: dict[tuple[str, str], dict[str, int]] = {}
        #: what is answered about inboxes, histories and who is present
        message = {"type": "message", "channel": "c", "data": 1, "timestamp": 5, "messageId": "m", "epoch": "e"}
        self.kept: dict[str, dict[str, Any]] = {
            "inbox": {
                "messages": [{**message, "offset": 4, "readAt": None}, {**message, "offset": 3, "readAt": 7}],
                "more": True,
                "unread": {"notification": 1, "chat": 2, "task": 0},
                "offset": 4,
                "epoch": "e",
                "acked": 0,
            },
            "history": {"messages": [{**message, "offset": 9, "from": "7"}], "offset": 9, "epoch": "e"},
            "presence": {"users": [{"userId": "42", "connections": 2, "info": {"name": "Ada"}}], "total": 1},
        }
        #: HTTP answers to give instead, first come first served
        self.answers: list[tuple[int, dict[str, Any]]] = []
        #: carry out, but lose so many answers
        self.lose_answers = 0
        #: as a proxy before it: a larger body gets 413 and a page
        self.proxy_limit: int | None = None
        #: whether it knows attempts and restarts
        self.version = 1.1
        #: set: every request waits for it
        self.unblocked = threading.Event()
        self.unblocked.set()
        #: its own also while it is away
        self.port = free_port()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                api.handle(self)

            do_GET = do_POST

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def until(self, condition: Callable[[], Any], timeout: float = 30) -> Any:
        deadline = time.monotonic() + timeout
        while True:
            if value := condition():
                return value
            if time.monotonic() > deadline:
                raise AssertionError("it did not come to that in time")
            time.sleep(0.005)

    def methods(self, task_id: str | None = None) -> list[str]:
        return [method for method, params in list(self.log) if task_id in (None, params.get("taskId"))]

    def only_task(self) -> dict[str, Any]:
        (state,) = self.tasks.values()
        return state

    def handle(self, http: BaseHTTPRequestHandler) -> None:
        received = http.rfile.read(int(http.headers.get("Content-Length") or 0))
        body = json.loads(received or b"{}")
        self.unblocked.wait()
        if self._server is None:
            http.close_connection = True
            return
        with self.lock:
            self.requests += 1
            refused = self.proxy_limit is not None and len(received) > self.proxy_limit
            status, answer = 413, {}
            if not refused:
                status, answer = self.answers.pop(0) if self.answers else self.answer(http, body)
            if self.lose_answers:
                self.lose_answers -= 1
                http.close_connection = True
                return
        content = b"<html>no</html>" if refused else json.dumps(answer).encode()
        http.send_response(status)
        http.send_header("Content-Length", str(len(content)))
        http.end_headers()
        http.wfile.write(content)

    def answer(self, http: BaseHTTPRequestHandler, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if http.headers.get("Authorization") != f"Bearer {KEY}":
            return 401, {"error": {"code": "NOT_AUTHENTICATED", "message": "no such key"}}
        if http.path == "/api/batch":
            return 200, {"replies": [self.command(c["method"], c["params"]) for c in body["commands"]]}
        if http.path.startswith("/api/tasks/"):
            state = self.tasks.get(http.path.rpartition("/")[2])
            return (200, state) if state is not None else (404, _error("NOT_FOUND"))
        if http.command == "GET" and http.path.startswith(("/api/inbox?", "/api/history?", "/api/presence?")):
            asked = urlsplit(http.path)
            name = asked.path.removeprefix("/api/")
            self.log.append((name, dict(parse_qsl(asked.query))))
            return 200, self.kept[name]
        if http.path in ("/api/inbox/read", "/api/inbox/delete"):
            self.log.append((http.path.removeprefix("/api/").replace("/", "."), body))
            if body["epoch"] != self.kept["inbox"]["epoch"]:
                return 409, _error("CONFLICT")
            deleted = {"deleted": 1} if http.path.endswith("delete") else {}
            return 200, {**deleted, "unread": {"notification": 1, "chat": 0, "task": 0}}
        if http.path == "/api/tickets":
            self.log.append(("ticket", body))
            return 200, {"ticket": "t", "expiresAt": 5}
        reply = self.command(http.path.removeprefix("/api/"), body)
        return (200, reply["result"]) if "result" in reply else (409, reply)

    def command(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.log.append((method, params))
        if method in ("publish", "broadcast", "notify"):
            return {"result": self.publish(method, params)}
        if method == "disconnect":
            return {"result": {"closed": 2}}
        if method == "revoke":
            return {"result": {"closed": 1, "issuedBefore": params.get("issuedBefore", 1_000)}}
        task_id = params["taskId"]
        state = self.tasks.get(task_id)
        if method == "task.create":
            return self.create(task_id, state, params)
        if state is None:
            return _error("NOT_FOUND")
        if state["status"] in FINAL:
            return _error("CONFLICT")
        if self.version > 1 and params.get("attempt", state["attempt"]) != state["attempt"]:
            return _error("CONFLICT")
        if method == "task.output":
            return self.append(task_id, params)
        state |= params
        status = {
            "task.progress": "running",
            "task.complete": "completed",
            "task.fail": "failed",
            "task.cancel": "cancelled",
        }
        state["status"] = status.get(method, params.get("status"))
        if method == "task.complete":
            state["percentage"] = 100.0
        return {"result": {**state, "cancelRequested": task_id in self.cancel_requested}}

    def append(self, task_id: str, params: dict[str, Any]) -> dict[str, Any]:
        producer = params["producer"]
        known = self.appended.setdefault((task_id, params["name"]), {})
        expected = known.get(producer["id"], -1) + 1
        if producer["seq"] > expected:
            gap = {"epoch": 0, "expected": expected} if expected else {}
            return {"error": {"code": "CONFLICT" if gap else "INVALID_MESSAGE", "message": "refused", **gap}}
        duplicate = producer["seq"] < expected
        if not duplicate:
            known[producer["id"]] = producer["seq"]
            self.outputs.setdefault((task_id, params["name"]), []).append(params.get("text", params.get("items")))
        answer: dict[str, Any] = {"offset": 1, "epoch": "e"} | ({"duplicate": True} if duplicate else {})
        return {"result": answer | ({"cancelRequested": True} if task_id in self.cancel_requested else {})}

    def create(self, task_id: str, state: dict[str, Any] | None, params: dict[str, Any]) -> dict[str, Any]:
        attempt = 1
        if state is not None:
            if self.version > 1 and state.get("messageId") == params.get("messageId"):
                return {"result": state}
            if self.version == 1 or not params.get("restart") or state["userId"] != params["userId"]:
                return _error("CONFLICT")
            if state["status"] == "completed":
                return _error("CONFLICT")
            attempt = state["attempt"] + 1
        state = self.tasks[task_id] = {**params, "status": "pending", "percentage": 0.0}
        if self.version > 1:
            state["attempt"] = attempt
        return {"result": state}

    def publish(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        message_id = params["messageId"]
        if message_id in self.published:
            return (
                {**self.published[message_id], "duplicate": True} if method == "publish" else self.published[message_id]
            )
        result: dict[str, Any] = {"messageId": message_id, "offset": len(self.published) + 1, "epoch": "e"}
        if method == "broadcast":
            bad = _error("UNKNOWN_CHANNEL")
            result = {"results": [bad if c.startswith("bad") else {"result": result} for c in params["channels"]]}
        elif method == "notify":
            users = params.get("userIds") or [params["userId"]]
            result = {"results": [{"userId": user, **result, "delivered": 1} for user in users]}
        self.published[message_id] = result
        return result


def _error(code: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": "refused"}}
