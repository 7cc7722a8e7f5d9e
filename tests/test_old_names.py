"""What programs of the first version import, call and read is there under the same names."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, get_type_hints

import pytest

#: By class: what it is made with, and what it has, as the first version's documentation showed them.
CLASSES: dict[str, tuple[str, str]] = {
    "client.Client": (
        "url token positions options ssl headers open_timeout on_state",
        "open close wait_closed publish chat history presence subscribe inbox task tasks get_task cancel_task "
        "positions state user_id welcome last_error",
    ),
    "client.ClientService": (
        "url token reactor positions options headers endpoint on_state",
        "startService stopService when_connected publish chat history presence subscribe inbox task tasks get_task "
        "cancel_task positions state welcome",
    ),
    "publisher.Publisher": (
        "url api_key prefix http_url timeout min_interval max_pending exit_timeout",
        "publish broadcast notify batch task track flush close",
    ),
    "publisher.AsyncPublisher": (
        "url api_key prefix http_url timeout min_interval max_pending exit_timeout",
        "publish broadcast notify batch task track flush close",
    ),
}
VALUES: dict[str, str] = {
    "Backoff": "first factor cap alone",
    "ChatReceipt": "message_id delivered queued duplicate",
    "History": "messages offset epoch",
    "Options": "backoff max_attempts connect_timeout request_timeout max_queued max_pending rate burst",
    "Position": "offset epoch",
    "Presence": "users total",
    "PresentUser": "user_id connections info",
    "Published": "message_id offset epoch duplicate",
    "Push": "type channel data timestamp message_id offset epoch sender",
    "TaskState": "task_id user_id status percentage version title current_step total_steps message eta details result "
    "error cancel_requested created_at updated_at",
    "Welcome": "user_id connection_id permissions expires_at channels results heartbeat node inbox tasks "
    "tasks_truncated",
}
NAMES: dict[str, str] = {
    "client": "AuthFailed ClientClosed ClientCore ClientError Disconnected Inbox QueueFull RequestFailed "
    "RequestTimeout State Subscription SubscriptionEnded TaskUpdates",
    "publisher": "Notified PublishError PublishRefused PublishUnavailable Receipt Task TaskCancelled Track tqdm trange",
}
#: By call of a publisher: the keywords that it took.
KEYWORDS: dict[str, str] = {
    "publish": "type message_id exclude_user exclude_connection live background",
    "broadcast": "type message_id",
    "notify": "title message level type message_id ttl collapse_key background",
}


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_made_and_used_as_before(name: str) -> None:
    package, _, kind = name.partition(".")
    found = getattr(importlib.import_module(f"pushserver.{package}"), kind)
    made_with, has = CLASSES[name]
    assert set(made_with.split()) <= set(inspect.signature(found).parameters)
    assert [each for each in has.split() if not hasattr(found, each)] == []


@pytest.mark.parametrize("name", VALUES)
def test_a_value_has_its_fields_in_their_order(name: str) -> None:
    found = getattr(importlib.import_module("pushserver.client"), name)
    fields = VALUES[name].split()
    assert list(found.__struct_fields__[: len(fields)]) == fields


@pytest.mark.parametrize("package", NAMES)
def test_names_can_be_imported(package: str) -> None:
    module = importlib.import_module(f"pushserver.{package}")
    assert [name for name in NAMES[package].split() if not hasattr(module, name)] == []


@pytest.mark.parametrize("kind", ["Publisher", "AsyncPublisher"])
@pytest.mark.parametrize("call", KEYWORDS)
def test_a_call_takes_its_keywords(kind: str, call: str) -> None:
    method: Any = getattr(importlib.import_module("pushserver.publisher"), kind).__dict__[call]
    (options,) = get_type_hints(method)["options"].__args__
    assert set(KEYWORDS[call].split()) <= {*inspect.signature(method).parameters, *get_type_hints(options)}
