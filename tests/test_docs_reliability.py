"""docs/reliability.md: each row of bad input has a test that is there, and each of these tests has a row."""

from __future__ import annotations

import re

import pytest

from tests.harness import ROOT
from tests.test_docs_security import missing

TITLE = "## Bad input, from the worker to the tab\n"
PAGE = (ROOT / "docs" / "reliability.md").read_text()
SECTION = PAGE.partition(TITLE)[2].partition("\n## ")[0]
ROWS = [line for line in SECTION.splitlines() if line.startswith("| ") and not line.startswith("| what ")]
ROWS = [row for row in ROWS if "| test |" not in row]


def last_cell(row: str) -> str:
    return row.strip().strip("|").rpartition("|")[2].strip()


def missing_in_browser(reference: str) -> list[str]:
    """What is not there of `tests/js/….test.js`: names of its tests, or parts of these, by commas."""
    path, names = re.fullmatch(r"`(tests/js/[^`]+)`: (.+)", reference).groups()  # type: ignore[union-attr]
    text = (ROOT / path).read_text().replace("\\'", "'")
    return [] if f"'{names}" in text else [name for name in names.split(", ") if f"'{name}'" not in text]


@pytest.mark.parametrize("row", ROWS, ids=[row.split("|")[1].strip() for row in ROWS])
def test_every_row_has_a_test(row: str) -> None:
    references = last_cell(row)
    of_python = re.findall(r"`(tests/[^`]+\.py::\w+)`", references)
    of_browser = [part for part in references.split("; ") if part.startswith("`tests/js/")]
    # A name may have a semicolon in it.
    assert of_python or of_browser
    assert [gone for one in of_python if (gone := missing(one))] == []
    for part in re.findall(r"`tests/js/[^`]+`: .+?(?=; `tests|$)", references):
        assert missing_in_browser(part) == []


def test_every_test_of_bad_input_has_a_row() -> None:
    text = (ROOT / "tests" / "publisher" / "test_bad_input.py").read_text()
    tests = re.findall(r"^def (test_\w+)", text, re.MULTILINE)
    assert [name for name in tests if name not in SECTION] == []
    browser = (ROOT / "tests" / "js" / "browser.test.js").read_text()
    scripts = re.search(r"const SCRIPTS = \{\n(.*?)\n\};", browser, re.DOTALL)
    assert scripts is not None
    assert [name for name in re.findall(r"^  '(.+?)':", scripts[1], re.MULTILINE) if name not in SECTION] == []


def test_a_test_that_is_not_there_is_noticed() -> None:
    assert missing_in_browser("`tests/js/shared.test.js`: nothing of the kind") == ["nothing of the kind"]
    assert len(ROWS) > 20
