"""What each door answers to what is wrong with an output: the tables of docs/output.md, row by row, on paper.

Appends come by the HTTP API, by a batch, with the change of a task, and by the ingest stream; readers by WebSocket, by
an event stream with requests that are posted, and by the HTTP API.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from pushserver.core.errors import PushError
from pushserver.engine.interfaces import IdempotencyKey
from tests.fakes import Rig
from tests.harness import ROOT
from tests.web.paper_http import PaperHttp

CONFIG = """
[tasks]
output_max_bytes = 2048
"""
KIB = 1024
BIG = 2**53


class Append(NamedTuple):
    """Something that is appended: the words of the table, what is sent (bytes: as they are), and the code."""

    what: str
    params: Any
    code: str
    task: str = "writing"


def by(epoch: int, seq: int, id: str = "p") -> dict[str, Any]:
    return {"text": "x", "producer": {"id": id, "epoch": epoch, "seq": seq}}


#: The task `writing` has 16 outputs, of which `main` is text and `rows` items; of the producer `p` epoch 3, seq 0 came.
APPENDS = (
    Append("text cut inside a character: bytes that are no UTF-8", b'{"text": "\xc3"}', "INVALID_MESSAGE"),
    Append("a lone surrogate", {"text": "a\ud800"}, "INVALID_MESSAGE"),
    Append("a lone surrogate", {"items": ["\udfff"], "name": "rows"}, "INVALID_MESSAGE"),
    Append("nothing: neither `text` nor `items`, or one that is empty", {}, "INVALID_MESSAGE"),
    Append("nothing: neither `text` nor `items`, or one that is empty", {"text": ""}, "INVALID_MESSAGE"),
    Append("nothing: neither `text` nor `items`, or one that is empty", {"items": []}, "INVALID_MESSAGE"),
    Append("both, or of another type", {"text": "a", "items": [1]}, "INVALID_MESSAGE"),
    Append("both, or of another type", {"text": 7}, "INVALID_MESSAGE"),
    Append("both, or of another type", {"items": "a"}, "INVALID_MESSAGE"),
    Append("both, or of another type", {"items": {"0": "a"}}, "INVALID_MESSAGE"),
    *(
        Append("a name that is not allowed", {"text": "a", "name": name}, "INVALID_MESSAGE")
        for name in ("", "Main", "a/b", "ä", "a b", "a.b", "a\n", "a" * 33, 7)
    ),
    Append("items to an output of text, or the reverse", {"items": [1]}, "CONFLICT"),
    Append("items to an output of text, or the reverse", {"text": "a", "name": "rows"}, "CONFLICT"),
    Append("a 17th output", {"text": "a", "name": "another"}, "LIMIT_EXCEEDED"),
    Append("an attempt that is over, or not begun", {"text": "a", "attempt": 1}, "CONFLICT"),
    Append("an attempt that is over, or not begun", {"text": "a", "attempt": 3}, "CONFLICT"),
    Append("an output that is closed", {"text": "a"}, "CONFLICT", "ended"),
    Append("a task that is not known", {"text": "a"}, "NOT_FOUND", "unknown"),
    Append("a gap in a producer's `seq`, or a lower epoch", by(3, 2), "CONFLICT"),
    Append("a gap in a producer's `seq`, or a lower epoch", by(2, 0), "CONFLICT"),
    Append("a producer's epoch that does not begin at `seq` 0", by(4, 1), "INVALID_MESSAGE"),
    Append("a producer's epoch that does not begin at `seq` 0", by(0, 1, "q"), "INVALID_MESSAGE"),
    *(
        Append("a producer's numbers below 0, or above 2^53 − 1; no id", wrong, "INVALID_MESSAGE")
        for wrong in (by(-1, 0), by(3, -1), by(BIG, 0), by(3, BIG), by(3, 1, ""), by(3, True), by("3", 1))  # type: ignore[arg-type]
    ),
)


class Read(NamedTuple):
    """A position that is asked from: the words of the table, and the code, or what the answer says of it."""

    what: str
    code: str
    output: str = "main"
    offset: int | None = None
    epoch: str = ""
    task: str = "reading"
    flags: tuple[str, ...] = ()


#: The task `reading` has `é` in main, and 4 KiB of which 2 are kept in `log`.
READS = (
    Read("a position inside a character", "INVALID_MESSAGE", offset=1),
    *(
        Read(
            "a position beyond the newest, or of another epoch",
            "`reset: true`, from `start`",
            offset=offset,
            epoch=epoch,
            flags=("reset",),
        )
        for offset, epoch in ((3, ""), (BIG - 1, ""), (0, "e"))
    ),
    Read("a position before `start`", "`trimmed: true`, from `start`", "log", offset=5, flags=("trimmed",)),
    Read("a position below 0", "INVALID_MESSAGE", offset=-1),
    *(
        Read("the name of an output that is not allowed", "INVALID_MESSAGE, as a channel INVALID_CHANNEL", name)
        for name in ("Main", "", "a.b", "a" * 33)
    ),
    Read("an output that holds nothing", "empty, not closed", "err"),
    Read("a task that is not known", "NOT_FOUND", task="unknown"),
)


@pytest_twisted.async_yield_fixture(scope="module")
async def http(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[PaperHttp]:
    rig = await Rig(tmp_path_factory.mktemp("refusals"), CONFIG).start()
    for method, params in preparation():
        await rig.execute(method, **params)
    yield PaperHttp(rig)
    await rig.stop()


def preparation() -> Iterator[tuple[str, dict[str, Any]]]:
    """The commands that make what the rows are about."""
    for task in ("writing", "ended", "reading"):
        yield "task.create", {"taskId": task, "userId": "ann"}
    yield "task.create", {"taskId": "writing", "userId": "ann", "restart": True}
    yield "task.output", {"taskId": "writing"} | by(3, 0)
    yield "task.output", {"taskId": "writing", "items": [1], "name": "rows"}
    for n in range(14):
        yield "task.output", {"taskId": "writing", "text": "x", "name": f"n{n}"}
    yield "task.output", {"taskId": "ended", "text": "x"}
    yield "task.complete", {"taskId": "ended"}
    yield "task.output", {"taskId": "reading", "text": "é"}
    yield "task.output", {"taskId": "reading", "text": "x" * 4 * KIB, "name": "log"}


def text_of(row: Append) -> bytes:
    return row.params if isinstance(row.params, bytes) else json.dumps(row.params).encode()


def named(row: Append) -> bytes:
    """Return the parameters with the task beside them."""
    return b'{"taskId": "' + row.task.encode() + b'"' + text_of(row).replace(b"{", b", ", 1).replace(b", }", b"}", 1)


@pytest.mark.parametrize("row", APPENDS, ids=lambda row: f"{row.what}: {ascii(row.params)[:60]}")
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_appended_is_refused_by_every_door(http: PaperHttp, row: Append) -> None:
    answers = [(await http.api("POST", f"/api/tasks/{row.task}/output", text_of(row))).body]
    batch = b'{"commands": [{"method": "task.output", "params": ' + named(row) + b"}]}"
    said = (await http.api("POST", "/api/batch", batch)).body
    # What is no text at all spoils the batch that it comes with.
    answers += said.get("replies", [said])
    if isinstance(row.params, bytes) or not row.params.keys() - {"text", "items", "name"}:
        # The last append of a task is refused together with its end.
        last = b'{"output": ' + text_of(row) + b"}"
        answers.append((await http.api("POST", f"/api/tasks/{row.task}/complete", last)).body)
    for answer in answers:
        assert answer["error"]["code"] == row.code, answer
        if "gap" in row.what:
            assert (answer["error"]["epoch"], answer["error"]["expected"]) == (3, 1)
    # From the ingest stream, where an entry's id makes it happen once.
    work = http.rig.node.commands.execute("task.output", msgspec.Raw(named(row)), IdempotencyKey(str(row)))
    with pytest.raises(PushError) as refused:
        await Deferred.fromCoroutine(work)
    assert refused.value.code == row.code
    if row.task == "writing":
        assert (await http.api("GET", "/api/tasks/writing")).body["status"] == "pending"
        assert (await http.api("GET", "/api/tasks/writing/output")).body["text"] == "x"
        assert (await http.api("GET", "/api/tasks/writing/output?name=rows")).body["items"] == [1]


async def subscribed(http: PaperHttp, user: str, row: Read, epoch: str) -> list[tuple[str, Any]]:
    """Return the code, or the output, that a user is answered by each door of clients."""
    channel = f"output:{row.output}/{row.task}"
    item: Any = channel
    if row.offset is not None:
        item = {"channel": channel, "since": {"offset": row.offset, "epoch": row.epoch or epoch}}
    socket, stream = await http.rig.client(user), await http.stream(user)
    found: list[tuple[str, Any]] = []
    for door in (socket, stream):
        reply = (await door.ask("subscribe", channels=[item]))["data"]
        rejected = reply.get("rejected", {}).get(channel)
        if "code" in reply or rejected is not None:
            found.append(((rejected or reply)["code"], None))
        else:
            found.append(("", reply["results"][channel]["output"]))
    socket.vanish()
    stream.exchange.vanish()
    return found


@pytest.mark.parametrize("row", READS, ids=lambda row: f"{row.what}: {row.output[:9]} {row.offset}")
@pytest_twisted.ensureDeferred
async def test_where_nothing_can_be_read_from_is_answered_alike_by_every_door(http: PaperHttp, row: Read) -> None:
    refused, _, as_channel = row.code.partition(", as a channel ")
    known = row.output if row.output in ("main", "log", "err") else "main"
    epoch = (await http.api("GET", f"/api/tasks/reading/output?name={known}")).body["epoch"]
    place = "" if row.offset is None else f"&offset={row.offset}&epoch={row.epoch or epoch}"
    page = (await http.api("GET", f"/api/tasks/{row.task}/output?name={row.output}{place}")).body
    answers = await subscribed(http, "ann", row, epoch)
    if refused.isupper():
        assert page["error"]["code"] == refused
        assert [code for code, _ in answers] == [as_channel or refused] * 2
        return
    for kept in (page, *(kept for _, kept in answers)):
        assert [name for name in ("reset", "trimmed") if name in kept] == list(row.flags)
        whole = {"main": "é", "log": "x" * 2 * KIB, "err": ""}[row.output]
        assert (kept["text"], kept["offset"] - kept["start"], kept["closed"]) == (whole, len(whole.encode()), False)


@pytest_twisted.ensureDeferred
async def test_what_is_anothers_is_not_found_and_a_stranger_signs_in_first(http: PaperHttp) -> None:
    assert await subscribed(http, "bob", Read("", ""), "") == [("NOT_FOUND", None)] * 2
    stranger = http.rig.connect()
    said = await stranger.ask("subscribe", channels=["output:main/reading"])
    assert said["data"]["code"] == "NOT_AUTHENTICATED"
    stranger.vanish()


@pytest_twisted.ensureDeferred
async def test_controls_are_kept_and_one_append_may_be_larger_than_what_is_kept(http: PaperHttp) -> None:
    await http.api("POST", "/api/tasks", {"taskId": "taken", "userId": "ann"})
    words = "a\0\x1b[2J\x07\u202e\r\n\ufeff"
    for number in range(2):
        taken = (await http.api("POST", "/api/tasks/taken/output", by(0, 0) | {"text": words})).body
        assert taken.get("duplicate", False) == bool(number)
    assert (await http.api("GET", "/api/tasks/taken/output")).body["text"] == words
    large = (await http.api("POST", "/api/tasks/taken/output", {"text": "三" * KIB, "name": "large"})).body
    page = (await http.api("GET", "/api/tasks/taken/output?name=large")).body
    assert (page["offset"], page["text"]) == (large["offset"], "三" * (2 * KIB // 3))
    ended = await http.api("GET", "/api/tasks/ended/output", Accept="text/plain")
    assert (ended.body, ended.headers["output-closed"]) == (b"x", "true")


def test_the_tables_of_the_documentation_are_these_rows() -> None:
    rows = {tuple(line.strip("| \n").split(" | ")) for line in (ROOT / "docs/output.md").open() if line.startswith("|")}
    assert {(row.what, row.code) for row in (*APPENDS, *READS)} <= rows
