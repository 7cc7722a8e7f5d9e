"""The bytes under which keys are stored: nodes of several versions share them."""

from __future__ import annotations

from hashlib import blake2b

from pushserver.engine.identity import CHANNEL, INBOX, TASK, content_digest, key_digest
from pushserver.engine.interfaces import Fence, IdempotencyKey
from tests.contracts.nodes import publication


def test_the_server_sides_keys_are_those_of_version_1() -> None:
    assert (CHANNEL, INBOX, TASK) == ("channel", "inbox", "task")
    assert key_digest(CHANNEL, "a", IdempotencyKey("k")).hex() == "116cf7d4f6666022398bd945738846b6"
    for kind in (CHANNEL, INBOX, TASK):
        expected = blake2b(f"{kind}\0scope\0k\ud800".encode("utf-8", "surrogatepass"), digest_size=16).digest()
        assert key_digest(kind, "scope", IdempotencyKey("k\ud800", Fence("l", "t"))) == expected


def test_kind_scope_publisher_and_key_all_count() -> None:
    digests = [
        key_digest(kind, scope, IdempotencyKey(key, publisher=publisher))
        for kind in (CHANNEL, INBOX)
        for scope in ("a", "b")
        for publisher in (None, "ann", "bob")
        for key in ("k", "ann\0k")
    ]
    assert len(set(digests)) == len(digests)


def test_type_and_data_make_the_content_and_nothing_else_does() -> None:
    first = content_digest(publication("a", [1], "m1", sender="7"))
    assert first == content_digest(publication("b", [1], "m2"))
    assert len({first, content_digest(publication("a", [2])), content_digest(publication("a", [1], type="x"))}) == 3
