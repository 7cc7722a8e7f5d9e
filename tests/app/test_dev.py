from __future__ import annotations

import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, cast

import jwt
import msgspec
import pytest
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.interfaces import IListeningPort

from pushserver.app.dev import (
    MANHOLE_ENDPOINT,
    address,
    banner,
    keep,
    leave_address,
    open_console,
    prepare,
    with_ports,
    withdraw_address,
)
from pushserver.config.checks import load
from pushserver.config.sections import Config
from pushserver.core.errors import ConfigError
from pushserver.core.tokens import TokenRules, verify

NOW = 1_800_000_000_000


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "state"


def configured(state: Path, **overrides: Any) -> Config:
    return load(overrides={"server.state_dir": str(state), **overrides}, dev=True)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def claims(token: str, secret: bytes, **options: Any) -> dict[str, Any]:
    unchecked = {"verify_exp": False, "verify_iat": False}
    return jwt.decode(token, secret, algorithms=["HS256", "HS512"], options=unchecked, **options)  # type: ignore[arg-type]


def test_what_is_missing_is_generated_for_its_owner_alone(state: Path) -> None:
    before = os.umask(0)
    try:
        config, dev = prepare(configured(state))
    finally:
        os.umask(before)
    assert mode(state) == 0o700
    assert {path.name: mode(path) for path in state.iterdir()} == {
        "token_secret": 0o600,
        "api_key": 0o600,
        "manhole_password": 0o600,
    }
    assert (state / "token_secret").read_bytes().strip() == config.auth.hmac_secrets()[0]
    assert len(config.auth.hmac_secrets()[0]) >= 32
    assert [key.key for key in config.api.keys] == [dev.api_key]
    assert "admin" in config.api.keys[0].scopes
    assert Path(config.manhole.password_file).read_text().strip() == dev.manhole_password


def test_a_narrow_umask_does_not_matter(state: Path) -> None:
    before = os.umask(0o277)
    try:
        keep(state, "api_key")
    except ConfigError:
        pass
    finally:
        os.umask(before)
        state.parent.chmod(0o700)
    keep(state, "api_key")
    assert mode(state / "api_key") == 0o600


def test_the_next_start_uses_the_same(state: Path) -> None:
    first, second = (
        (config.auth.hmac_secrets()[0].decode(), dev.api_key, dev.manhole_password)
        for config, dev in (prepare(configured(state)) for _ in range(2))
    )
    assert first == second
    assert len(set(first)) == 3


def test_an_open_file_is_closed_to_others(state: Path) -> None:
    keep(state, "api_key")
    (state / "api_key").chmod(0o644)
    keep(state, "api_key")
    assert mode(state / "api_key") == 0o600


def test_processes_that_start_at_once_agree(state: Path) -> None:
    secrets: list[str] = []
    barrier = threading.Barrier(8)

    def begin() -> None:
        barrier.wait()
        secrets.append(keep(state, "token_secret"))

    threads = [threading.Thread(target=begin) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(secrets) == 8
    assert len(set(secrets)) == 1
    assert [path.name for path in state.iterdir()] == ["token_secret"]


def test_a_spoiled_file_is_named(state: Path) -> None:
    keep(state, "api_key")
    (state / "api_key").write_text("short\n")
    with pytest.raises(ConfigError, match=r"api_key: expected at least 32 characters; remove the file"):
        keep(state, "api_key")
    (state / "api_key").write_bytes(b"\xff" * 40)
    with pytest.raises(ConfigError, match="not text"):
        keep(state, "api_key")


def test_a_state_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"server\.state_dir = .*/file/state: expected a directory"):
        keep(tmp_path / "file" / "state", "api_key")


