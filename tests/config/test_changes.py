"""What a running server takes over from another configuration, and what it names instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from pushserver.config.changes import counts_at_once, merge
from pushserver.config.checks import load
from pushserver.config.sections import SECTIONS, Config, LogSection, ServerSection, keys_of
from pushserver.core.channels import Namespace

RUNNING = Config()


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
