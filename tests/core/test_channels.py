from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core import channels
from pushserver.core.channels import (
    BUILT_IN,
    Kind,
    Namespaces,
    Rule,
    configured,
    is_built_in,
    is_channel,
    is_id,
    is_namespace_name,
)
from pushserver.core.errors import Code, Refused

ALLOWED = "".join(chr(code) for code in range(0x21, 0x7F) if chr(code) not in "*,")


@given(st.text(alphabet=ALLOWED, min_size=1, max_size=255))
def test_allowed_characters_make_a_channel(name: str) -> None:
    assert is_channel(name)
    assert is_id(name) == (len(name) <= 200)


@given(st.text(alphabet=ALLOWED, max_size=20), st.characters(), st.text(alphabet=ALLOWED, max_size=20))
def test_any_other_character_does_not(before: str, character: str, after: str) -> None:
    name = before + character + after
    assert is_channel(name) == is_id(name) == (character in ALLOWED)


def test_every_code_point_below_256_is_judged_as_the_rule_says() -> None:
    assert [chr(code) for code in range(256) if is_channel(chr(code))] == list(ALLOWED)
    assert [chr(code) for code in range(256) if is_id(chr(code))] == list(ALLOWED)


@pytest.mark.parametrize("name", ["", "a b", "news:*", "a,b", "caf\u00e9", "a\n", "\n", "a" * 256, "\ud800"])
def test_not_a_channel(name: str) -> None:
    assert not is_channel(name)


def test_lengths() -> None:
    assert is_channel("a" * 255)
    assert not is_channel("a" * 256)
    assert is_id("a" * 200)
    assert not is_id("a" * 201)


def test_names_of_namespaces() -> None:
    assert is_namespace_name("")
    assert is_namespace_name("news")
    assert not is_namespace_name("news:sport")
    assert not is_namespace_name("n*")


def test_built_in_namespaces_are_always_there() -> None:
    namespaces = Namespaces()
    kinds = {
        "user:1": Kind.USER,
        "task:1": Kind.TASK,
        "system": Kind.SYSTEM,
        "stats": Kind.STATS,
        "chat:lobby": Kind.CHAT,
        "status:1": Kind.STATUS,
        "public:x": Kind.PUBLIC,
    }
    for channel, kind in kinds.items():
        found = namespaces.find(channel)
        assert found is not None, channel
        assert found.kind is kind
        assert is_built_in(channel)
    system, chat = BUILT_IN["system"], BUILT_IN["chat"]
    assert (system.history_size, system.history_ttl) == (50, 24 * 3600 * 1000)
    assert (chat.history_size, chat.history_ttl, chat.presence, chat.join_leave) == (50, 24 * 3600 * 1000, True, True)
    assert BUILT_IN["user"].durable
    assert BUILT_IN["user"].has_positions
    assert not BUILT_IN["status"].has_positions
    assert {name for name, namespace in BUILT_IN.items() if namespace.subscribe is Rule.ANYONE} == {"public"}


@pytest.mark.parametrize(
    "channel", ["news:x", "lobby", "user", "task", "chat", "system:x", "stats:x", "systems", ":x", "USER:1"]
)
def test_unknown_namespaces_are_not_found(channel: str) -> None:
    assert Namespaces().find(channel) is None
    assert not is_built_in(channel)


def test_a_configured_namespace_has_the_documented_defaults() -> None:
    found = Namespaces([configured("news")]).find("news:sport")
    assert found is not None
    assert found.kind is Kind.PLAIN
    assert (found.subscribe, found.publish) == (Rule.AUTHENTICATED, Rule.PERMISSION)
    assert (found.history_size, found.history_ttl) == (0, 600_000)
    assert (found.presence, found.join_leave) == (False, False)
    assert not found.has_positions


def test_the_empty_namespace_is_for_names_without_a_colon() -> None:
    namespaces = Namespaces([configured("")])
    for channel in ("lobby", ":lobby"):
        found = namespaces.find(channel)
        assert found is not None
        assert found.name == ""
    assert namespaces.find("news:x") is None
    system = namespaces.find("system")
    assert system is not None
    assert system.kind is Kind.SYSTEM
    assert namespaces.find("system:x") is None


