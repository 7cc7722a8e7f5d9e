"""docs/security.md: no threat without a test that is there, and the tables that runs write have their places."""

from __future__ import annotations

import ast
import re

import pytest

from tests.attack import __main__ as attack
from tests.clients import __main__ as clients
from tests.fuzz import __main__ as fuzz
from tests.fuzz.targets import TARGETS
from tests.harness import ROOT

PAGE = (ROOT / "docs" / "security.md").read_text()


def rows(title: str) -> list[list[str]]:
    """The rows of the table below a heading, without its header."""
    section = re.split(r"^#+ ", PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]
    lines = [line.strip().strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines[2:]]


def missing(reference: str) -> str:
    """What is not there of ``tests/….py`` or ``tests/….py::test_…``."""
    path, _, name = reference.partition("::")
    if not (ROOT / path).is_file():
        return path
    if not name:
        return ""
    tree = ast.parse((ROOT / path).read_text())
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return "" if name in functions else reference


THREATS = rows("Threats")


@pytest.mark.parametrize("row", THREATS, ids=[row[0] for row in THREATS])
def test_every_threat_has_a_test(row: list[str]) -> None:
    _, door, defence, tests = row
    assert door
    assert defence
    references = re.findall(r"`(tests/[^`]+)`", tests)
    assert references
    assert [gone for one in references if (gone := missing(one))] == []


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert missing("tests/nowhere.py") == "tests/nowhere.py"
    assert missing("tests/test_docs_security.py::test_nothing") == "tests/test_docs_security.py::test_nothing"
    assert missing("tests/test_docs_security.py::rows") == ""
    assert len(THREATS) > 25


def test_what_runs_write_has_its_place() -> None:
    assert {row[0] for row in rows(fuzz.TITLE)} == set(TARGETS)
    assert {row[0] for row in rows(attack.TITLE)} == attack.names()
    assert rows(clients.TITLE)
