"""What a running server takes over from another configuration, and what it names instead."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pushserver.config import checks
from pushserver.config.changes import counts_at_once, merge
from pushserver.config.checks import checked, load
from pushserver.config.loader import RawConfig
from pushserver.config.sections import SECTIONS, Config, LogSection, ServerSection, keys_of
from pushserver.core.channels import Namespace
from pushserver.core.errors import ConfigError

RUNNING = Config()
SECRET = "a secret of at least thirty-two bytes"
PROVIDER = "https://id.example.com/jwks"


def test_nothing_new_is_no_change() -> None:
    config, changes = merge(RUNNING, RUNNING)
    assert config == RUNNING
    assert (changes.changed, changes.restart_needed) == ([], [])


def test_what_counts_at_once_is_taken_and_the_rest_is_named_until_a_new_start() -> None:
    read = Config(
        server=ServerSection(listen=("tcp:1",), shutdown_drain=1),
        log=LogSection(level="warn"),
        roles={"editor": ("admin",)},
        namespaces=(Namespace("news"),),
    )
    config, changes = merge(RUNNING, read)
    assert changes.changed == ["server.shutdown_drain", "log.level", "roles", "namespaces"]
    assert changes.restart_needed == ["server.listen"]
    assert (config.server.listen, config.server.shutdown_drain) == (RUNNING.server.listen, 1)
    assert (config.log, config.roles, config.namespaces) == (read.log, read.roles, read.namespaces)
    again, changes = merge(config, read)
    assert again == config
    assert (changes.changed, changes.restart_needed) == ([], ["server.listen"])


@pytest.mark.parametrize("section", ["inbox", "tasks", "delivery", "log", "events", "rate_limits", "api"])
def test_every_key_of_these_counts_at_once(section: str) -> None:
    assert all(counts_at_once(f"{section}.{key}") for key in keys_of(SECTIONS[section]))


def test_a_file_with_another_content_is_a_change_of_its_key(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("1" * 40)
    (tmp_path / "two").write_text("2" * 40)
    overrides = {"auth.secret_files": [str(tmp_path / "one"), str(tmp_path / "two")]}
    before = load(None, {}, overrides)
    (tmp_path / "two").write_text("3" * 40)
    config, changes = merge(before, load(None, {}, overrides))
    assert changes.changed == ["auth.secret_files"]
    assert config.auth.hmac_secrets() == (b"1" * 40, b"3" * 40)


@pytest.mark.parametrize("section", SECTIONS)
def test_each_key_is_taken_or_named(section: str) -> None:
    """Whatever a key holds, another value of it is one or the other, and what is named stays as it was."""
    for key in keys_of(SECTIONS[section]):
        other: Any = ("another",)
        changed = msgspec.structs.replace(getattr(RUNNING, section), **{key: other})
        config, changes = merge(RUNNING, msgspec.structs.replace(RUNNING, **{section: changed}))
        taken = getattr(getattr(config, section), key) == other
        assert taken == counts_at_once(f"{section}.{key}")
        assert (changes.changed if taken else changes.restart_needed) == [f"{section}.{key}"]


def configurations(place: Path) -> list[dict[str, Any]]:
    """Return settings of servers, by full key: each key that a rule joins with another stands in one of them."""
    for name in ("secret", "password"):
        (place / name).write_text(SECRET)
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    (place / "key.pem").write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    secret, key, password = str(place / "secret"), str(place / "key.pem"), str(place / "password")
    verified: list[dict[str, Any]] = [
        {"auth.secret": SECRET},
        {"auth.secret": SECRET, "auth.algorithms": ["HS256"]},
        {"auth.secret_file": secret, "auth.algorithms": ["HS256"]},
        {"auth.secrets": [SECRET]},
        {"auth.secret_files": [secret]},
        {"auth.public_key_file": key},
        {"auth.public_key_file": key, "auth.algorithms": ["EdDSA"]},
        {"auth.jwks_url": PROVIDER},
        {"auth.jwks_url": PROVIDER, "auth.algorithms": ["RS256"]},
        {"auth.jwks_url": PROVIDER, "auth.secrets": [SECRET], "auth.algorithms": ["RS256", "HS256"]},
    ]
    loopback = "tcp:8022:interface=127.0.0.1"
    doors: list[dict[str, Any]] = [
        {"centrifuge.enabled": True, "centrifuge.api_path": "/a", "server.api_listen": [loopback]},
        {"server.websocket_path": "/connection", "server.listen": ["tcp:80"], "server.state_dir": str(place)},
        {"server.websocket_path": "/a", "centrifuge.path": "/b", "centrifuge.emulation_path": "/ws"},
        {"centrifuge.enabled": True, "centrifuge.insecure": True, "centrifuge.path": "/b"},
        {"centrifuge.enabled": True, "centrifuge.inbox_channel": "box-{id}"},
        {"manhole.listen": loopback, "manhole.password_file": password},
        {"manhole.listen": "tcp:8022", "manhole.authorized_keys": key},
        {"redis.sentinels": ["a:26379"], "redis.service": "push", "engine.kind": "redis", "redis.url": "redis://b"},
        {"events.max_bytes": 65_536, "api.keys": ["the-first-key-of-the-test"]},
        {"server.max_message_size": 1_048_576, "events.max_bytes": 1_048_576, "events.webhooks": []},
        {"inbox.max_messages": 5, "inbox.max_chat_messages": 5},
        {"inbox.max_chat_messages": 50},
    ]
    return verified + [{"auth.secret": SECRET} | door for door in doors]


def test_what_is_merged_holds_by_the_rules_between_keys(tmp_path: Path) -> None:
    known = configurations(tmp_path)
    loaded = [load(None, {}, one) for one in known]
    for running, read in itertools.permutations(loaded, 2):
        merged, _ = merge(running, read)
        raw = RawConfig()
        raw.roles, raw.namespaces = merged.roles, list(merged.namespaces)
        for name, section in SECTIONS.items():
            raw.values[name] = {key: getattr(getattr(merged, name), key) for key in keys_of(section)}
        assert checked(raw) == merged


def test_those_rules_name_no_key_that_the_configurations_of_this_test_leave_out(tmp_path: Path) -> None:
    named = set(re.findall(rf'"((?:{"|".join(SECTIONS)})\.[a-z_]+)"', inspect.getsource(checks)))
    assert named >= {"auth.algorithms", "events.max_bytes"}
    assert named <= {key for one in configurations(tmp_path) for key in one}


def test_a_provider_takes_the_place_of_a_secret_whole() -> None:
    secret = load(None, {}, {"auth.secret": SECRET, "auth.algorithms": ["HS256"]})
    provider = load(None, {}, {"auth.jwks_url": PROVIDER, "auth.algorithms": ["RS256"]})
    config, changes = merge(secret, provider)
    assert changes.changed == ["auth.algorithms", "auth.secret", "auth.jwks_url"]
    assert (config, changes.restart_needed) == (provider, [])


def test_a_namespace_that_the_name_of_inboxes_does_not_allow_yet_changes_nothing() -> None:
    def configured(pattern: str, *names: str) -> Config:
        namespaces = {"PUSHSERVER_NAMESPACES": json.dumps([{"name": name} for name in names])}
        settings = {"auth.secret": SECRET, "centrifuge.enabled": True, "centrifuge.inbox_channel": pattern}
        return load(None, namespaces, settings)

    running, read = configured("n{id}"), configured("user:{id}", "news")
    with pytest.raises(
        ConfigError, match=r'^namespaces: the namespace "news" has .* centrifuge\.inbox_channel = "n\{id\}"'
    ):
        merge(running, read)
    config, changes = merge(read, running)
    assert (config.namespaces, config.centrifuge) == ((), read.centrifuge)
    assert (changes.changed, changes.restart_needed) == (["namespaces"], ["centrifuge.inbox_channel"])


def test_certificates_are_those_of_the_listeners_that_there_are() -> None:
    running = Config(certificates={"ssl:1": b"a"})
    moved = Config(certificates={"ssl:2": b"b"})
    config, changes = merge(running, moved)
    assert (config.certificates, changes.changed) == (running.certificates, [])
    config, changes = merge(config, Config(certificates={"ssl:1": b"c"}))
    assert (config.certificates, changes.changed) == ({"ssl:1": b"c"}, ["certificates"])
