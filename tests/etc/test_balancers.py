"""etc/haproxy.cfg, unedited but for addresses and files: what passes through it. Nodes behind it are replaced by
`tests.reliability.replacing`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing

import pytest

from tests.cluster.conftest import Deployment
from tests.etc.balancers import Haproxy
from tests.reliability.crowd import NAMESPACE

pytestmark = pytest.mark.full


@pytest.fixture(scope="module")
def balanced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Haproxy]:
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("balanced")
        place = Deployment(directory)
        stack.callback(place.end)
        balanced = Haproxy(place, directory, NAMESPACE)
        stack.callback(balanced.end)
        yield balanced


def test_events_come_at_once_and_large_bodies_pass(balanced: Haproxy) -> None:
    token = balanced.nodes["push-1"].token("42")
    with closing(balanced.open("GET", "/sse?channels=room:a", Authorization=f"Bearer {token}")) as stream:
        events = (line for line in stream.getresponse() if line.startswith(b"data: "))
        assert b"subscription_success" in next(events)
        status, _ = balanced.call("POST", "/api/publish", {"channel": "room:a", "data": "x" * 900_000})
        assert status == 200
        assert next(line for line in events if b'"channel":"room:a"' in line).count(b"x") >= 900_000
