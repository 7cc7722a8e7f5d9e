from __future__ import annotations

import gc
import re
import time

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushserver.core.channels import BUILT_IN, Namespaces, Rule, configured
from pushserver.core.errors import Code, Invalid
from pushserver.core.permissions import (
    Grants,
    may_publish,
    may_read_history,
    may_read_presence,
    may_subscribe,
)

DENIED = Code.PERMISSION_DENIED
ANONYMOUS = Code.NOT_AUTHENTICATED

NAMESPACES = Namespaces(
    [
        configured("news"),
        configured("open", subscribe=Rule.ANYONE, publish=Rule.ANYONE),
        configured("closed", subscribe=Rule.PERMISSION, publish=Rule.PERMISSION),
        configured("sealed", subscribe=Rule.NOBODY, publish=Rule.NOBODY),
        configured("own", subscribe=Rule.PERMISSION, publish=Rule.AUTHENTICATED, user_limited=True),
        configured("shut", subscribe=Rule.NOBODY, user_limited=True),
    ]
)
ADMIN = Grants.of(["admin"])
NOBODY = Grants.of(())


def asked(question, channel: str, user_id: str | None = "42", *permissions: str) -> Code | None:
    namespace = NAMESPACES.find(channel)
    assert namespace is not None
    return question(namespace, channel, user_id, Grants.of(permissions))


# -- globs ------------------------------------------------------------------------------------------------------


@given(st.lists(st.text(alphabet="ab:*", min_size=1, max_size=8), max_size=4), st.text(alphabet="ab:", max_size=10))
def test_globs_match_as_the_regular_expression_would(globs: list[str], channel: str) -> None:
    expected = any(re.fullmatch(re.escape(glob).replace(r"\*", ".*"), channel) for glob in globs)
    assert Grants.of(f"subscribe:{glob}" for glob in globs).subscribe(channel) == expected


@given(
    st.text(alphabet="task:*7", min_size=1, max_size=9),
    st.sampled_from(["task:7", "task:77", "stats", "system", "user:7", "chat:t", "status:7", "public:t"]),
)
def test_a_glob_covers_a_built_in_namespace_only_where_its_own_is_literal(glob: str, channel: str) -> None:
    matches = re.fullmatch(re.escape(glob).replace(r"\*", ".*"), channel) is not None
    literal = "*" not in glob.partition(":")[0]
    assert Grants.of([f"publish:{glob}"]).publish(channel) == (matches and literal)


@pytest.mark.parametrize(
    ("glob", "covered", "not_covered"),
    [
        ("*", ["news:x", "lobby"], ["task:1", "stats", "system", "user:1", "chat:x", "status:1", "public:x"]),
        ("*:*", ["news:x"], ["task:1", "lobby"]),
        ("task*", ["tasks:1"], ["task:1"]),
        ("t*:1", ["tasks:1"], ["task:1"]),
        ("task:*", ["task:1", "task:"], ["tasks:1"]),
        ("task:*-eu", ["task:7-eu"], ["task:7"]),
        ("stat*", ["statue:1"], ["stats"]),
        ("stats", ["stats"], ["stats:x"]),
        ("news:a*b*c", ["news:abc", "news:aXbXc"], ["news:acb", "news:ab"]),
        ("news:ab*ba", ["news:abba"], ["news:aba"]),
    ],
)
def test_globs(glob: str, covered: list[str], not_covered: list[str]) -> None:
    grants = Grants.parse(channels=[glob])
    assert [channel for channel in covered if not grants.subscribe(channel)] == []
    assert [channel for channel in not_covered if grants.subscribe(channel)] == []


def test_a_glob_of_many_stars_is_matched_quickly() -> None:
    grants = Grants.of(["subscribe:" + "*a" * 100 + "b"])
    started = time.process_time()
    assert not grants.subscribe("a" * 255)
    assert time.process_time() - started < 0.5


# -- parsing ----------------------------------------------------------------------------------------------------


def test_claims_become_one_sorted_set() -> None:
    grants = Grants.parse(
        ["publish:news:*", "subscribe:x:1"],
        ["x:1", "y:*"],
        ["editor", "unheard of"],
        {"editor": ["history:news:*", "publish:news:*"], "boss": ["admin"]},
    )
    assert grants.strings == ("history:news:*", "publish:news:*", "subscribe:x:1", "subscribe:y:*")
    assert grants.publish("news:a")
    assert grants.history("news:a")
    assert grants.subscribe("y:1")
    assert not grants.subscribe("news:a")
    assert not grants.presence("news:a")
    assert not grants.admin


def test_what_means_nothing_here_grants_nothing() -> None:
    grants = Grants.of(["orders:read", "subscribe", "administrator", "Admin", "unsubscribe:*"])
    assert not grants.admin
    assert not grants.subscribe("news:x")
    assert len(grants.strings) == 5


