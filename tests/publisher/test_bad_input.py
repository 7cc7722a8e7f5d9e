"""Whatever a job hands over, however its process ends, and whatever stands in the server's place: what arrives.

Each row is one of the table in docs/reliability.md: nothing is raised into the job, the log has one line that says
what to do, and what can arrive does, at a real server.
"""

from __future__ import annotations

import http.client
import http.server
import logging
import math
import re
import socket
import ssl
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pushserver.publisher import Publisher, PublishRefused, Task
from pushserver.testing.server import PushServer
from tests.certificates import certificates
from tests.engine.redis.servers import RedisServer
from tests.publisher.fake_api import child_environment
from tests.publisher.test_plain import Frame, Lazy, Scalar
from tools.ports import free_port

#: Seconds; the machine may be busy.
PATIENCE = 60.0
#: Of a publisher whose server does not answer: what the job waits for at most.
HASTY: dict[str, Any] = {"timeout": 2.0, "end_timeout": 0.2, "exit_timeout": 0.2, "min_interval": 0.02}
PATIENT: dict[str, Any] = {"timeout": PATIENCE, "end_timeout": PATIENCE, "exit_timeout": PATIENCE}


@pytest.fixture(scope="module")
def server() -> Iterator[PushServer]:
    with PushServer() as running:
        yield running


@pytest.fixture
def job() -> str:
    """The id of a user, and of that user's one task."""
    return uuid.uuid4().hex


class Between:
    """What stands before a server: passes on what is asked (`open`), or does what `mode` says."""

    def __init__(self, port: int) -> None:
        between = self
        self.mode = "open"
        self.asked = threading.Event()
        self._mended = threading.Event()

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                between.asked.set()
                match between.mode:
                    case "nothing":
                        self.close_connection = True
                    case "silence":
                        between._mended.wait(PATIENCE)
                        self.close_connection = True
                    case "413" if len(body) > 16_000:
                        self._send(413, "text/html", b"<html>Request Entity Too Large</html>")
                    case "502" | "403" | "200" as status:
                        self._send(int(status), "text/html", b"<html>a page</html>")
                    case _:
                        self._pass_on(body)

            do_GET = do_POST

            def _pass_on(self, body: bytes) -> None:
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
                upstream.request(self.command, self.path, body, dict(self.headers.items()))
                answer = upstream.getresponse()
                self._send(answer.status, "application/json", answer.read())
                upstream.close()

            def _send(self, status: int, kind: str, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *words: Any) -> None:
                """No word on the terminal."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def mend(self) -> None:
        self.mode = "open"
        self._mended.set()

    def stop(self) -> None:
        self._mended.set()
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture
def between(server: PushServer) -> Iterator[Between]:
    standing = Between(server.port)
    yield standing
    standing.stop()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What the publisher's log says above INFO."""
    ours = [record for record in caplog.records if record.name == "pushserver.publisher"]
    return [record.getMessage() for record in ours if record.levelno >= logging.WARNING]


def state_of(server: PushServer, job: str) -> dict[str, Any]:
    found: dict[str, Any] = server.api("GET", f"/api/tasks/{job}")
    return found


def notices_of(server: PushServer, job: str) -> list[Any]:
    messages = server.api("GET", f"/api/inbox?userId={job}")["messages"]
    return [message["data"]["title"] for message in messages if message["type"] == "user_notification"]


# What a job hands over


def cycle() -> dict[str, Any]:
    value: dict[str, Any] = {"n": 1}
    value["me"] = value
    return value


class Payload(NamedTuple):
    value: Any
    arrives: Any
    truncated: bool = False


PAYLOADS = {
    "a number of numpy": Payload({"auc": Scalar()}, {"auc": 0.5}),
    "a frame of pandas": Payload(Frame(), [{"a": 1, "2": None}, {"a": 2, "2": 0.5}]),
    "a lazy text": Payload({"label": Lazy()}, {"label": "lazy text"}),
    "a lone surrogate": Payload({"file": "caf\udce9.txt"}, {"file": "caf\ufffd.txt"}),
    "NaN and infinities": Payload([math.nan, math.inf, -math.inf], [None, None, None]),
    "a cycle": Payload(cycle(), {"n": 1}, truncated=True),
    "2 MB": Payload({"rows": "x" * 2_000_000}, None, truncated=True),
}


