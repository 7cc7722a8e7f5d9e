"""What a real server answers over each door to what is wrong with an output: the rows of `test_output_refusals`, over
sockets and on both engines; and that neither the publisher nor pushctl is harmed by any of it."""

from __future__ import annotations

import http.client
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis

from pushserver.publisher import Publisher
from pushserver.publisher.errors import PublishError
from tests.answers import check_message
from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start, wait_until
from tests.rawsocket import RawSocket
from tests.web.test_output_refusals import APPENDS, BIG, CONFIG, KIB, READS, Append, Read, named, preparation, text_of

pytestmark = pytest.mark.full


class Setting(NamedTuple):
    """A server that is prepared as the rows say, and its Redis, if it has one."""

    server: Server
    redis: redis.Redis | None


@pytest.fixture(scope="module", params=["embedded", "redis"])
def place(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Setting]:
    folder = tmp_path_factory.mktemp("doors")
    store, options = None, ()
    if request.param == "redis":
        store = RedisServer(folder / "redis").start()
        options = ("--redis", store.url)
    try:
        server = start(folder, *options, config=CONFIG)
        try:
            for method, params in preparation():
                reply = batch(server, json.dumps({"method": method, "params": params}).encode())
                assert "error" not in reply, reply
            yield Setting(server, None if store is None else redis.Redis(unix_socket_path=store.path))
        finally:
            server.stop()
    finally:
        if store is not None:
            store.kill()


def batch(server: Server, command: bytes) -> Any:
    """Return the reply to a command that comes in a batch; what is no text at all spoils the batch."""
    said = server.api("POST", "/api/batch", b'{"commands": [' + command + b"]}").body
    return said["replies"][0] if "replies" in said else said


def command_of(row: Append) -> bytes:
    return b'{"method": "task.output", "params": ' + named(row) + b"}"


def unchanged(server: Server) -> None:
    """Nothing of what is refused was written."""
    assert server.api("GET", "/api/tasks/writing").body["status"] == "pending"
    assert server.api("GET", "/api/tasks/writing/output").body["text"] == "x"
    assert server.api("GET", "/api/tasks/writing/output?name=rows").body["items"] == [1]


def test_what_cannot_be_appended_is_refused_over_http_and_by_the_publisher(place: Setting) -> None:
    server = place.server
    with Publisher(server.url, api_key=server.api_key) as publisher:
        for row in APPENDS:
            answers = [server.api("POST", f"/api/tasks/{row.task}/output", text_of(row)).body]
            answers.append(batch(server, command_of(row)))
            if isinstance(row.params, bytes) or not row.params.keys() - {"text", "items", "name"}:
                last = b'{"output": ' + text_of(row) + b"}"
                answers += [
                    server.api("POST", f"/api/tasks/{row.task}/{end}", last).body for end in ("complete", "cancel")
                ]
            for answer in answers:
                assert answer["error"]["code"] == row.code, (row, answer)
                if "gap" in row.what:
                    assert (answer["error"]["epoch"], answer["error"]["expected"]) == (3, 1)
            # What is no text cannot be said in Python; a lone surrogate is replaced on the way, and taken.
            if not isinstance(row.params, bytes) and "surrogate" not in row.what:
                (error,) = publisher.batch([("task.output", {"taskId": row.task, **row.params})])
                assert isinstance(error, PublishError), (row, error)
                assert error.code == row.code, row
    unchanged(server)


def test_what_cannot_be_appended_from_redis_is_a_dead_entry(place: Setting) -> None:
    if place.redis is None:
        assert "redis" not in place.server.log
        return
    before = place.redis.xlen("push:ingest:dead")
    for row in APPENDS:
        place.redis.xadd("push:ingest", {"cmd": command_of(row)})
    wait_until(lambda: place.redis.xlen("push:ingest:dead") == before + len(APPENDS), 60, "all are given up")
    dead = [fields for _, fields in place.redis.xrange("push:ingest:dead")][before:]
    for row, entry in zip(APPENDS, dead, strict=True):
        assert entry[b"cmd"] == command_of(row)
        assert entry[b"error"].decode().partition(":")[0] == row.code, (row, entry)
    unchanged(place.server)


