"""The section ``[events]``: what it takes, and the one line for what it does not."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pushserver.config.changes import merge
from pushserver.config.checks import Config, load
from pushserver.core.errors import ConfigError
from pushserver.core.events import SUBJECTS

SECRET = "whsec_" + base64.b64encode(bytes(range(24))).decode()
OTHER = "whsec_" + base64.b64encode(bytes(range(32))).decode()
ENVIRONMENT = {"PUSHSERVER_AUTH__SECRET": "a secret of at least thirty-two bytes"}


def read(place: Path, text: str) -> Config:
    path = place / "p.toml"
    path.write_text(text)
    return load(str(path), ENVIRONMENT)


def webhook(**keys: object) -> str:
    given = {"name": '"mail"', "url": '"https://app.example/x"', "secret": f'"{SECRET}"'} | keys
    return "[[events.webhooks]]\n" + "".join(f"{key} = {value}\n" for key, value in given.items() if value is not None)


def test_without_types_nothing_is_made(tmp_path: Path) -> None:
    events = read(tmp_path, webhook()).events
    assert events.types == ()
    (one,) = events.receivers()
    assert one.types == frozenset()
    assert (events.unread_after, events.retention, events.max_bytes) == (300_000, 86_400_000, 268_435_456)


def test_a_webhook_gets_what_is_made_and_it_asks_for(tmp_path: Path) -> None:
    (tmp_path / "s").write_text(f"{OTHER}\n")
    config = read(
        tmp_path,
        '[events]\ntypes = ["user.*", "task.finished"]\n'
        + webhook()
        + webhook(name='"b"', types='["task.*"]', secret=None, secrets=f'["{SECRET}", "{OTHER}"]', timeout='"2s"')
        + webhook(name='"c"', secret=None, secret_file=f'"{tmp_path}/s"'),
    )
    first, second, third = config.events.receivers()
    assert first.types == {name for name in SUBJECTS if name.startswith("user.")} | {"task.finished"}
    assert second.types == {"task.finished"}
    assert (second.timeout, len(second.secrets), first.timeout) == (2_000, 2, 15_000)
    assert third.secrets == second.secrets[1:]
    assert SECRET not in repr(config)
    assert OTHER not in repr(config)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        ('[events]\ntypes = ["user.*", "nope.*"]', "events.types", "no event is called 'nope.*'"),
        ("[events]\nmax_bytes = 1000", "events.max_bytes", "at least 65536"),
        ('[events]\nretention = "0s"', "events.retention", "at least 1s"),
        (webhook() + webhook(), "events.webhooks", '"mail": name: expected one entry for each name'),
        (webhook(name='"A b"'), "events.webhooks", "1 to 32 of a-z 0-9 -"),
        (webhook(name='"%s"' % ("a" * 33)), "events.webhooks", "1 to 32 of a-z 0-9 -"),
        (webhook(name=None), "events.webhooks", "the entry 1: expected the key name"),
        (webhook(url='"https:///x"'), "events.webhooks", "an http:// or https:// address"),
        (webhook(url='"ftp://h/x"'), "events.webhooks", "an http:// or https:// address"),
        (webhook(url='""'), "events.webhooks", "an http:// or https:// address"),
        (webhook(url='"https://b\u00fccher.example/x"'), "events.webhooks", "visible ASCII characters"),
        (webhook(url='"https://app.example/a b"'), "events.webhooks", "visible ASCII characters"),
        (webhook(url='"https://app.example/a\\nb"'), "events.webhooks", "visible ASCII characters"),
        (webhook(url=None), "events.webhooks", "expected the key url"),
        (webhook(secret='"whsec_QUJD"'), "events.webhooks", "a secret has 24 to 64 bytes, this one 3"),
        (webhook(secret='"open sesame"'), "events.webhooks", "a secret begins with whsec_"),
        (webhook(secret=None), "events.webhooks", "expected secret, secret_file or secrets"),
        (webhook(secret=None, secrets="[]"), "events.webhooks", "expected secret, secret_file or secrets"),
        (webhook(secret=None, secret_file='"/nowhere/s"'), "secret_file", "readable file"),
        (webhook(types='["nope"]'), "events.webhooks", "no event is called 'nope'"),
        (webhook(timeout='"0s"'), "events.webhooks", "timeout"),
        (webhook(retries="3"), "events.webhooks", "'retries': unknown key"),
        ("[events]\nwebhooks = 3", "events.webhooks", "a list of tables"),
        ("[events]\nwebhooks = [3]", "events.webhooks", "the entry 1"),
    ],
)
def test_a_mistake_is_one_line_with_its_key(tmp_path: Path, text: str, key: str, expected: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read(tmp_path, text)
    said = str(raised.value)
    assert key in said
    assert expected in said
    assert "\n" not in said
    assert "QUJD" not in said
    assert "sesame" not in said


def test_a_file_without_a_secret_is_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("hunter2")
    with pytest.raises(ConfigError, match=r'secret_file = .*/s": expected a file with a secret') as raised:
        read(tmp_path, webhook(secret=None, secret_file=f'"{tmp_path}/s"'))
    assert "hunter2" not in str(raised.value)


def test_a_reload_takes_all_of_it_over(tmp_path: Path) -> None:
    (tmp_path / "s").write_text(SECRET)
    text = webhook(secret=None, secret_file=f'"{tmp_path}/s"')
    before = read(tmp_path, text)
    config, changes = merge(before, read(tmp_path, '[events]\ntypes = ["*"]\nretention = "2d"\n' + text))
    assert changes.changed == ["events.types", "events.retention"]
    assert changes.restart_needed == []
    assert config.events.retention == 172_800_000
    (tmp_path / "s").write_text(OTHER)
    config, changes = merge(before, read(tmp_path, text))
    assert changes.changed == ["events.webhooks"]
    assert config.events.receivers() != before.events.receivers()
