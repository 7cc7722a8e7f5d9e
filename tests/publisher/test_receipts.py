"""What background calls give back."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Literal, get_overloads, get_type_hints

import pytest
from msgspec import Struct
from msgspec.structs import fields

from pushserver.protocols.native.server_messages import PushMessage
from pushserver.publisher import (
    AsyncPublisher,
    Notified,
    PendingNotified,
    PendingReceipt,
    Publisher,
    PublishRefused,
    PublishUnavailable,
    Receipt,
    receipts,
)
from pushserver.web import results
from tests.publisher.fake_api import KEY, PATIENT, FakeApi


def test_a_receipt_can_be_waited_for(api: FakeApi, publisher: Publisher) -> None:
    api.unblocked.clear()
    receipt = publisher.publish("news", 1, background=True)
    notified = publisher.notify([1, 2], title="t", background=True)
    assert not receipt.done
    assert repr(receipt) == f"PendingReceipt(message_id={receipt.message_id!r}, done=False)"
    with pytest.raises(PublishUnavailable, match="no answer within"):
        receipt.wait(0.01)
    api.unblocked.set()
    assert receipt.wait(30) == Receipt(receipt.message_id, 1, "e")
    assert [one.wait(30).user_id for one in notified] == ["1", "2"]
    assert receipt.done


@pytest.mark.parametrize("kind", [Publisher, AsyncPublisher])
def test_a_type_checker_knows_what_can_be_waited_for(kind: type[Publisher | AsyncPublisher]) -> None:
    def told(call: Any) -> dict[Any, Any]:
        return {hints["background"]: hints["return"] for hints in map(get_type_hints, get_overloads(call))}

    assert told(kind.publish) == {Literal[True]: PendingReceipt, bool: Receipt}
    assert told(kind.notify) == {
        Literal[True]: list[PendingNotified],
        Literal[False]: list[Notified],
        bool: list[PendingNotified] | list[Notified],
    }


def test_a_refusal_is_raised_by_who_waits(api: FakeApi) -> None:
    with Publisher(api.url, api_key="wrong", **PATIENT) as publisher:
        receipt = publisher.publish("news", 1, background=True)
        with pytest.raises(PublishRefused, match="NOT_AUTHENTICATED"):
            receipt.wait(30)


def test_callbacks_hear_the_answer_or_the_error(api: FakeApi, publisher: Publisher) -> None:
    received: list[Any] = []
    done = threading.Event()
    receipt = publisher.publish("news", 1, background=True)
    receipt.add_done_callback(received.append)
    receipt.add_done_callback(lambda _: done.set())
    assert done.wait(30)
    with Publisher(api.url, api_key="wrong", **PATIENT) as stranger:
        refused = stranger.publish("news", 1, background=True)
        refused.add_done_callback(received.append)
        assert stranger.flush(30)
    assert received[0].offset == 1
    assert isinstance(received[1], PublishRefused)


def test_in_an_event_loop_it_is_awaited(api: FakeApi) -> None:
    async def main() -> Any:
        async with AsyncPublisher(api.url, api_key=KEY, **PATIENT) as publisher:
            receipt = await publisher.publish("news", 1, background=True)
            return await receipt.arrival(30)

    assert asyncio.run(main()).offset == 1


def test_where_too_much_waits_it_says_so(api: FakeApi) -> None:
    api.stop()
    with Publisher(api.url, api_key=KEY, max_pending=1, exit_timeout=0) as publisher:
        publisher.publish("news", 1, background=True)
        receipt = publisher.publish("news", 2, background=True)
        with pytest.raises(PublishUnavailable, match="too much waits"):
            receipt.wait(30)
        publisher.close(0)


@pytest.mark.parametrize(
    ("answer", "receipt"),
    [
        (results.PublishedResult, receipts.Receipt),
        (results.NotifiedItem, receipts.Notified),
        (results.ClosedResult, receipts.DisconnectResult),
        (results.RevokedResult, receipts.RevokeResult),
        (results.TicketResult, receipts.Ticket),
        (results.DeletedFromInboxResult, receipts.InboxChange),
        (results.HistoryResult, receipts.KeptMessages),
        (results.PresenceResult, receipts.Participants),
        (PushMessage, receipts.KeptMessage),
    ],
)
def test_nothing_that_the_api_answers_is_left_out(answer: type[Struct], receipt: type[Struct]) -> None:
    assert {field.encode_name for field in fields(answer)} <= {field.encode_name for field in fields(receipt)}