class Stream:
    """A user's event stream on a socket, and the messages that are posted to it."""

    def __init__(self, server: Server, user: str) -> None:
        self._server = server
        self._token = server.token(user)
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        self._connection.request("GET", "/sse", headers={"Authorization": f"Bearer {self._token}"})
        self._answer = self._connection.getresponse()
        self._id = self._message()["data"]["connectionId"]

    def _message(self) -> Any:
        while True:
            line = self._answer.readline()
            assert line, "the stream has ended"
            if line.startswith(b"data: "):
                return json.loads(line[6:])

    def ask(self, message: dict[str, Any]) -> Any:
        """Post a request and return the reply to it, which comes by the stream."""
        posted = self._server.api("POST", f"/sse/{self._id}", message, key=self._token)
        assert posted.status == 202, posted
        while (said := self._message()).get("id") != message["id"]:
            pass
        return said

    def close(self) -> None:
        self._connection.close()


def signed_in(server: Server, user: str) -> RawSocket:
    client = RawSocket(server.port)
    client.upgrade({"Authorization": f"Bearer {server.token(user)}"})
    return client


def subscribed(server: Server, user: str, row: Read, epoch: str) -> list[tuple[str, Any]]:
    """Return the code, or the output, that a user is answered by each door of clients."""
    channel = f"output:{row.output}/{row.task}"
    item: Any = channel
    if row.offset is not None:
        item = {"channel": channel, "since": {"offset": row.offset, "epoch": row.epoch or epoch}}
    found: list[tuple[str, Any]] = []
    for door in (signed_in(server, user), Stream(server, user)):
        reply = door.ask({"type": "subscribe", "id": 1, "data": {"channels": [item]}})
        check_message(reply)
        data = reply["data"]
        refused = data.get("rejected", {}).get(channel)
        if "code" in data or refused is not None:
            found.append(((refused or data)["code"], None))
        else:
            found.append(("", data["results"][channel]["output"]))
        door.close()
    return found


def test_where_nothing_can_be_read_from_is_answered_alike_over_each_door(place: Setting) -> None:
    server = place.server
    for row in READS:
        refused, _, as_channel = row.code.partition(", as a channel ")
        known = row.output if row.output in ("main", "log", "err") else "main"
        epoch = server.api("GET", f"/api/tasks/reading/output?name={known}").body["epoch"]
        at = "" if row.offset is None else f"&offset={row.offset}&epoch={row.epoch or epoch}"
        page = server.api("GET", f"/api/tasks/{row.task}/output?name={row.output}{at}").body
        answers = subscribed(server, "ann", row, epoch)
        if refused.isupper():
            assert page["error"]["code"] == refused, row
            assert [code for code, _ in answers] == [as_channel or refused] * 2, row
            continue
        whole = {"main": "é", "log": "x" * 2 * KIB, "err": ""}[row.output]
        for kept in (page, *(kept for _, kept in answers)):
            assert [name for name in ("reset", "trimmed") if name in kept] == list(row.flags), row
            assert (kept["text"], kept["offset"] - kept["start"], kept["closed"]) == (whole, len(whole.encode()), False)
    assert subscribed(server, "bob", Read("", ""), "") == [("NOT_FOUND", None)] * 2
    stranger = RawSocket(server.port)
    stranger.upgrade()
    said = stranger.ask({"type": "subscribe", "id": 1, "data": {"channels": ["output:main/reading"]}})
    assert said["data"]["code"] == "NOT_AUTHENTICATED"
    stranger.close()


WORDS = "a\0\x1b[2J\x07\u202e\r\n\ufeff三\ud83d"


