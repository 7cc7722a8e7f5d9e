"""The one way in: what may not be published to, and what is kept."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
import pytest_twisted

from pushserver.engine.interfaces import Retention
from pushserver.errors import Code, Refused
from tests.fakes import House

SETTINGS = """
[[namespaces]]
name = "news"
history_size = 5
history_ttl = "1m"
"""


@pytest_twisted.async_yield_fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = await House(tmp_path, SETTINGS).start()
    yield house
    await house.stop()


@pytest.mark.parametrize(
    ("channel", "code"),
    [
        ("", Code.INVALID_CHANNEL),
        ("news a", Code.INVALID_CHANNEL),
        ("nowhere:a", Code.UNKNOWN_CHANNEL),
        ("user:", Code.INVALID_CHANNEL),
    ],
)
async def test_a_channel_must_be_one(house: House, channel: str, code: Code) -> None:
    with pytest.raises(Refused) as refused:
        house.node.publishing.namespace(channel)
    assert refused.value.code is code


@pytest.mark.parametrize("channel", ["task:a", "status:a", "stats"])
async def test_the_servers_own_channels_are_its_own(house: House, channel: str) -> None:
    with pytest.raises(Refused):
        await house.node.publishing.publish(channel, "message", msgspec.Raw(b"1"))


async def test_an_id_of_the_publishers_makes_it_happen_once(house: House) -> None:
    publish = house.node.publishing.publish
    first = await publish("news:a", "message", msgspec.Raw(b"1"), message_id="m")
    again = await publish("news:a", "message", msgspec.Raw(b"1"), message_id="m")
    assert (first.offset, first.duplicate) == (1, False)
    assert (again.offset, again.duplicate) == (1, True)


async def test_what_a_namespace_keeps_is_how_long(house: House) -> None:
    publishing = house.node.publishing
    assert publishing.retention(publishing.namespace("news:a")) == Retention(5, 60_000)
    assert publishing.retention(publishing.namespace("public:a")) is None
