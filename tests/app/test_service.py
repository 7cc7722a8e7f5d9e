"""The service: what it says of itself, and a stop where the engine does not answer any more."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.logger import capturedLogs

from pushserver.app.workers.messages import Adopt
from pushserver.config.checks import ServerSection
from pushserver.config.sections import AuthSection
from pushserver.core.errors import Refused, Unavailable
from tests import inside
from tests.fakes import Rig
from tests.harness import start, taken, wait_until

#: The server makes its own keys, and nobody says where the console listens.
NEWCOMER = {"PUSHSERVER_AUTH__SECRET": "", "PUSHSERVER_API__KEYS": "", "PUSHSERVER_MANHOLE__LISTEN": ""}


def test_a_second_development_server_has_its_console_elsewhere(tmp_path: Path) -> None:
    with taken(8022):
        server = start(tmp_path, "--manhole", "", dev=True, env=NEWCOMER)
        try:
            said = wait_until(lambda: re.search(r"ssh -p (\d+) admin@127\.0\.0\.1", server.log))
            assert said[1] != "8022"
            with socket.create_connection(("127.0.0.1", int(said[1])), timeout=60) as console:
                assert console.recv(8) == b"SSH-2.0-"
        finally:
            server.stop()


def test_a_console_that_was_asked_for_is_where_it_was_asked_for_or_nowhere(tmp_path: Path) -> None:
    endpoint = "tcp:8022:interface=127.0.0.1"
    with taken(8022):
        server = start(tmp_path, "--manhole", endpoint, dev=True, env=NEWCOMER, ready=False)
        try:
            assert server.wait() == 1
            assert f"pushserver: cannot listen on {endpoint}: " in server.log
            assert "Traceback" not in server.log
            assert not (server.state_dir / "address").exists()
        finally:
            server.stop()


def test_a_socket_in_a_folder_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    endpoint = f"unix:{tmp_path}/none/push.sock"
    server = start(tmp_path, "--listen", endpoint, ready=False)
    assert server.wait() == 1
    assert f"pushserver: cannot listen on {endpoint}: No such file or directory\n" in server.log
    assert "Traceback" not in server.log


async def test_a_node_is_ready_from_its_start_to_its_stop(tmp_path: Path) -> None:
    async with inside.running(tmp_path) as server:
        service = server.service
        assert service.trouble() is None
    assert service.trouble() == "stopping"


async def test_a_reload_from_a_secret_to_a_provider_asks_the_provider(tmp_path: Path) -> None:
    token = jwt.encode({"sub": "ann"}, Ed25519PrivateKey.generate(), "EdDSA", headers={"kid": "1"})
    async with inside.running(tmp_path) as server:
        service = server.service
        with pytest.raises(Refused):
            await service.node.authenticator.identify(token)
        # Nobody is there: whoever would ask it is told to come again, and not that the token is wrong.
        auth = AuthSection(jwks_url="http://127.0.0.1:9/keys", algorithms=("EdDSA",))
        await service.carry_out(Adopt(msgspec.structs.replace(service._config, auth=auth)))
        with pytest.raises(Unavailable):
            await service.node.authenticator.identify(token)


async def test_a_start_says_that_one_address_may_take_all_sockets(tmp_path: Path) -> None:
    with capturedLogs() as events:
        async with inside.running(tmp_path, server=ServerSection(max_pending_per_address=0)):
            pass
    (warning,) = (event["warning"] for event in events if event.get("event") == "address_limit_high")
    assert "server.max_pending_per_address is 0" in warning


async def test_who_went_is_known_to_the_engine_before_a_node_stops(tmp_path: Path) -> None:
    rig = await Rig(tmp_path).start()
    try:
        client = await rig.client("ann")
        client.vanish()
        assert await rig.node.presence.flush() == {"ann": rig.now()}
        online = await rig.engine.presence.online("ann")
        assert (online.online, online.last_seen_at) == (False, rig.now())
        await rig.node.hand_over()  # nobody is left to hand anything to
    finally:
        await rig.stop()


async def test_a_stop_goes_on_though_the_engine_cannot_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = await Rig(tmp_path).start()
    try:
        client = await rig.client("ann")
        client.vanish()
        asked = []

        def cannot() -> None:
            asked.append(True)
            raise Unavailable("no answer")

        monkeypatch.setattr(rig.engine.broker, "nodes", cannot)
        await rig.node.hand_over()
        assert asked == [True]
    finally:
        await rig.stop()