def test_the_publisher_fails_no_job_whatever_it_writes(place: Setting, caplog: pytest.LogCaptureFixture) -> None:
    server, task_id = place.server, "published"
    with caplog.at_level(logging.WARNING), Publisher(server.url, api_key=server.api_key) as publisher:
        with publisher.task(user_id="ann", task_id=task_id) as task:
            task.write(WORDS)
            task.write("")
            task.emit("no text", "main")
            for name in ("", "Main", "a/b", "ä", "a\n", "a" * 33, 7, None):
                task.write("nowhere", name)  # type: ignore[arg-type]
            for number in range(16):
                task.write(f"{number}", f"n{number}")
            task.emit({"n": float("nan"), "s": "\udfff"}, "rows")
            task.write("三" * KIB, "n0")
            task.write("end")
        assert publisher.flush(30)
        # Another worker has begun it anew; this one's task is another's now.
        with publisher.task(user_id="ann", task_id="again") as old:
            old.write("old")
            assert publisher.flush(30)
            server.api("POST", "/api/tasks", {"taskId": "again", "userId": "ann", "restart": True})
            old.write("late")
            assert publisher.flush(30)
            assert old.cancelled
    kept = WORDS.replace("\ud83d", "\ufffd") + "end"
    assert server.api("GET", f"/api/tasks/{task_id}/output").body["text"] == kept
    names = [f"n{number}" for number in range(16)]
    found = [server.api("GET", f"/api/tasks/{task_id}/output?name={name}").body.get("text", "") for name in names]
    # Of 17 outputs that were written beside main, 15 have a place.
    assert found == ["三" * (2 * KIB // 3), *(f"{number}" for number in range(1, 15)), ""]
    assert server.api("GET", f"/api/tasks/{task_id}").body["status"] == "completed"
    assert server.api("GET", "/api/tasks/again").body["status"] == "pending"
    assert any("LIMIT_EXCEEDED" in line or "at most 16" in line for line in caplog.messages), caplog.messages
    assert server.api("GET", "/api/tasks/again/output").body["text"] == ""


def pushctl(server: Server, *words: str) -> subprocess.CompletedProcess[bytes]:
    known = ["--url", server.url, "--api-key", server.api_key]
    command = [Path(sys.executable).with_name("pushctl"), *known, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, timeout=60, check=False)


def test_pushctl_says_what_is_wrong_and_prints_what_was_written(place: Setting) -> None:
    server = place.server
    for words, code in ((("unknown",), b"no such task"), (("reading", "--name", "Main"), b"name of an output")):
        for more in ((), ("--follow",)):
            done = pushctl(server, "task", "output", *words, *more)
            assert (done.returncode, done.stdout) == (1, b""), (words, more, done)
            assert code in done.stderr or b"INVALID_CHANNEL" in done.stderr, (words, more, done)
            assert done.stderr.count(b"\n") == 1, done
    kept = WORDS.replace("\ud83d", "\ufffd")
    server.api("POST", "/api/tasks", {"taskId": "printed", "userId": "ann"})
    server.api("POST", "/api/tasks/printed/complete", {"output": {"text": kept}})
    for more in ((), ("--follow",)):
        done = pushctl(server, "task", "output", "printed", *more)
        assert (done.returncode, done.stdout) == (0, kept.encode()), done
    done = pushctl(server, "task", "output", "ended", "--name", "none", "--follow")
    assert (done.returncode, done.stdout) == (0, b"")


def test_a_position_that_is_no_number_is_refused_and_one_far_beyond_begins_anew(place: Setting) -> None:
    server = place.server
    epoch = server.api("GET", "/api/tasks/reading/output").body["epoch"]
    for offset in ("-1", "1.5", "x", "", "%D9%A3", 10**30):
        answer = server.api("GET", f"/api/tasks/reading/output?offset={offset}&epoch={epoch}")
        assert answer.status == 400, (offset, answer)
        assert answer.body["error"]["code"] == "INVALID_MESSAGE", (offset, answer)
    socket = signed_in(server, "ann")
    for offset in (-1, 1.5, "x", "", None, [], True, 10**30):
        item = {"channel": "output:main/reading", "since": {"offset": offset, "epoch": epoch}}
        said = socket.ask({"type": "subscribe", "id": 1, "data": {"channels": [item]}})
        assert said["data"]["code"] == "INVALID_MESSAGE", (offset, said)
    socket.close()
    for far in (BIG, 10**18):
        page = server.api("GET", f"/api/tasks/reading/output?offset={far}&epoch={epoch}").body
        answers = subscribed(server, "ann", Read("", "", offset=far), epoch)
        assert [kept["reset"] for kept in (page, *(kept for _, kept in answers))] == [True] * 3, far
