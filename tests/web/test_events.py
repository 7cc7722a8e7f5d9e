"""Events over real HTTP: to a webhook, by pulling, and what an operator does with the dead."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from twisted.internet.threads import deferToThread

from pushserver.app.workers.messages import DrainAll
from pushserver.config.sections import ServerSection
from pushserver.engine.embedded.database import FILE
from pushserver.pushctl.verbs import pushctl
from tests import inside
from tests.harness import Server, start, wait_until
from tests.rawsocket import RawSocket
from tests.webhooks import HttpReceiver, receiving

KEYS = """
[api]
keys = ["everything-there-is", {key = "events-key-of-the-tests", scopes = ["events"]},
        {key = "publish-key-of-the-tests", scopes = ["publish", "read", "admin"]}]
"""


@pytest.fixture(scope="module")
def receiver() -> Iterator[HttpReceiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def server(receiver: HttpReceiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    place = tmp_path_factory.mktemp("events")
    config = KEYS + receiver.configuration('["task.*"]', retention='"2s"')
    server = start(place, config=config, api_key="everything-there-is", env={"PUSHSERVER_API__KEYS": ""})
    yield server
    server.stop()


def end_task(server: Server, task_id: str) -> None:
    assert server.api("POST", "/api/tasks", {"taskId": task_id, "userId": "7"}).status == 201
    assert server.api("POST", f"/api/tasks/{task_id}/complete", {}).status == 200


def taken(receiver: HttpReceiver) -> list[str]:
    return [event["data"]["taskId"] for event in receiver.taken]


def pull(server: Server, query: str = "", status: int = 200) -> Any:
    answer = server.api("GET", f"/api/events{query}", key="events-key-of-the-tests")
    assert answer.status == status, answer
    return answer.body


def test_an_event_comes_to_the_webhook_and_is_pulled(server: Server, receiver: HttpReceiver) -> None:
    before = pull(server)["last"]
    end_task(server, "a")
    wait_until(lambda: "a" in taken(receiver))
    (event,) = pull(server, f"?after={before}")["events"]
    assert event in receiver.taken
    assert set(event) == {"id", "type", "timestamp", "data"}
    assert (event["type"], event["data"]["status"]) == ("task.finished", "completed")
    assert pull(server, f"?after={event['id']}") == {"events": [], "last": event["id"]}
    assert receiver.faults == []


def test_one_that_is_damaged_is_told_as_lost(server: Server) -> None:
    before = pull(server)["last"]
    for task_id in ("whole", "damaged", "later"):
        end_task(server, task_id)
    (_, damaged, _) = pull(server, f"?after={before}")["events"]
    connection = sqlite3.connect(server.state_dir / FILE)
    spoil = "UPDATE event SET body = replace(body, ?, ?) WHERE event_id = ?"
    assert connection.execute(spoil, (b"damaged", b"dam\xffged", damaged["id"])).rowcount == 1
    connection.commit()
    connection.close()
    answer = pull(server, f"?after={before}")
    assert [event["data"]["taskId"] for event in answer["events"]] == ["whole", "later"]
    assert answer["lost"]


def test_pulling_waits_for_an_event(server: Server) -> None:
    before = pull(server)["last"]
    answers: list[Any] = []
    waiting = threading.Thread(target=lambda: answers.append(pull(server, f"?after={before}&wait=60s")))
    waiting.start()
    end_task(server, "b")
    waiting.join(60)
    (answer,) = answers
    assert [event["data"]["taskId"] for event in answer["events"]] == ["b"]
    began = time.monotonic()
    assert pull(server, f"?after={answer['last']}&wait=300ms")["events"] == []
    assert time.monotonic() - began > 0.25


def test_what_was_never_given_is_lost(server: Server) -> None:
    assert pull(server, "?after=5-99999999")["lost"] is True


@pytest.mark.parametrize(
    "query",
    ["?after=", "?after=x", "?limit=0", "?limit=1001", "?limit=x", "?limit=-1", "?wait=61s", "?wait=x", "?wait=-1s"],
)
def test_a_query_that_makes_no_sense_is_refused(server: Server, query: str) -> None:
    assert pull(server, query, 400)["error"]["code"] == "INVALID_MESSAGE"


@pytest.mark.parametrize("path", ["/api/events", "/api/events/dead"])
def test_events_need_their_scope(server: Server, path: str) -> None:
    assert server.api("GET", path, key="publish-key-of-the-tests").status == 403
    assert server.api("GET", path, key="").status == 401
    assert server.api("POST", path, {}).status == 405


def test_what_is_dead_is_shown_and_sent_once_more(server: Server, receiver: HttpReceiver) -> None:
    receiver.answer = lambda event: 500
    try:
        end_task(server, "c")
        end_task(server, "d")

        def dead() -> list[Any]:
            answer = server.api("GET", "/api/events/dead", key="events-key-of-the-tests")
            return answer.body["events"] if len(answer.body["events"]) == 2 else []

        found = wait_until(dead)
    finally:
        receiver.answer = lambda event: 200
    assert [(each["webhook"], each["error"], each["attempts"]) for each in found] == [
        ("mail", "answered 500 Internal Server Error", 1)
    ] * 2
    ids = [each["event"]["id"] for each in found]
    options = ["--url", server.url, "--api-key", "events-key-of-the-tests"]
    shown = CliRunner().invoke(pushctl, [*options, "events", "dead"]).stdout
    assert all(id in shown for id in ids)
    said = CliRunner().invoke(pushctl, [*options, "events", "retry", "mail", ids[0]])
    assert said.stdout == "1 events are sent once more\n"
    wait_until(lambda: found[0]["event"] in receiver.taken)
    again = server.api("POST", "/api/events/retry", {"webhook": "mail"})
    assert (again.status, again.body) == (200, {"retried": 1})
    wait_until(lambda: found[1]["event"] in receiver.taken)
    wait_until(lambda: server.api("GET", "/api/events/dead").body == {"events": []})
    assert server.api("POST", "/api/events/retry", {"webhook": "other"}).status == 404
    assert server.api("POST", "/api/events/retry", {"ids": []}).status == 400


def test_attempts_are_counted(server: Server, receiver: HttpReceiver) -> None:
    def counted(name: str) -> float:
        lines = server.api("GET", "/metrics").body.splitlines()
        values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
        assert "pushserver_events_dropped_total" in values
        assert 'pushserver_events_waiting{webhook="mail"}' in values
        return float(values[f'pushserver_webhook_{name}_total{{webhook="mail"}}'])

    delivered, failed = counted("delivered"), counted("failed")
    receiver.answer = lambda event: 500
    try:
        end_task(server, "counted")
        wait_until(lambda: server.api("GET", "/api/events/dead").body["events"])
    finally:
        receiver.answer = lambda event: 200
    assert counted("failed") > failed
    assert server.api("POST", "/api/events/retry", {"webhook": "mail"}).body == {"retried": 1}
    wait_until(lambda: "counted" in taken(receiver))
    wait_until(lambda: counted("delivered") > delivered)


def test_a_receiver_that_is_gone_is_asked_again_after_a_reload(server: Server, receiver: HttpReceiver) -> None:
    receiver.answer = lambda event: 410
    end_task(server, "e")
    wait_until(lambda: "event=webhook_gone" in server.log)
    receiver.answer = lambda event: 200
    end_task(server, "f")
    assert server.api("POST", "/api/reload").body["changed"] == []
    wait_until(lambda: "f" in taken(receiver))
    assert "e" not in taken(receiver)
    assert receiver.faults == []


def test_a_reload_brings_another_webhook_and_types(tmp_path: Path) -> None:
    with receiving() as first, receiving() as second:
        server = start(tmp_path, config=first.configuration('["task.*"]'))
        try:
            end_task(server, "a")
            wait_until(lambda: taken(first) == ["a"])
            (tmp_path / "pushserver.toml").write_text(second.configuration('["task.finished", "user.*"]'))
            assert server.api("POST", "/api/reload").body["changed"] == ["events.types", "events.webhooks"]
            end_task(server, "b")
            wait_until(lambda: taken(second) == ["b"])
            (tmp_path / "pushserver.toml").write_text("")
            server.api("POST", "/api/reload")
            end_task(server, "c")
            assert server.api("GET", "/api/events?limit=1000").body["events"][-1]["data"]["taskId"] == "b"
            assert (taken(first), taken(second)) == (["a"], ["b"])
        finally:
            server.stop()
        assert "Traceback" not in server.log


@pytest.mark.parametrize("retires", [True, False])
async def test_a_wait_ends_with_an_answer_when_its_server_does(tmp_path: Path, retires: bool) -> None:
    async with inside.running(tmp_path, server=ServerSection(shutdown_drain=5_000)) as running:
        pulled = deferToThread(pull_once, running.port, "60s")
        await running.until(lambda: running.service._doors.context.requests)
        if retires:
            await running.service.retire()
    assert await pulled == (200, [])


async def test_a_drain_ends_no_wait(tmp_path: Path) -> None:
    async with inside.running(tmp_path) as running:
        await running.service.carry_out(DrainAll(None))
        began = time.monotonic()
        assert await deferToThread(pull_once, running.port, "300ms") == (200, [])
        assert time.monotonic() - began > 0.25


def pull_once(port: int, wait: str) -> tuple[int, Any]:
    with RawSocket(port) as raw:
        raw.request("GET", f"/api/events?wait={wait}", headers=[("X-API-Key", inside.API_KEY)])
        answer = raw.response()
        return answer.status, answer.json["events"]
