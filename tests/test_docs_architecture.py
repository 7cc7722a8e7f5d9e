"""docs/architecture.md is about the tree as it is: its picture, its words, and the files that a change touches."""

from __future__ import annotations

import re

import pytest

from tests.harness import ROOT
from tests.test_layers import BESIDE, FLOORS, MODULES, folder_of

PAGE = (ROOT / "docs/architecture.md").read_text()

#: Words that a reader may have to learn.
MOST_WORDS = 30


def section(title: str) -> str:
    """Return what stands under a heading. Raises ValueError where there is none."""
    return PAGE[PAGE.index(f"\n## {title}\n") :].split("\n## ")[1]


def rows(text: str) -> list[list[str]]:
    """Return the cells of each row of the table in a text, below its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def not_drawn(picture: str, modules: list[str]) -> list[str]:
    """Return the modules that a picture does not name. A store's rows are drawn with the store."""
    words = set(re.findall(r"\w+", picture))
    wanted = [module for module in modules if ".rows." not in module]
    return [module for module in wanted if module.rpartition(".")[2] not in words]


def test_the_picture_names_every_folder_and_every_module_of_the_floors() -> None:
    picture = section("The picture")
    assert not_drawn(picture, [module for module in MODULES if folder_of(module) in FLOORS]) == []
    assert [folder for folder in (*FLOORS, *BESIDE) if not re.search(rf"\b{folder}\b", picture)] == []


def test_a_module_that_is_not_drawn_is_found() -> None:
    assert not_drawn("core/ a, b_c", ["pushserver.core.b_c", "pushserver.core.b"]) == ["pushserver.core.b"]


def test_there_are_few_words_to_learn() -> None:
    table = rows(section("Words"))
    assert all(meaning for _, meaning in table)
    words = [word.strip() for names, _ in table for word in names.split(",")]
    assert len(words) == len(set(words))
    assert 10 < len(words) <= MOST_WORDS


def test_the_files_that_a_change_touches_are_there_and_counted() -> None:
    table = rows(section("What a change touches"))
    assert len(table) == 6
    for change, _, _, count, files in table:
        # A folder stands for the one module that it would be.
        assert len(re.findall(r"`[a-z_]+/[^`]+`", files)) == int(count), change
        made = set()
        if "new: " in files:
            made = set(re.findall(r"`([^`]+)`", files.split("new: ")[1].split(";")[0]))
        named = set(re.findall(r"`([a-z_]+/[^`]+)`", files)) - made
        for name in named:
            if name.endswith("/"):
                assert (ROOT / "pushserver" / name).is_dir(), f"{change}: {name}"
            else:
                assert f"pushserver.{name.replace('/', '.')}" in MODULES or _is_of_the_browser(name), (
                    f"{change}: {name}"
                )


def _is_of_the_browser(name: str) -> bool:
    return (ROOT / "pushserver/web/static" / name).is_file()


@pytest.mark.parametrize("title", ["No such heading", "Word"])
def test_a_heading_that_is_gone_is_no_empty_section(title: str) -> None:
    with pytest.raises(ValueError, match="substring not found"):
        section(title)
