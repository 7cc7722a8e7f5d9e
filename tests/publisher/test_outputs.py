"""What tasks write, as a worker does it."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time

import pytest

from pushserver.publisher import AsyncPublisher, Publisher, TaskCancelled
from pushserver.publisher.outbox import APPEND_LIMIT, CommandQueue, OutputEntry
from pushserver.publisher.outputs import OutputProducer
from tests.publisher.fake_api import KEY, PATIENT, FakeApi


def text_of(api: FakeApi, task_id: str, name: str = "main") -> str:
    return "".join(api.outputs.get((task_id, name), []))


def test_what_is_written_arrives_in_order_before_the_end(api: FakeApi, publisher: Publisher) -> None:
    started = time.monotonic()
    with publisher.task(42) as task:
        for n in range(1_000):
            task.write(f"{n} ")
        task.progress(percentage=50)
        task.write("end")
    assert text_of(api, task.task_id) == "".join(f"{n} " for n in range(1_000)) + "end"
    methods = api.methods(task.task_id)
    assert (methods[0], methods[-1]) == ("task.create", "task.complete")
    # One at once, the next ones in intervals of 40 ms.
    assert methods.count("task.output") < 10 + (time.monotonic() - started) / 0.04


def test_items_and_other_outputs_have_a_place_of_their_own(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:
        for n in range(3):
            task.emit({"row": n}, "rows")
        task.output("stderr").write("oh\n")
        task.output("rows").emit(None)
        # Neither raises.
        task.write("not text", "rows")
        task.write("nowhere", "Not A Name")
    rows = [row for part in api.outputs[task.task_id, "rows"] for row in part]
    assert rows == [{"row": 0}, {"row": 1}, {"row": 2}, None]
    assert text_of(api, task.task_id, "stderr") == "oh\n"
    assert {name for _, name in api.outputs} == {"rows", "stderr"}


def test_an_output_is_a_file(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:
        print("one", 1, file=task.out)
        with contextlib.redirect_stdout(task.out):
            print("two")
        log = logging.Logger("work")
        log.addHandler(logging.StreamHandler(task.out))
        log.warning("three")
        program = "import sys; print('four'); print('five', file=sys.stderr); sys.stdout.buffer.write('é'.encode())"
        assert task.run([sys.executable, "-u", "-c", program]) == 0
        assert task.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
        task.write("\ud800\0\x1b[31m")
    assert text_of(api, task.task_id) == "one 1\ntwo\nthree\nfour\nfive\né\ufffd\0\x1b[31m"


class Mute:
    def __str__(self) -> str:
        raise ValueError("no words")


def test_what_cannot_be_written_never_fails_the_job(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:
        task.write(Mute())
        assert task.out.write(Mute()) == len("Mute")  # type: ignore[arg-type]
        assert task.out.write(12) == 2  # type: ignore[arg-type]
        task.emit(Mute(), "rows")
        for name in (Mute(), 5, ["main"], None):
            task.write("nowhere", name)  # type: ignore[arg-type]
            task.emit("nowhere", name)  # type: ignore[arg-type]
    assert text_of(api, task.task_id) == "MuteMute12"
    assert {name for _, name in api.outputs} == {"main", "rows"}
    assert api.only_task()["status"] == "completed"


def test_a_program_that_is_killed_inside_a_character_leaves_a_whole_text(api: FakeApi, publisher: Publisher) -> None:
    program = "import os, signal; os.write(1, 'é漢'.encode()[:-1]); os.kill(os.getpid(), signal.SIGKILL)"
    with publisher.task(42) as task:
        assert task.run([sys.executable, "-c", program]) == -signal.SIGKILL
        task.write("|")
    assert text_of(api, task.task_id) == "é\ufffd|"


def test_a_lost_answer_appends_nothing_twice(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:
        task.write("a")
        publisher.flush(30)
        api.lose_answers = 1
        task.write("b")
        publisher.flush(30)
        task.write("c")
    assert text_of(api, task.task_id) == "abc"
    # It was sent twice, with the same number.
    assert api.methods(task.task_id).count("task.output") == 4


def test_an_event_loop_goes_on_while_a_program_writes(api: FakeApi) -> None:
    program = "import sys; print('asked', flush=True); print('answered', sys.stdin.readline())"

    async def work() -> int:
        async with AsyncPublisher(api.url, api_key=KEY, **PATIENT) as publisher:
            reading, writing = os.pipe()
            async with publisher.task(42) as task:
                running = task.run([sys.executable, "-c", program], stdin=reading)
                async with asyncio.timeout(60):
                    while "asked" not in text_of(api, task.task_id):
                        await asyncio.sleep(0.005)
                # Only who is not held up can answer.
                os.write(writing, b"yes\n")
                status = await running
                os.close(reading)
                os.close(writing)
        return status

    assert asyncio.run(work()) == 0
    ((task_id, _),) = api.outputs
    assert text_of(api, task_id) == "asked\nanswered yes\n\n"


@pytest.mark.parametrize("known", [0, 1])
def test_what_follows_arrives_where_the_server_lost_what_it_had_answered(
    api: FakeApi, publisher: Publisher, known: int, caplog: pytest.LogCaptureFixture
) -> None:
    with publisher.task(42) as task:
        for word in ("a", "b", "c"):
            task.write(word)
            publisher.flush(30)
        kept = (task.task_id, "main")
        # Its data went back: to what it knew of the producer's first append, or to nothing at all.
        api.outputs[kept] = api.outputs[kept][:known]
        api.appended[kept] = {producer: 0 for producer in api.appended[kept] if known}
        for word in ("d", "e"):
            task.write(word)
            publisher.flush(30)
        assert not task.cancelled
    assert text_of(api, task.task_id) == "a" * known + "de"
    assert (api.only_task()["status"], api.only_task()["truncated"]) == ("completed", True)
    assert len([each for each in caplog.messages if "has lost some" in each]) == 1


def test_a_long_text_goes_in_pieces_that_a_request_holds(api: FakeApi, publisher: Publisher) -> None:
    long = "\0" * (3 * APPEND_LIMIT) + "end"
    with publisher.task(42) as task:
        task.write(long)
    assert text_of(api, task.task_id) == long
    assert max(map(len, api.outputs[task.task_id, "main"])) <= APPEND_LIMIT


def test_what_something_before_the_server_finds_too_large_goes_in_halves(
    api: FakeApi, publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    api.proxy_limit = 2_500
    text = "".join(f"{n} " for n in range(2_000))
    with publisher.task(42) as task:
        task.write(text)
        for n in range(50):
            task.emit("i" * 90 + str(n), "rows")
        # One of its items never passes, and nothing waits for it.
        task.emit("i" * 3_000, "rows")
        task.emit("last", "rows")
    assert text_of(api, task.task_id) == text
    rows = [row for part in api.outputs[task.task_id, "rows"] for row in part]
    assert rows == [*("i" * 90 + str(n) for n in range(50)), "last"]
    assert (api.only_task()["status"], api.only_task()["truncated"]) == ("completed", True)
    assert [each for each in caplog.messages if "HTTP_413" in each] == [
        "the push server refused task.output: HTTP_413: "
        "something before the push server refuses: see its log, or the publisher's address"
    ]


def test_who_only_writes_sees_that_the_owner_asks_to_cancel(api: FakeApi, publisher: Publisher) -> None:
    def work() -> None:
        with publisher.task(42) as task:
            api.cancel_requested.add(task.task_id)
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                task.write(".")
                task.raise_if_cancelled()
                time.sleep(0.005)

    with pytest.raises(TaskCancelled):
        work()


def test_many_threads_write_whole_pieces_each_in_its_order(api: FakeApi, publisher: Publisher) -> None:
    with publisher.task(42) as task:

        def write(letter: str) -> None:
            for n in range(500):
                task.write(f"{letter}{n} ")

        threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    words = text_of(api, task.task_id).split()
    for letter in "abcd":
        assert [word for word in words if word.startswith(letter)] == [f"{letter}{n}" for n in range(500)]
    assert len(words) == 2_000


def test_what_waits_is_bounded_and_the_middle_is_left_out(
    api: FakeApi, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pushserver.publisher.outbox.APPEND_LIMIT", 200)
    options = PATIENT | {"end_timeout": 0.0, "max_pending_bytes": 1_000}
    words = [f"{n:99} " for n in range(100)]
    with Publisher(api.url, api_key=KEY, **options) as publisher:
        api.unblocked.clear()
        task = publisher.task(42)
        for word in words:
            task.write(word)
        for n in range(3):
            task.emit("i" * 2_000 + str(n), "rows")
        api.unblocked.set()
        assert publisher.flush(30)
        task.write("on")
        task.complete()
    # What came first, as much as may wait, and what came last, as much as one append holds.
    left_out = "\n[8600 characters left out]\n"
    assert text_of(api, task.task_id) == "".join(words[:12]) + left_out + "".join(words[98:]) + "on"
    (rows,) = api.outputs[task.task_id, "rows"]
    assert rows == ["i" * 2_000 + "2"]
    # The text says it; of items, the log and the end of the task do.
    assert [each for each in caplog.messages if "to its output" in each] != []
    assert api.tasks[task.task_id]["truncated"]


def test_who_writes_more_than_may_wait_waits_for_room(api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pushserver.publisher.outbox.APPEND_LIMIT", 200)
    words = [f"{n:99} " for n in range(50)]
    most: list[int] = []
    with Publisher(api.url, api_key=KEY, **(PATIENT | {"max_pending_bytes": 1_000})) as publisher:
        api.unblocked.clear()
        task = publisher.task(42)

        def write() -> None:
            for word in words:
                task.write(word)
                most.append(task._waiting())

        writer = threading.Thread(target=write)
        writer.start()
        api.unblocked.set()
        writer.join()
        task.complete()
    assert text_of(api, task.task_id) == "".join(words)
    assert max(most) <= 1_200


def test_a_forked_child_is_a_producer_of_its_own(api: FakeApi, publisher: Publisher) -> None:
    task = publisher.task(42)
    task.write("parent ")
    assert publisher.flush(30)
    child = os.fork()
    if child == 0:
        status = 1
        try:
            task.write("child ")
            status = 0 if publisher.flush(30) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    task.write("parent again")
    task.complete()
    assert text_of(api, task.task_id) == "parent child parent again"


class Nobody:
    """A task on paper."""

    attempt = None

    def receive(self, command: object, state: object, error: object) -> None: ...


def written(queue: CommandQueue, producer: OutputProducer, text: str) -> OutputEntry:
    """Return an entry that waits with this text."""
    entry = OutputEntry("task:t", producer, Nobody())
    assert entry.take_up(text, len(text))
    queue.add(entry)
    return entry


def test_the_first_goes_at_once_and_what_follows_after_an_interval() -> None:
    queue = CommandQueue(0.5)
    write = functools.partial(written, queue, OutputProducer("t", "main", "text"))
    first = write("a")
    assert first.take_up("b", 1)
    assert queue.take(10.0, 5) == [first]
    assert first.command is not None
    assert first.command.params["text"] == "ab"
    assert not first.take_up("c", 1)
    second = write("c")
    queue.finished(first)
    assert queue.take(10.03, 5) == []
    assert queue.due_at() == pytest.approx(10.04)
    assert queue.take(10.04, 5) == [second]
    # Sent again, it is the same.
    queue.returned(second)
    assert queue.take(11.0, 5) == [second]
    assert second.command is not None
    assert (second.command.params["text"], second.command.params["producer"]["seq"]) == ("c", 1)


def test_what_follows_an_append_that_is_full_goes_at_once() -> None:
    queue = CommandQueue(0.5)
    producer = OutputProducer("t", "main", "text")
    for number in range(3):
        full = written(queue, producer, "x" * APPEND_LIMIT)
        assert not full.take_up("y", 1)
        last = written(queue, producer, "end") if number == 2 else None
        assert queue.take(10.0, 5) == [full]
        queue.finished(full)
    assert queue.take(10.0, 5) == [last]
    assert written(queue, producer, "y") not in queue.take(10.03, 5)
