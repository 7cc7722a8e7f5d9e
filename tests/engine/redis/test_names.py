"""What a stranger may choose (a channel, a user's id, a task's, a token's) never becomes a name of something else."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pushserver.engine.redis.names import Names

NAMES = Names("push", 0)

#: What the names themselves are made of.
PIECES = [":", "::", "*", "{", "}", "x", "state", "dead", "at", "open", "final", "jti", "user", "output", "main/"]
ids = st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join)


def keys(chosen: str) -> list[str]:
    """Every key that holds something of a channel, a user, a task or a token of this name."""
    return [
        NAMES.history(chosen),
        NAMES.messages(chosen),
        NAMES.inbox(chosen),
        NAMES.task(chosen),
        *NAMES.tasks(chosen),
        *NAMES.output(f"output:{chosen}"),
        NAMES.revoked_token(chosen),
        NAMES.revoked_user(chosen),
        NAMES.online(chosen),
        NAMES.seen(chosen),
        NAMES.members(chosen),
        NAMES.infos(chosen),
    ]


def own_keys() -> set[str]:
    """The keys of the servers themselves."""
    one = NAMES.server, NAMES.nodes, NAMES.stale, NAMES.ingest, NAMES.dead, NAMES.tries, NAMES.quarantine
    several = *NAMES.dead_events, *NAMES.webhook("mail"), *NAMES.left_by("n1")
    return {*one, *several, NAMES.events, NAMES.outbox, NAMES.unread, NAMES.lease("ingest")}


@given(ids, ids)
def test_no_two_things_have_one_key(one: str, other: str) -> None:
    every = keys(one) + (keys(other) if other != one else [])
    assert len(set(every)) == len(every)
    assert not own_keys() & set(every)


@given(ids)
def test_a_channels_name_leads_back_to_it_alone(channel: str) -> None:
    assert NAMES.channel_of(NAMES.live(channel)) == (channel, False)
    assert NAMES.channel_of(NAMES.pub(channel)) == (channel, True)
    assert NAMES.channel_of(NAMES.control) is NAMES.channel_of(NAMES.answers(channel)) is None
