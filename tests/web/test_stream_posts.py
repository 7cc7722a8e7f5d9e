"""The way of a message to a stream of another node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet import task
from twisted.internet.defer import Deferred, fail, succeed

from pushserver.core.errors import Unavailable
from pushserver.server.clock import Clock
from pushserver.server.cluster import PostOutcome
from pushserver.web.context import tag_of
from pushserver.web.stream_posts import StreamPosts


class World:
    """The streams of a node "here", in a cluster that the test makes up."""

    def __init__(self) -> None:
        self.clock = task.Clock()
        self.lists: list[Any] = []
        self.passed: list[tuple[str, str]] = []
        cluster = SimpleNamespace(pass_on=self.pass_on)
        rooms = SimpleNamespace(nodes=lambda: self.lists.pop(0), cluster=cluster)
        context: Any = SimpleNamespace(tag=tag_of("here"), clock=Clock(self.clock), rooms=rooms)
        self.posts = StreamPosts(context)

    async def pass_on(self, node: str, stream: str, text: str) -> PostOutcome:
        self.passed.append((node, stream))
        return PostOutcome.TAKEN

    def post(self, node: str, stream: str = "s") -> Deferred[PostOutcome]:
        return Deferred.fromCoroutine(self.posts.post(tag_of(node), stream, "text"))


def nodes(*names: str) -> Any:
    return [SimpleNamespace(name=name) for name in names]


async def test_whoever_comes_while_the_nodes_are_listed_waits_for_the_list() -> None:
    world = World()
    listing: Deferred[Any] = Deferred()
    world.lists = [listing]
    first, second = world.post("there", "one"), world.post("there", "two")
    assert not second.called
    listing.callback(nodes("here", "there"))
    assert (await first, await second) == (PostOutcome.TAKEN, PostOutcome.TAKEN)
    assert world.passed == [("there", "one"), ("there", "two")]


async def test_where_the_nodes_cannot_be_listed_no_stream_is_said_to_be_gone() -> None:
    world = World()
    world.lists = [fail(Unavailable("away")), fail(Unavailable("away")), succeed(nodes("there"))]
    for _ in range(2):
        with pytest.raises(Unavailable):
            await world.post("there")
    assert await world.post("there") is PostOutcome.TAKEN


async def test_a_node_that_has_just_come_is_found() -> None:
    world = World()
    world.lists = [succeed(nodes("here", "there")), succeed(nodes("here", "there", "new"))]
    assert await world.post("there") is PostOutcome.TAKEN
    post = world.post("new")
    assert not post.called
    world.clock.advance(1)
    assert await post is PostOutcome.TAKEN


async def test_a_node_that_nobody_knows_is_not_asked() -> None:
    world = World()
    world.lists = [succeed(nodes("here")), succeed(nodes("here"))]
    assert await world.post("none") is PostOutcome.UNKNOWN
    again = world.post("none")
    world.clock.advance(1)
    assert await again is PostOutcome.UNKNOWN
    assert world.passed == []