@pytest.mark.parametrize(
    "claim",
    ["admin", None, 1, {"a": 1}, [1], ["a", None], [["a"]], [""], ["subscribe:"], ["publish:a b"], ["history:a,b"],
     ["presence:\u00e9"], ["subscribe:" + "a" * 256]],
)  # fmt: skip
def test_malformed_permissions(claim: object) -> None:
    with pytest.raises(Invalid):
        Grants.parse(permissions=claim)


@pytest.mark.parametrize("claim", ["news:*", None, 1, {}, [1], [""], ["a b"], ["a" * 256]])
def test_malformed_channels(claim: object) -> None:
    with pytest.raises(Invalid):
        Grants.parse(channels=claim)


@pytest.mark.parametrize("claim", ["editor", None, 1, {"editor": 1}, [None], [1]])
def test_malformed_roles(claim: object) -> None:
    with pytest.raises(Invalid):
        Grants.parse(roles=claim)


def test_equal_sets_are_one_object() -> None:
    one = Grants.of(["subscribe:a:*", "publish:b"])
    assert Grants.parse(["publish:b"], ["a:*", "a:*"]) is one
    assert Grants.parse() is NOBODY
    assert repr(one) == "<Grants publish:b subscribe:a:*>"


def test_sets_go_with_their_last_holder() -> None:
    from pushserver.core import permissions

    held = Grants.of(["subscribe:only-in-this-test"])
    key = held.strings
    assert key in permissions._interned
    del held
    gc.collect()
    assert key not in permissions._interned


# -- decisions --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "anonymous", "plain", "granted", "admin"),
    [
        ("user:42", ANONYMOUS, None, None, None),
        ("user:43", ANONYMOUS, DENIED, DENIED, DENIED),
        ("task:7", ANONYMOUS, Code.NOT_FOUND, None, None),
        ("system", ANONYMOUS, None, None, None),
        ("stats", ANONYMOUS, DENIED, None, None),
        ("chat:lobby", ANONYMOUS, None, None, None),
        ("status:43", ANONYMOUS, None, None, None),
        ("public:x", None, None, None, None),
        ("news:x", ANONYMOUS, None, None, None),
        ("open:x", None, None, None, None),
        ("closed:x", ANONYMOUS, DENIED, None, None),
        ("sealed:x", ANONYMOUS, DENIED, DENIED, DENIED),
    ],
)
def test_subscribe(channel: str, anonymous: object, plain: object, granted: object, admin: object) -> None:
    assert asked(may_subscribe, channel, None, "admin") == anonymous
    assert asked(may_subscribe, channel) == plain
    assert asked(may_subscribe, channel, "42", f"subscribe:{channel}") == granted
    assert asked(may_subscribe, channel, "42", "admin") == admin
    assert asked(may_subscribe, channel, "42", f"publish:{channel}", f"history:{channel}") == plain


@pytest.mark.parametrize(
    ("channel", "plain", "granted", "admin"),
    [
        ("user:42", DENIED, DENIED, DENIED),
        ("user:43", DENIED, DENIED, DENIED),
        ("task:7", DENIED, DENIED, DENIED),
        ("system", DENIED, DENIED, DENIED),
        ("stats", DENIED, DENIED, DENIED),
        ("status:42", DENIED, DENIED, DENIED),
        ("chat:lobby", None, None, None),
        ("public:x", DENIED, None, None),
        ("news:x", DENIED, None, None),
        ("open:x", None, None, None),
        ("closed:x", DENIED, None, None),
        ("sealed:x", DENIED, DENIED, DENIED),
    ],
)
def test_publish(channel: str, plain: object, granted: object, admin: object) -> None:
    assert asked(may_publish, channel, None, "admin") == ANONYMOUS
    assert asked(may_publish, channel) == plain
    assert asked(may_publish, channel, "42", f"publish:{channel}") == granted
    assert asked(may_publish, channel, "42", "admin") == admin
    assert asked(may_publish, channel, "42", f"subscribe:{channel}") == plain


@pytest.mark.parametrize(("question", "verb"), [(may_read_history, "history"), (may_read_presence, "presence")])
def test_who_may_subscribe_may_read_and_a_grant_of_its_own_gives_that_alone(question, verb: str) -> None:
    for channel in ("system", "chat:lobby", "status:9", "public:x", "news:x", "open:x", "user:42"):
        assert asked(question, channel) is None, channel
    for channel, refusal in {"stats": DENIED, "closed:x": DENIED, "task:7": Code.NOT_FOUND}.items():
        assert asked(question, channel) == refusal
        assert asked(question, channel, "42", f"subscribe:{channel}") is None
        assert asked(question, channel, "42", f"{verb}:{channel}") is None
        assert asked(may_subscribe, channel, "42", f"{verb}:{channel}") == refusal
        assert asked(question, channel, "42", "admin") is None
    assert asked(question, "sealed:x", "42", f"{verb}:sealed:*") is None
    assert asked(question, "sealed:x", "42", "subscribe:sealed:*") == DENIED


