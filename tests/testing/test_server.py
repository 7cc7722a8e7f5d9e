"""The fixture for the tests of applications, used as an application's tests use it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from pushserver.client import Client
from pushserver.testing import PushServer, push_server
from tests.publisher.fake_api import child_environment

__all__ = ["push_server"]


def test_it_serves_publishers_and_clients(push_server: PushServer) -> None:
    async def main() -> None:
        async with Client(push_server.ws_url, token=push_server.token(42)) as client:
            with push_server.publisher() as publisher:
                await asyncio.to_thread(publisher.notify, 42, title="Paid")
            async for message in client.inbox():
                assert message.data == {"title": "Paid"}
                break

    asyncio.run(main())
    assert push_server.api("GET", "/api/inbox?userId=42")["messages"][0]["data"] == {"title": "Paid"}
    assert push_server.api("GET", "/api/tasks/none")["error"]["code"] == "NOT_FOUND"
    assert "listens" in push_server.log


def test_it_is_configured_and_leaves_nothing() -> None:
    server = PushServer('[[namespaces]]\nname = "news"\n')
    with server:
        place = server._place
        assert server.publisher().publish("news:1", 1).message_id
    assert isinstance(place, Path)
    assert not place.exists()
    server.stop()


def test_a_mistake_in_the_configuration_is_shown() -> None:
    with pytest.raises(RuntimeError, match="nonsense"):
        PushServer("[nonsense]\n").start()


def test_the_server_needs_no_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "import pushserver.testing.server\n"
        "with pushserver.testing.server.PushServer() as server:\n"
        "    print(server.publisher().publish('demo:a', 1).offset, pushserver.testing.__all__)\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=child_environment(), capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.stderr) == ("1 ['PushServer']\n", "")
