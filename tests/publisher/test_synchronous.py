"""Direct calls over HTTP."""

from __future__ import annotations

import pytest

from pushserver.publisher import Publisher, PublishError, PublishRefused, PublishUnavailable
from tests.publisher.fake_api import KEY, PATIENT, FakeApi


def test_publishes_and_says_where(api: FakeApi, publisher: Publisher) -> None:
    receipt = publisher.publish("news", {"n": 1}, type="headline", exclude_user=7)
    assert (receipt.offset, receipt.epoch, receipt.duplicate) == (1, "e", False)
    ((method, params),) = api.log
    assert method == "publish"
    assert params == {
        "channel": "news",
        "data": {"n": 1},
        "type": "headline",
        "excludeUser": "7",
        "messageId": receipt.message_id,
    }


def test_broadcast_tells_each_channel_apart(publisher: Publisher) -> None:
    good, bad = publisher.broadcast(["news", "bad"], 1)
    assert not isinstance(good, PublishError)
    assert isinstance(bad, PublishRefused)
    assert bad.code == "UNKNOWN_CHANNEL"


def test_notifies_one_and_many(api: FakeApi, publisher: Publisher) -> None:
    (one,) = publisher.notify(42, title="Done", message="Your report is ready", level="success", ttl=60)
    assert (one.user_id, one.delivered) == ("42", 1)
    assert api.log[0][1]["data"] == {"title": "Done", "message": "Your report is ready", "level": "success"}
    assert api.log[0][1]["ttl"] == "60s"
    many = publisher.notify([1, 2], {"any": "thing"}, collapse_key="k")
    assert [n.user_id for n in many] == ["1", "2"]


def test_a_batch_goes_on_after_a_failure(publisher: Publisher) -> None:
    first, second, third = publisher.batch(
        [
            ("publish", {"channel": "news", "data": 1}),
            ("task.progress", {"taskId": "none", "percentage": 1}),
            ("notify", {"userId": "42", "data": {}}),
        ]
    )
    assert first["messageId"]
    assert isinstance(second, PublishRefused)
    assert second.code == "NOT_FOUND"
    assert third["results"][0]["userId"] == "42"


def test_a_batch_is_cut_at_what_the_server_takes(api: FakeApi, publisher: Publisher) -> None:
    replies = publisher.batch([("publish", {"channel": "news", "data": n}) for n in range(1_001)])
    assert (len(replies), api.requests) == (1_001, 2)


def test_a_lost_answer_is_asked_for_again_and_happens_once(api: FakeApi, publisher: Publisher) -> None:
    api.lose_answers = 1
    receipt = publisher.publish("news", 1)
    assert receipt.duplicate
    assert len(api.published) == 1


def test_a_passing_refusal_is_tried_again(api: FakeApi, publisher: Publisher) -> None:
    api.answers = [
        (503, {"error": {"code": "UNAVAILABLE", "message": "no engine"}}),
        (429, {"error": {"code": "RATE_LIMITED", "message": "slow down", "retryAfter": 10}}),
    ]
    assert publisher.publish("news", 1).offset == 1


def test_what_went_wrong_has_a_type(api: FakeApi, publisher: Publisher) -> None:
    with Publisher(api.url, api_key="wrong", **PATIENT) as stranger:
        with pytest.raises(PublishRefused) as refused:
            stranger.publish("news", 1)
        assert refused.value.code == "NOT_AUTHENTICATED"
    api.answers = [(404, {}), (502, {}), (502, {}), (502, {})]
    with pytest.raises(PublishRefused, match="HTTP_404"):
        publisher.publish("news", 1)
    with pytest.raises(PublishUnavailable, match="502"):
        publisher.publish("news", 1)
    api.stop()
    with pytest.raises(PublishUnavailable):
        publisher.publish("news", 1)
    with pytest.raises(ValueError, match="expected http"):
        Publisher("ftp://nowhere")
    with pytest.raises(ValueError, match="live=True is for Redis"):
        publisher.publish("news", 1, live=True)


def test_in_the_background_nothing_is_waited_for_and_nothing_lost(api: FakeApi) -> None:
    with Publisher(api.url, api_key=KEY, **PATIENT) as publisher:
        api.stop()
        receipt = publisher.publish("news", 1, background=True)
        (notified,) = publisher.notify(42, message="m", background=True)
        api.start()
        assert publisher.flush(30)
    assert {receipt.message_id, notified.message_id} == set(api.published)