@pytest.mark.parametrize("question", [may_subscribe, may_publish, may_read_history, may_read_presence])
@pytest.mark.parametrize(
    "permission", ["admin", "subscribe:user:*", "publish:user:*", "history:user:*", "presence:user:*"]
)
def test_nobody_reaches_anothers_own_channel(question, permission: str) -> None:
    assert asked(question, "user:43", "42", permission) == DENIED
    assert asked(question, "user:421", "42", permission) == DENIED
    assert asked(question, "user:4", "42", permission) == DENIED


def test_anonymous_connections_read_history_where_anyone_may_and_never_presence() -> None:
    assert asked(may_read_history, "public:x", None) is None
    assert asked(may_read_history, "open:x", None) is None
    assert asked(may_read_history, "news:x", None, "history:*") == ANONYMOUS
    assert asked(may_read_presence, "public:x", None, "presence:public:*") == ANONYMOUS
    assert asked(may_read_presence, "user:", None) == Code.INVALID_CHANNEL


@pytest.mark.parametrize("question", [may_subscribe, may_publish, may_read_history, may_read_presence])
def test_a_channel_without_its_id_is_badly_named(question) -> None:
    for channel in ("user:", "task:", "status:", "task:" + "x" * 201):
        assert asked(question, channel, "42", "admin") == Code.INVALID_CHANNEL


@pytest.mark.parametrize("name", ["user", "task", "output", "status", "system", "stats"])
def test_no_client_publishes_to_the_servers_channels_whatever_the_rule(name: str) -> None:
    careless = msgspec.structs.replace(BUILT_IN[name], publish=Rule.ANYONE)
    channel = name if name in ("system", "stats") else f"{name}:main/42" if name == "output" else f"{name}:42"
    assert may_publish(careless, channel, "42", Grants.of(["admin", f"publish:{channel}"])) == DENIED


def test_direct_chat_needs_a_literal_user_namespace() -> None:
    assert Grants.of(["publish:user:*"]).direct_chat("43")
    assert Grants.of(["publish:user:4*"]).direct_chat("43")
    assert ADMIN.direct_chat("43")
    assert not Grants.of(["publish:user:5*"]).direct_chat("43")
    assert not Grants.of(["publish:*"]).direct_chat("43")
    assert not Grants.of(["subscribe:user:*"]).direct_chat("43")
    assert not NOBODY.direct_chat("43")


def test_configured_options_of_built_in_namespaces_are_followed_within_their_meaning() -> None:
    stats = NAMESPACES.all["stats"]
    assert stats is BUILT_IN["stats"]
    opened = Namespaces(
        [
            configured("stats", subscribe=Rule.AUTHENTICATED),
            configured("user", subscribe=Rule.ANYONE),
        ]
    )
    assert may_subscribe(opened.all["stats"], "stats", "42", NOBODY) is None
    assert may_subscribe(opened.all["user"], "user:43", "42", NOBODY) == DENIED
    assert may_subscribe(opened.all["user"], "user:43", None, NOBODY) == ANONYMOUS


def test_a_name_for_one_user_is_for_that_user_alone() -> None:
    everything = ("admin", "subscribe:own:*", "history:own:*", "presence:own:*", "publish:own:*")
    for question in (may_subscribe, may_read_history, may_read_presence):
        assert asked(question, "own:a#42") is None
        assert asked(question, "own:a#42", "43", *everything) is DENIED
        assert asked(question, "own:42#a", "42", *everything) is DENIED
        assert asked(question, "own:a#42", None) is ANONYMOUS
        assert asked(question, "own:a") is DENIED
        assert asked(question, "own:a", "42", "subscribe:own:*") is None
    assert asked(may_publish, "own:a#42") is None
    assert asked(may_publish, "own:a#42", "43", *everything) is DENIED
    assert asked(may_publish, "own:a") is None
    assert asked(may_subscribe, "shut:a#42") is DENIED


def test_a_private_name_for_one_user_needs_a_permission_as_well() -> None:
    entries = [configured("$own", user_limited=True), configured("own", subscribe=Rule.PERMISSION, user_limited=True)]
    private = Namespaces(entries, private=True)
    for question in (may_subscribe, may_read_history, may_read_presence):
        for permission in ("subscribe:$own:*", "admin"):
            assert question(private.of("$own:a#42"), "$own:a#42", "42", Grants.of([permission])) is None
        assert question(private.of("$own:a#42"), "$own:a#42", "42", NOBODY) is DENIED
        assert question(private.of("$own:a#42"), "$own:a#42", "43", ADMIN) is DENIED
        # A rule of one's own allows whose name it is.
        assert question(private.of("own:a#42"), "own:a#42", "42", NOBODY) is None
        plain = Namespaces(entries).of("$own:a#42")
        assert question(plain, "$own:a#42", "42", NOBODY) is None
    assert asked(may_subscribe, "news:a#42", "43") is None
