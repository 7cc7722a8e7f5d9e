"""`tools.audit`: what registries answer, and what it says of that."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tools import audit

if TYPE_CHECKING:
    from pathlib import Path

FOUND = {"metadata": {"vulnerabilities": {"total": 2}}}


@pytest.mark.parametrize(
    ("said", "line", "advisories"),
    [
        (json.dumps(FOUND), "tests/node: 2 advisories", 2),
        (json.dumps({"statusCode": 405}), "tests/node: no answer (the registry says 405)", None),
        ("{}", "tests/node: no answer (the registry says nothing)", None),
        ("<html>", "tests/node: no answer (npm error)", None),
    ],
)
def test_what_npm_says(monkeypatch: pytest.MonkeyPatch, said: str, line: str, advisories: int | None) -> None:
    monkeypatch.setattr(audit, "_run", lambda *command, cwd: (1, said, "npm error"))
    assert audit.node(audit.ROOT / "tests" / "node") == (line, advisories)


def test_every_folder_with_locked_packages_is_asked_for() -> None:
    def locked(folder: Path) -> bool:
        return (folder / "package.json").is_file() and (folder / "package-lock.json").is_file()

    folders = audit.packages()
    assert all(map(locked, folders))
    assert {audit.ROOT / "bench" / "peers", audit.ROOT / "tools" / "node"} <= set(folders)


def test_what_is_left_out_without_npm_is_named_and_no_verdict(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(audit, "python", lambda: ("python: 70 packages, no advisory", 0))
    monkeypatch.setattr("tools.audit.shutil.which", lambda program: None)
    assert audit.main() == 2
    left_out = [f"left out: {folder.relative_to(audit.ROOT)}: npm is missing" for folder in audit.packages()]
    assert left_out
    assert capsys.readouterr().out.splitlines() == ["python: 70 packages, no advisory", *left_out]
