"""`IOutputs`: what tasks write while they work."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from twisted.internet.defer import gatherResults

from pushserver.core import errors, output
from pushserver.core.output import NewOutput, OutputKind, OutputPublication, Producer, ProducerConflict
from pushserver.core.positions import Position
from pushserver.core.task import Status, TaskState
from pushserver.engine.interfaces import IdempotencyKey, OutputPage, OutputRules, OutputTaken, TaskEvent

from .nodes import publication
from .test_tasks import completed, created, running, state

if TYPE_CHECKING:
    from .nodes import Nodes, RunningNode

ALL = 1 << 20


def text(words: str, name: str = "main") -> NewOutput:
    return output.new_output(name, words, None, 1_000)


def items(*values: Any, name: str = "main") -> NewOutput:
    return output.new_output(name, None, list(values), 1_000)


async def begun(nodes: Nodes, node: RunningNode, task_id: str = "t") -> TaskState:
    first = state(nodes, task_id)
    await node.tasks.create(created(first), None)
    return first


async def append(node: RunningNode, new: NewOutput, producer: Producer | None = None, **how: Any) -> OutputTaken:
    taken: OutputTaken = await node.outputs.append(
        how.get("task_id", "t"), new, producer, how.get("attempt"), how.get("once")
    )
    return taken


async def read(node: RunningNode, since: Position | None = None, max_bytes: int = ALL, **what: Any) -> OutputPage:
    page: OutputPage = await node.outputs.read(what.get("task_id", "t"), what.get("name", "main"), since, max_bytes)
    return page


async def whole(node: RunningNode, max_bytes: int = ALL) -> bytes:
    """Everything that is kept, page by page."""
    page = await read(node, None, max_bytes)
    parts = [page.body]
    while page.more:
        page = await read(node, Position(page.offset, page.epoch), max_bytes)
        parts.append(page.body)
    return b"".join(parts)


async def test_what_is_appended_is_read_from_every_position(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await begun(nodes, node)
    taken = [await append(node, text(word)) for word in ("one ", "zwölf ", "三")]
    assert [each.offset for each in taken] == [4, 11, 14]
    epoch = taken[0].epoch
    assert {each.epoch for each in taken} == {epoch}
    kept = "one zwölf 三".encode()
    assert await read(other) == OutputPage(OutputKind.TEXT, kept, 0, 14, epoch, 0, False)
    for at in (0, 4, 6, 8, 11, 14):
        page = await read(other, Position(at, epoch))
        assert (page.body, page.after, page.offset) == (kept[at:], at, 14)
        assert not page.reset
        assert not page.trimmed
    for inside in (7, 12, 13):
        with pytest.raises(errors.Invalid):
            await read(other, Position(inside, epoch))


@pytest.mark.parametrize("given", ["", "=", "*", "another"])
async def test_a_position_of_no_epoch_of_its_own_begins_anew(nodes: Nodes, given: str) -> None:
    node = await nodes.start()
    await begun(nodes, node)
    await append(node, text("one two"))
    for at in (0, 4, 7, 8):
        page = await read(node, Position(at, given))
        assert (page.body, page.after, page.reset) == (b"one two", 0, True)


async def test_items_are_counted_and_come_back_whole(nodes: Nodes) -> None:
    node = await nodes.start()
    await begun(nodes, node)
    values = [{"step": n, "said": "line\n\u2028 \x00" * n} for n in range(5)]
    assert (await append(node, items(*values[:2]))).offset == 2
    last = await append(node, items(*values[2:]))
    assert last.offset == 5
    for at in range(6):
        page = await read(node, Position(at, last.epoch))
        assert json.loads(output.literal(page.kind, page.body)) == values[at:]
        assert (page.after, page.offset) == (at, 5)


async def test_reading_creates_nothing_and_an_empty_output_keeps_its_epoch(nodes: Nodes) -> None:
    node = await nodes.start()
    await begun(nodes, node)
    before = nodes.backend.footprint()
    page = await read(node)
    assert page == OutputPage(None, b"", 0, 0, page.epoch, 0, False)
    assert nodes.backend.footprint() == before
    assert (await append(node, text("x"))).epoch == page.epoch
    assert (await read(node, name="other")).epoch != page.epoch
    with pytest.raises(errors.NotFound):
        await read(node, task_id="unknown")
    with pytest.raises(errors.NotFound):
        await append(node, text("x"), task_id="unknown")


async def test_a_page_holds_whole_characters_and_items(nodes: Nodes) -> None:
    node = await nodes.start()
    await begun(nodes, node)
    words = "aé三𝄞" * 700
    taken = await append(node, text(words))
    for size in (1, 2, 3, 4, 5, 4032, 5000):
        page = await read(node, None, size)
        assert page.more
        assert page.body.decode() == words[: len(page.body.decode())]
        assert len(page.body) <= max(size, 4)
    assert await whole(node, 1000) == words.encode()
    page = await read(node, Position(taken.offset, taken.epoch))
    assert (page.body, page.more) == (b"", False)
    values = ["x" * 3000, "y", "z" * 9000]
    await append(node, items(*values, name="items"))
    found = []
    page = await read(node, None, 100, name="items")
    while True:
        found.append(json.loads(output.literal(page.kind, page.body)))
        if not page.more:
            break
        page = await read(node, Position(page.offset, page.epoch), 100, name="items")
    assert found == [[value] for value in values]


async def test_the_wrong_kind_and_one_output_too_many_are_refused(nodes: Nodes) -> None:
    node = await nodes.start()
    await begun(nodes, node)
    await append(node, text("x"))
    with pytest.raises(errors.Conflict):
        await append(node, items(1))
    for n in range(1, output.MAX_OUTPUTS):
        await append(node, items(n, name=f"n{n}"))
    with pytest.raises(errors.Refused) as refused:
        await append(node, text("x", "another"))
    assert refused.value.code is errors.Code.LIMIT_EXCEEDED
    await append(node, items("still", name="n3"))
    assert await whole(node) == b"x"


async def test_a_producers_append_happens_once(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await begun(nodes, node)
    await append(node, text("-"))
    first = await append(node, text("a"), Producer("p", 0, 0))
    second = await append(other, text("b"), Producer("p", 0, 1))
    assert await append(node, text("b"), Producer("p", 0, 1)) == msgspec.structs.replace(second, duplicate=True)
    assert (await append(other, text("a"), Producer("p", 0, 0))).duplicate
    assert not first.duplicate
    with pytest.raises(ProducerConflict) as gap:
        await append(node, text("d"), Producer("p", 0, 3))
    assert (gap.value.epoch, gap.value.expected) == (0, 2)
    with pytest.raises(errors.Invalid):
        await append(node, text("c"), Producer("p", 7, 1))
    await append(node, text("c"), Producer("p", 7, 0))
    with pytest.raises(ProducerConflict) as fenced:
        await append(node, text("d"), Producer("p", 0, 2))
    assert (fenced.value.epoch, fenced.value.expected) == (7, 1)
    await append(node, text("q"), Producer("q", 0, 0))
    # Within one output.
    await append(node, text("e", "other"), Producer("p", 0, 0))
    with pytest.raises(errors.Invalid):
        await append(node, text("f", "third"), Producer("p", 0, 1))
    assert await whole(node) == b"-abcq"
    assert not (await read(node, name="third")).kind


async def test_a_key_makes_an_append_happen_once(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    await begun(nodes, node)
    once = IdempotencyKey("1-0")
    first = await append(node, text("a"), once=once)
    assert await append(other, text("a"), once=once) == msgspec.structs.replace(first, duplicate=True)
    assert await whole(node) == b"a"


async def test_the_end_closes_and_takes_a_last_append(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await begun(nodes, node)
    await append(node, text("one"))
    await append(node, text("beside", "log"))
    assert await node.tasks.replace(completed(first, nodes), publication("user:7", "done"), None, output=text(", two"))
    page = await read(node)
    assert (page.body, page.closed) == (b"one, two", True)
    assert (await read(node, name="log")).closed
    assert (await read(node, name="never")).closed
    with pytest.raises(errors.Conflict):
        await append(node, text("x"))
    with pytest.raises(errors.Conflict):
        await append(node, text("x"), Producer("p", 0, 0))


async def test_a_repeat_is_answered_again_also_after_the_end_and_whatever_it_holds(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    first = await begun(nodes, node)
    taken = msgspec.structs.replace(await append(node, text("one"), Producer("p", 3, 0)), duplicate=True)
    assert await append(other, items(1), Producer("p", 3, 0)) == taken
    assert await node.tasks.replace(completed(first, nodes), publication("user:7", "done"), None, output=text(", two"))
    assert await append(other, text("one"), Producer("p", 3, 0)) == taken
    with pytest.raises(errors.Conflict):
        await append(node, text("x"), Producer("p", 3, 1))
    assert await whole(node) == b"one, two"


async def test_what_is_written_read_and_ended_at_once_is_closed(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await begun(nodes, node)
    await node.broker.subscribe("output:main/t")
    # An engine may carry them out in one transaction.
    await gatherResults(
        [
            node.outputs.append("t", text("one"), None, None, None),
            node.outputs.read("t", "main", None, ALL),
            node.tasks.replace(completed(first, nodes), None, None),
        ]
    )
    assert [each.closes for each in told(node)] == [False, True]


async def test_what_cannot_be_appended_takes_the_change_with_it(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await begun(nodes, node)
    await append(node, text("one"))
    with pytest.raises(errors.Conflict):
        await node.tasks.replace(completed(first, nodes), publication("user:7", "done"), None, output=items(1))
    assert (await node.tasks.get("t")).status is Status.PENDING
    assert (await node.inbox.state("7")).offset == 0
    assert await whole(node) == b"one"
    # A change that is too late appends nothing.
    late = TaskEvent("task_progress", running(first, version=7).state)
    assert not await node.tasks.replace(late, None, None, output=text("late"))
    assert await whole(node) == b"one"


async def test_another_attempt_begins_new_outputs(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    first = await begun(nodes, node)
    taken = await append(node, text("first"), Producer("p", 4, 0))
    again = msgspec.structs.replace(first, attempt=2, version=2, created_at=first.created_at + 1)
    assert await node.tasks.restart(TaskEvent("task_created", again), None)
    page = await read(other, Position(taken.offset, taken.epoch))
    assert page.epoch != taken.epoch
    assert (page.kind, page.body, page.offset, page.reset, page.closed) == (None, b"", 0, True, False)
    with pytest.raises(errors.Conflict):
        await append(node, text("x"), attempt=1)
    # Of another kind, and with the same producer from its beginning.
    anew = await append(other, items("second"), Producer("p", 0, 0), attempt=2)
    assert (anew.offset, anew.epoch) == (1, page.epoch)
    page = await read(node, Position(taken.offset, taken.epoch))
    assert (page.body, page.reset) == (b'"second"\n', True)


async def test_a_wish_for_the_end_is_told(nodes: Nodes) -> None:
    node = await nodes.start()
    first = await begun(nodes, node)
    assert not (await append(node, text("a"))).cancel_requested
    await node.tasks.replace(running(first, cancel_requested=True), None, None)
    assert (await append(node, text("b"))).cancel_requested


async def test_an_output_goes_with_its_task(nodes: Nodes) -> None:
    node = await nodes.start(task_ttl=2)
    first = await begun(nodes, node)
    empty = nodes.backend.footprint()
    await append(node, text("x" * 9_000), Producer("p", 0, 0))
    await node.tasks.replace(completed(first, nodes), None, None)
    await nodes.advance(3)
    with pytest.raises(errors.NotFound):
        await read(node)
    await begun(nodes, node)
    assert (await read(node)).kind is None
    await append(node, text("new"))
    assert await whole(node) == b"new"
    assert empty


async def test_what_an_attempt_wrote_goes_when_another_begins(nodes: Nodes) -> None:
    node = await nodes.start(task_ttl=50_000)

    async def begin_anew(before: TaskState) -> TaskState:
        again = state(nodes, attempt=before.attempt + 1, version=before.version + 1, created_at=before.created_at + 1)
        assert await node.tasks.restart(created(again), None) == again
        # By steps: one for each output, and one that finds nothing more.
        for _ in range(4):
            await nodes.backend.measure(node.engine)
        assert node.engine.figures()["output_bytes_kept"] == 0
        return again

    first = await begun(nodes, node)
    await append(node, text("x" * 9_000), Producer("p", 0, 0))
    second = await begin_anew(first)
    empty = nodes.backend.footprint()
    # Written by an attempt that ended, to other names.
    await append(node, text("y" * 9_000, "log"))
    await append(node, items(1, 2, name="rows"))
    ended = completed(second, nodes)
    await node.tasks.replace(ended, None, None, output=text("z", "last"))
    third = await begin_anew(ended.state)
    assert nodes.backend.footprint() == empty
    assert (await read(node, name="log")).kind is None
    await append(node, items("new", name="log"), attempt=third.attempt)
    assert (await read(node, name="log")).body == b'"new"\n'


# -- limits -----------------------------------------------------------------------------------------------------------


async def test_beyond_the_limit_the_oldest_goes_at_the_end_of_a_line(nodes: Nodes) -> None:
    node = await nodes.start()
    node.outputs.rules.adopt(OutputRules(max_bytes=10_000))
    await begun(nodes, node)
    written = b""
    for n in range(700):
        line = f"{n:>30}\n"
        written += line.encode()
        taken = await append(node, text(line))
    page = await read(node)
    assert page.body == written[page.start :]
    assert 10_000 - 31 < len(page.body) <= 10_000
    assert page.start % 31 == 0
    assert (page.after, page.offset) == (page.start, taken.offset)
    late = await read(node, Position(31, taken.epoch))
    assert (late.trimmed, late.reset, late.after, late.body) == (True, False, page.start, page.body)
    at_start = await read(node, Position(page.start, taken.epoch))
    assert (at_start.trimmed, at_start.body) == (False, page.body)


async def test_without_lines_the_oldest_goes_by_whole_characters(nodes: Nodes) -> None:
    node = await nodes.start()
    node.outputs.rules.adopt(OutputRules(max_bytes=1_000))
    await begun(nodes, node)
    words = "x" + "三" * 5_000
    taken = await append(node, text(words))
    page = await read(node)
    assert 1_000 - 4 < len(page.body) <= 1_000
    assert page.body.decode() == words[-len(page.body) // 3 :]
    assert page.start + len(page.body) == taken.offset == len(words.encode())


async def test_of_items_whole_ones_go(nodes: Nodes) -> None:
    node = await nodes.start()
    node.outputs.rules.adopt(OutputRules(max_bytes=1_000))
    await begun(nodes, node)
    for n in range(0, 600, 2):
        taken = await append(node, items(n, n + 1))
    page = await read(node)
    kept = json.loads(output.literal(page.kind, page.body))
    assert kept == list(range(page.start, 600))
    assert 996 <= len(page.body) <= 1_000
    assert taken.offset == page.offset == 600
    middle = await read(node, Position(500, taken.epoch))
    assert json.loads(output.literal(middle.kind, middle.body)) == list(range(500, 600))
    # One that is larger than the limit leaves nothing.
    taken = await append(node, items("y" * 2_000))
    page = await read(node)
    assert (page.body, page.start, page.offset) == (b"", 601, 601)
    assert (await append(node, items("z"))).offset == 602
    assert (await read(node)).body == b'"z"\n'


async def test_what_is_appended_kept_and_trimmed_is_counted(nodes: Nodes) -> None:
    node = await nodes.start(task_ttl=50_000)
    node.outputs.rules.adopt(OutputRules(max_bytes=1_000))

    def counted() -> list[float]:
        figures = node.engine.figures()
        return [figures[f"output_bytes_{each}"] for each in ("in_total", "kept", "trimmed_total")]

    first = await begun(nodes, node)
    await append(node, text("x" * 900))
    await append(node, text("y" * 300))
    assert counted() == [1_200, 1_000, 200]
    # An attempt that has ended with an append, and another that begins anew.
    ended = completed(first, nodes)
    await node.tasks.replace(ended, None, None, output=text("z" * 100))
    assert counted() == [1_300, 1_000, 300]
    again = msgspec.structs.replace(first, attempt=2, version=9, created_at=first.created_at + 1)
    await node.tasks.restart(TaskEvent("task_created", again), None, ended.state.version)
    await append(node, text("new"))
    await nodes.backend.measure(node.engine)
    assert counted() == [1_303, 3, 300]


async def test_what_is_kept_takes_little_more_room_than_the_text(nodes: Nodes) -> None:
    node = await nodes.start()
    await begun(nodes, node)
    first, word = nodes.backend.octets(), text("123456789 ")
    for _ in range(40):
        await gatherResults([node.outputs.append("t", word, None, None, None) for _ in range(500)])
    assert await whole(node) == b"123456789 " * 20_000
    assert nodes.backend.octets() - first <= 1.1 * 200_000 + 8_192


# -- who listens ------------------------------------------------------------------------------------------------------


def told(node: RunningNode) -> list[OutputPublication]:
    return [each for each in node.listener.delivered if isinstance(each, OutputPublication)]


async def test_who_listens_hears_each_append_in_order(nodes: Nodes) -> None:
    node = await nodes.start()
    other = await nodes.second(node)
    first = await begun(nodes, node)
    await other.broker.subscribe("output:main/t")
    await other.broker.subscribe("output:log/t")
    for word in ("one", "two"):
        taken = await append(node, text(word))
    await append(node, text("two"), Producer("p", 0, 0))
    await append(node, text("two"), Producer("p", 0, 0))
    await append(node, items(1, [2], name="log"))
    await append(node, items(1, name="unheard"))
    await node.tasks.replace(completed(first, nodes), None, None, output=text("end"))
    await other.received(6)
    received = told(other)
    main = [each for each in received if each.channel == "output:main/t"]
    log = [each for each in received if each.channel == "output:log/t"]
    assert len(received) == len(main) + len(log)
    assert [(each.before, each.offset, each.reached, json.loads(bytes(each.data)), each.closes) for each in main] == [
        (0, 3, 3, "one", False),
        (3, 6, 6, "two", False),
        (6, 9, 9, "two", False),
        (9, 13, 12, "end", True),
    ]
    assert [(each.before, each.offset, each.reached, json.loads(bytes(each.data)), each.closes) for each in log] == [
        (0, 2, 2, [1, [2]], False),
        (2, 3, 2, None, True),
    ]
    assert {each.epoch for each in main} == {taken.epoch}
    assert main[0].timestamp == 1_000