@pytest.mark.parametrize("payload", PAYLOADS)
def test_an_end_arrives_whatever_its_result(
    server: PushServer, job: str, caplog: pytest.LogCaptureFixture, payload: str
) -> None:
    value, expected, truncated = PAYLOADS[payload]
    with server.publisher(**PATIENT) as publisher:
        assert publisher.task(job, task_id=job).complete(value) is True
    state = state_of(server, job)
    assert (state["status"], state.get("truncated", False)) == ("completed", truncated)
    if expected is None:
        # Cut to what a request holds.
        assert 600_000 < len(state["result"]["rows"]) < 1_000_000
    else:
        assert state["result"] == expected
    said = ["task.complete holds what cannot be sent, or too much of it, which was left out: send where it is stored"]
    assert lines(caplog) == said * truncated


TOLD: dict[str, Callable[[Task], object]] = {
    "a long message": lambda task: task.progress(10, message="x" * 5_000),
    "details of progress": lambda task: task.progress(10, details=cycle()),
    "a long message of steps": lambda task: task.steps(1, message="x" * 5_000),
    "a long message of a status": lambda task: task.status("running", message="x" * 5_000),
    "an item": lambda task: task.emit(cycle()),
}


@pytest.mark.parametrize("what", ["a long title", "details", *TOLD])
def test_an_end_says_what_was_left_out_before_it(
    server: PushServer, job: str, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    begun: dict[str, Any] = {"a long title": {"title": "x" * 5_000}, "details": {"details": cycle()}}.get(what, {})
    with server.publisher(**PATIENT) as publisher:
        task = publisher.task(job, task_id=job, **begun)
        if what in TOLD:
            TOLD[what](task)
        assert task.complete(1) is True
    state = state_of(server, job)
    assert (state["status"], state["result"], state["truncated"]) == ("completed", 1, True)
    (line,) = lines(caplog)
    assert line.endswith(" holds what cannot be sent, or too much of it, which was left out: send where it is stored")


# What stands in the server's place


class Answer(NamedTuple):
    mode: str
    line: str


ANSWERS = {
    "502 and a page": Answer("502", "HTTP 502, from something before the push server"),
    "403 and a page": Answer("403", "HTTP_403: something before the push server refuses: see its log, or"),
    "200 and a page": Answer("200", "the answer is not the push server's: see the publisher's address"),
    "the end of the connection": Answer("nothing", "Server disconnected without sending a response"),
    "silence": Answer("silence", "ReadTimeout"),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_is_not_the_servers_answer_settles_nothing(
    server: PushServer, between: Between, job: str, caplog: pytest.LogCaptureFixture, answer: str
) -> None:
    mode, words = ANSWERS[answer]
    between.mode = mode
    with Publisher(between.url, api_key=server.api_key, **HASTY | {"exit_timeout": PATIENCE}) as publisher:
        task = publisher.task(job, task_id=job)
        assert task.complete(1) is False
        publisher.notify(job, title="also", background=True)
        assert between.asked.wait(PATIENCE)
        wait_for_line(caplog)
        between.mend()
        assert publisher.flush(PATIENCE)
    assert task.answered
    assert (state_of(server, job)["status"], notices_of(server, job)) == ("completed", ["also"])
    (line,) = lines(caplog)
    assert words in line
    assert line.endswith("what must not be lost is kept and tried again")


def wait_for_line(caplog: pytest.LogCaptureFixture) -> None:
    said = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.set()

    listener = Listener(logging.WARNING)
    listener.addFilter(logging.Filter("pushserver.publisher"))
    # Behind what `lines` reads, so that the line is there when it is heard of.
    log = logging.getLogger()
    log.addHandler(listener)
    try:
        assert lines(caplog) or said.wait(PATIENCE)
    finally:
        log.removeHandler(listener)


def test_what_a_proxy_finds_too_large_is_cut(
    server: PushServer, between: Between, job: str, caplog: pytest.LogCaptureFixture
) -> None:
    between.mode = "413"
    with Publisher(between.url, api_key=server.api_key, **PATIENT) as publisher:
        assert publisher.task(job, task_id=job).complete({"html": "x" * 100_000, "n": 1}) is True
    state = state_of(server, job)
    assert (state["status"], state["truncated"]) == ("completed", True)
    assert lines(caplog) == [
        "task.complete was too large for the server, or on the way, and was cut: send where its data is stored"
    ]


def test_a_wrong_key_is_told_once(server: PushServer, job: str, caplog: pytest.LogCaptureFixture) -> None:
    with Publisher(server.url, api_key="0123456789abcdef-wrong", **PATIENT) as publisher:
        for _ in range(3):
            assert publisher.task(job).complete(1) is False
        publisher.flush(PATIENCE)
    assert server.api("GET", f"/api/tasks?userId={job}")["tasks"] == []
    (line,) = lines(caplog)
    assert line.startswith("the push server refused task.create: NOT_AUTHENTICATED: ")
    assert "API key" in line


@pytest.mark.parametrize("user", [None, "", "a b", "x" * 201], ids=["nobody", "nothing", "a blank", "too long"])
def test_a_wrong_user_is_told_once(server: PushServer, user: Any, caplog: pytest.LogCaptureFixture) -> None:
    with server.publisher(**PATIENT) as publisher:
        for _ in range(3):
            task = publisher.task(user)
            task.progress(10)
            assert task.complete(1) is False
        with pytest.raises(PublishRefused, match="INVALID_MESSAGE"):
            publisher.notify(user, title="t")
        publisher.flush(PATIENCE)
    (line,) = lines(caplog)
    assert line.startswith("the push server refused task.create: INVALID_MESSAGE: userId")
    assert server.api("GET", "/api/tasks?userId=None")["tasks"] == []


# Where the server is not


def closed_port() -> Iterator[int]:
    """A port that is held and where nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


def greeting_port() -> Iterator[int]:
    """A port where something answers each connection with a line that is of no protocol here, and ends it."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            with near:
                near.sendall(b"220 mail.example ESMTP\r\n\r\n")
                near.recv(65_536)

    thread = threading.Thread(target=serve)
    thread.start()
    yield listener.getsockname()[1]
    listener.shutdown(socket.SHUT_RDWR)
    thread.join()
    listener.close()


class Address(NamedTuple):
    url: str
    line: str


ADDRESSES = {
    "http:// where nobody listens": Address("http://127.0.0.1:{closed}", "refused"),
    # It closes with what it did not read, so that the end may be a reset.
    "http:// where a Redis is": Address(
        "http://127.0.0.1:{redis}", "disconnected without sending|Connection reset by peer"
    ),
    "http:// where something else is": Address("http://127.0.0.1:{greeting}", "does not speak HTTP"),
    "redis:// where nobody listens": Address("redis://127.0.0.1:{closed}/0", "refused"),
    "redis:// where something else is": Address("redis://127.0.0.1:{greeting}/0", "no Redis answers there"),
    "redis:// with a wrong password": Address("redis://u:wrong@127.0.0.1:{redis}/0", "see the user and the password"),
    "redis:// with a database that is not there": Address("redis://127.0.0.1:{redis}/999", "DB index is out of range"),
    "rediss:// where TLS is not spoken": Address("rediss://127.0.0.1:{greeting}/0", "SSL"),
    "unix:// where no socket is": Address("unix:///nowhere/redis", "No such file"),
}


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    closed, greeting = closed_port(), greeting_port()
    port = free_port()
    redis = RedisServer(tmp_path_factory.mktemp("redis"), port=port).start()
    yield {"closed": next(closed), "greeting": next(greeting), "redis": port}
    redis.kill()
    for each in (closed, greeting):
        assert next(each, None) is None


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_wrong_address_is_one_line_and_the_job_goes_on(
    ports: dict[str, int], job: str, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    url, words = ADDRESSES[address]
    expect_in_vain(url.format(**ports), words, job, caplog)


def expect_in_vain(url: str, words: str, job: str, caplog: pytest.LogCaptureFixture, **options: Any) -> None:
    """The job goes on; one line says where it is not and why (``words``, a pattern), and one at the end how much could
    not be sent."""
    publisher = Publisher(url, **HASTY | options)
    for _ in range(3):
        assert publisher.task(job).complete(1) is False
    wait_for_line(caplog)
    (line,) = lines(caplog)
    assert line.startswith(f"the push server cannot be reached at {re.sub('//.*@', '//', url)} (")
    assert re.search(words, line)
    assert line.endswith("what must not be lost is kept and tried again")
    assert publisher.close(HASTY["exit_timeout"]) is False
    assert lines(caplog)[1:] == ["6 commands could not be sent to the push server before the end"]


def test_a_certificate_that_nobody_vouches_for_is_one_line(
    tmp_path: Path, job: str, caplog: pytest.LogCaptureFixture
) -> None:
    files, strangers = certificates(tmp_path / "pki"), certificates(tmp_path / "strangers")
    standing = Between(0)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files["cert"], files["key"])
    standing.server.socket = context.wrap_socket(standing.server.socket, server_side=True)
    try:
        words = "give the publisher the certificate of its authority as ca"
        expect_in_vain(standing.url.replace("http", "https"), words, job, caplog, ca=strangers["ca"])
        assert not standing.asked.is_set()
    finally:
        standing.stop()


# How a process ends

LEAVING = {
    "os._exit": "os._exit(7)",
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGKILL": "os.kill(os.getpid(), signal.SIGKILL)",
    "an exception": "raise ZeroDivisionError",
    "os._exit in the middle of the end": "NOW; os._exit(7)",
}

FORK_WHILE_IT_SENDS = """
for n in range(5):
    for _ in range(20):
        publisher.notify(JOB, title="t", background=True)
    child = os.fork()
    if child == 0:
        with publisher.task(JOB, task_id=f"{JOB}-{n}"):
            pass
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""

COLLECTOR = """
import gc, threading
from pushserver.publisher import tqdm
gc.set_threshold(1, 1, 1)
def work(n):
    for _ in range(10):
        bar = tqdm(total=3, publisher=publisher, user_id=JOB, disable=None)
        bar.me = bar
        bar.update()
        del bar
        dropped = Publisher("null://")
        dropped.me = dropped
        dropped.notify(JOB, title="t", background=True)
        del dropped
    with publisher.task(JOB, task_id=f"{JOB}-{n}"):
        pass
threads = [threading.Thread(target=work, args=(n,)) for n in range(5)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def run(server: PushServer, job: str, body: str, **options: Any) -> subprocess.CompletedProcess[str]:
    options = PATIENT | options
    begin = (
        "import os, signal\nfrom pushserver.publisher import Publisher\n"
        f"publisher = Publisher({server.url!r}, api_key={server.api_key!r}, **{options!r})\nJOB = {job!r}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", begin + body],
        env=child_environment(), capture_output=True, text=True, timeout=4 * PATIENCE, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("leaving", LEAVING)
def test_an_end_is_there_however_the_process_leaves(server: PushServer, job: str, leaving: str) -> None:
    code = LEAVING[leaving]
    # Without waiting for the answer, where the way out still sends what waits.
    options = {"end_timeout": 0.0} if code.startswith("NOW") else {}
    body = f"publisher.task(JOB, task_id=JOB).complete(1)\n{code.removeprefix('NOW; ')}\n"
    ended = run(server, job, body, **options)
    assert ended.returncode != 0
    assert "pushserver.publisher" not in ended.stderr
    assert state_of(server, job)["status"] == "completed"


@pytest.mark.parametrize("body", [FORK_WHILE_IT_SENDS, COLLECTOR], ids=["fork with locks held", "the collector"])
def test_nothing_stands_still_and_all_ends_arrive(server: PushServer, job: str, body: str) -> None:
    ended = run(server, job, body)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [state_of(server, f"{job}-{n}")["status"] for n in range(5)] == ["completed"] * 5