def test_an_entry_changes_the_options_of_a_built_in_namespace() -> None:
    namespaces = Namespaces([configured("chat", history_size=7, presence=False, publish=Rule.NOBODY)])
    chat = namespaces.find("chat:lobby")
    assert chat is not None
    assert chat.kind is Kind.CHAT
    assert (chat.history_size, chat.presence, chat.publish) == (7, False, Rule.NOBODY)
    assert chat.join_leave
    assert chat.history_ttl == BUILT_IN["chat"].history_ttl


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_an_entry_never_changes_the_meaning(name: str) -> None:
    open_to_all = configured(
        name, subscribe=Rule.ANYONE, publish=Rule.ANYONE, history_size=9, history_ttl=5, presence=True
    )
    changed, before = Namespaces([open_to_all]).all[name], BUILT_IN[name]
    assert changed.kind is before.kind
    assert changed.presence
    if name in ("user", "task", "output", "system"):
        assert changed.subscribe is before.subscribe
    if name in ("user", "task", "output", "status", "system", "stats"):
        assert changed.publish is Rule.NOBODY
    if name in ("user", "task", "output", "status"):
        assert (changed.history_size, changed.history_ttl) == (before.history_size, before.history_ttl)
    else:
        assert (changed.history_size, changed.history_ttl) == (9, 5)


def test_mistakes_in_entries() -> None:
    with pytest.raises(ValueError, match="cannot be the name"):
        Namespaces([configured("a:b")])
    with pytest.raises(ValueError, match="twice"):
        Namespaces([configured("a"), configured("a")])


@pytest.mark.parametrize(
    ("channel", "well_named"),
    [
        ("user:1", True),
        ("user:a:b", True),
        ("user:", False),
        ("task:", False),
        ("status:", False),
        ("task:" + "a" * 200, True),
        ("task:" + "a" * 201, False),
        ("chat:", True),
        ("public:" + "a" * 240, True),
    ],
)
def test_channels_that_end_in_an_id(channel: str, well_named: bool) -> None:
    namespace = Namespaces().find(channel)
    assert namespace is not None
    assert namespace.names(channel) is well_named


def test_a_channels_namespace_is_remembered_and_follows_what_is_adopted(monkeypatch: pytest.MonkeyPatch) -> None:
    namespaces = Namespaces([configured("news")])
    assert namespaces.of("news:a") is namespaces.of("news:a") is namespaces.all["news"]
    refusals = {"news:*": Code.INVALID_CHANNEL, "other:a": Code.UNKNOWN_CHANNEL, "user:": Code.INVALID_CHANNEL}
    for name in (*refusals, *refusals):
        with pytest.raises(Refused) as problem:
            namespaces.of(name)
        assert problem.value.code is refusals[name]
    namespaces.adopt(Namespaces())
    with pytest.raises(Refused):
        namespaces.of("news:a")
    monkeypatch.setattr(channels, "MAX_KNOWN", 3)
    for number in range(10):
        namespaces.of(f"chat:{number}")
        assert len(namespaces._known) <= 3


def test_names_that_begin_with_a_dollar_need_a_permission_where_there_are_such_names() -> None:
    entries = [configured(name, subscribe=Rule.ANYONE, history_size=3) for name in ("", "$docs", "news")]
    entries.append(configured("$closed", subscribe=Rule.NOBODY))
    plain, private = Namespaces(entries), Namespaces(entries, private=True)
    rules = {name: private.of(name).subscribe for name in ("$docs:1", "$a", "news:$a", "$closed:1")}
    assert list(rules.values()) == [Rule.PERMISSION, Rule.PERMISSION, Rule.ANYONE, Rule.NOBODY]
    assert private.of("$docs:1").history_size == 3
    assert plain.of("$docs:1").subscribe is Rule.ANYONE
    assert private.find("$other:1") is None
    plain.adopt(private)
    assert plain.of("$docs:1").subscribe is Rule.PERMISSION