def test_what_is_configured_is_used(state: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("known\n")
    overrides = {
        "auth.secret": "s" * 40,
        "api.keys": ["configured-api-key"],
        "manhole.password_file": str(tmp_path / "password"),
        "manhole.listen": "tcp:2222:interface=127.0.0.1",
    }
    config, dev = prepare(configured(state, **overrides))
    assert not state.exists()
    assert (config.auth.hmac_secrets(), dev.api_key, dev.manhole_password) == (
        (b"s" * 40,),
        "configured-api-key",
        "known",
    )
    assert config.manhole.listen == "tcp:2222:interface=127.0.0.1"


def test_with_keys_for_the_console_there_is_no_password(state: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("ssh-ed25519 AAAA\n")
    config, dev = prepare(configured(state, **{"manhole.authorized_keys": str(tmp_path / "keys")}))
    assert (dev.manhole_password, config.manhole.password_file) == (None, "")
    assert "password" not in banner(config, dev, NOW)


def test_the_page_the_console_and_the_demo_namespace_are_on(state: Path) -> None:
    config, _ = prepare(configured(state))
    assert config.server.page
    assert config.manhole.listen == "tcp:8022:interface=127.0.0.1"
    (demo,) = config.namespaces
    assert (demo.name, demo.subscribe, demo.publish) == ("demo", "authenticated", "authenticated")
    assert (demo.history_size, demo.presence, demo.join_leave) == (50, True, True)


def test_a_configured_demo_namespace_stays(state: Path, tmp_path: Path) -> None:
    (tmp_path / "push.toml").write_text('[[namespaces]]\nname = "demo"\nhistory_size = 3\n')
    loaded = load(str(tmp_path / "push.toml"), overrides={"server.state_dir": str(state)}, dev=True)
    config, _ = prepare(loaded)
    assert [namespace.history_size for namespace in config.namespaces] == [3]


def test_the_demo_token_verifies_as_the_configuration_wants(state: Path) -> None:
    overrides = {
        "auth.user_claim": "uid",
        "auth.issuer": "me",
        "auth.audience": "push",
        "auth.max_token_lifetime": "1h",
    }
    config, dev = prepare(configured(state, **overrides))
    payload = claims(dev.token(NOW, "42"), config.auth.hmac_secrets()[0], issuer="me", audience="push")
    assert payload["uid"] == "42"
    assert (payload["iat"], payload["exp"]) == (NOW // 1000, NOW // 1000 + 3600)


def test_tokens_beside_a_public_key(state: Path, tmp_path: Path) -> None:
    """Algorithms that name no HS one get one, for the demo's own tokens."""
    overrides = {"auth.jwks_url": "https://id.example.com/jwks", "auth.algorithms": ["RS256"]}
    config, dev = prepare(configured(state, **overrides))
    assert config.auth.algorithms == ("RS256", "HS256")
    assert claims(dev.token(NOW), config.auth.hmac_secrets()[0])["sub"] == "demo"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_the_generated_secret_is_long_enough(algorithm: str, state: Path) -> None:
    config, dev = prepare(configured(state, **{"auth.algorithms": [algorithm]}))
    assert algorithm in config.auth.keys().algorithms
    assert set(config.auth.algorithms) == {algorithm, "HS256"}
    identity = verify(dev.token(NOW), config.auth.keys(), TokenRules(algorithms=frozenset(config.auth.algorithms)), NOW)
    assert identity.user_id == "demo"


def test_the_banner_says_what_one_needs(state: Path) -> None:
    config, dev = prepare(configured(state))
    text = banner(config, dev, NOW)
    assert re.search(r"page +http://127.0.0.1:8080/\n", text)
    assert f"http://127.0.0.1:8080/#key={dev.api_key}\n" in text
    assert f"  {dev.api_key}\n" in text
    assert "ssh -p 8022 admin@127.0.0.1" in text
    assert dev.manhole_password is not None
    assert dev.manhole_password in text
    token = re.search(r"token +(\S+)", text)
    assert token is not None
    assert claims(token[1], config.auth.hmac_secrets()[0])["sub"] == "demo"


class Listening:
    def getHost(self) -> IPv4Address:
        return IPv4Address("TCP", "127.0.0.1", 40_123)


class ListeningOnPath:
    def getHost(self) -> UNIXAddress:
        return UNIXAddress(b"/tmp/0")


async def only_free_ones(endpoint: str) -> Listening:
    if not endpoint.startswith("tcp:0:"):
        raise ConfigError(f"cannot listen on {endpoint}")
    return Listening()


async def test_a_console_that_nobody_placed_finds_a_free_port(state: Path) -> None:
    config, dev = prepare(configured(state))
    config, _ = await open_console(config, dev, only_free_ones)
    assert config.manhole.listen == "tcp:40123:interface=127.0.0.1"
    assert "ssh -p 40123 admin@127.0.0.1\n" in banner(config, dev, NOW)


async def test_a_console_stays_where_it_was_asked_for(state: Path) -> None:
    config, dev = prepare(configured(state, **{"manhole.listen": MANHOLE_ENDPOINT}))
    with pytest.raises(ConfigError, match="cannot listen on tcp:8022"):
        await open_console(config, dev, only_free_ones)
    with pytest.raises(ConfigError, match="cannot listen on tcp:8022"):
        await open_console(config, None, only_free_ones)


async def test_a_port_that_the_system_chose_is_said(state: Path) -> None:
    """Who asks for port 0 finds the real one on the terminal and in the state directory."""
    endpoints = ("tcp:0:interface=127.0.0.1", "tcp6:port=0:interface=\\:\\:0", "tcp:8080", "unix:/tmp/0")
    config, dev = prepare(configured(state, **{"manhole.listen": "tcp:0:interface=127.0.0.2"}))
    config = msgspec.structs.replace(config, server=msgspec.structs.replace(config.server, listen=endpoints))
    # What listens on a path has no port.
    *tcp, path = cast(list[IListeningPort], [*(Listening() for _ in endpoints[1:]), ListeningOnPath()])
    found = with_ports(config, [*tcp, path], tcp[0])
    assert found.server.listen == (
        "tcp:40123:interface=127.0.0.1", "tcp6:port=40123:interface=\\:\\:0", "tcp:8080", "unix:/tmp/0",
    )  # fmt: skip
    text = banner(found, dev, NOW)
    assert "http://127.0.0.1:40123/#key=" in text
    assert "ssh -p 40123 admin@127.0.0.2\n" in text
    assert config.server.listen == endpoints


def test_an_address_lies_there_while_its_server_runs(state: Path) -> None:
    first, _ = prepare(configured(state))
    server = msgspec.structs.replace(first.server, listen=("tcp:9000:interface=127.0.0.1",))
    second = msgspec.structs.replace(first, server=server)
    leave_address(first)
    assert (state / "address").read_text() == "http://127.0.0.1:8080/\n"
    leave_address(second)
    # The first one's end does not hide the second.
    withdraw_address(first)
    assert (state / "address").read_text() == "http://127.0.0.1:9000/\n"
    withdraw_address(second)
    assert not (state / "address").exists()
    withdraw_address(second)


def test_secrets_are_in_no_repr(state: Path) -> None:
    _, dev = prepare(configured(state))
    assert repr(dev) == "Dev(<hidden>)"


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("tcp:8080:interface=127.0.0.1", "http://127.0.0.1:8080/"),
        ("tcp:port=80:interface=localhost", "http://localhost/"),
        ("tcp6:81:interface=\\:\\:1", "http://[::1]:81/"),
        ("ssl:443:interface=127.0.0.1:privateKey=k", "https://127.0.0.1/"),
        ("tls:/pems:8443:interface=127.0.0.1", "https://127.0.0.1:8443/"),
        ("haproxy:tcp:8080:interface=127.0.0.1", "http://127.0.0.1:8080/"),
        ("unix:/tmp/push.sock", "unix:/tmp/push.sock"),
        ("unix:address=/tmp/push.sock", "unix:/tmp/push.sock"),
    ],
)
def test_the_address_of_the_page(endpoint: str, expected: str) -> None:
    assert address(endpoint) == expected
