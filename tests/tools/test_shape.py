"""What `tools.shape` counts, shown on small sources with planted offences."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.shape import PUBLIC_CLASSES, PUBLIC_NAMES, Shape, at, measure, report, working_tree

SEVEN = "a, b, c, d, e, f, g"
NAMED = (("Few", ""), ("Many", ", *, h"))


def test_lines_are_of_code_alone_and_docstrings_stand_beside() -> None:
    text = '''"""What it is.

Two lines more.
"""

# Why.
import os  # beside code


def f(
    a,
):
    """Return it."""
    return """a
    text"""
'''
    shape = measure({"core/a.py": text, "b.py": "x = 1\n\n\ny = 2\n"})
    assert shape.lines == {"core": 6, ".": 2}
    assert shape.docstrings == {"core": 5, ".": 0}


def test_a_class_name_in_two_modules_is_found() -> None:
    assert measure({"core/a.py": "class A: ...", "server/b.py": "\nclass A: ..."}).twice == {
        "A": ["core/a.py:1", "server/b.py:2"]
    }


def test_twins_may_share_a_name_once_each() -> None:
    a = "class A: ..."
    assert measure({"engine/embedded/a.py": a, "engine/redis/a.py": a}).twice == {}
    assert measure({"client/aio.py": a, "client/tx.py": a}).twice == {}
    assert measure({"client/aio/a.py": a, "client/tx/a.py": a}).twice == {}
    assert measure({"client/aio_link.py": a, "client/tx_link.py": a}).twice == {}
    assert "A" in measure({"engine/redis/a.py": a, "engine/redis/b.py": a}).twice
    assert "A" in measure({"engine/embedded/a.py": a, "engine/redis/a.py": a, "core/a.py": a}).twice
    assert "A" in measure({"engine/embedded/a.py": a, "client/tx.py": a}).twice
    assert "A" in measure({"engine/redistribution/a.py": a, "engine/embedded/a.py": a}).twice


def test_a_public_name_may_stand_where_it_is_known_to_and_nowhere_else() -> None:
    a = "class Position: ..."
    assert measure({"client/messages.py": a, "core/positions.py": a}).twice == {}
    assert "Position" in measure({"client/messages.py": a, "server/positions.py": a}).twice
    assert "Position" in measure({"client/messages.py": a, "core/positions.py": a, "web/a.py": a}).twice


def test_settings_of_a_class_that_users_make_are_counted_apart() -> None:
    source = f"class Client:\n    def __init__(self, a, *, {SEVEN.replace('a', 'i', 1)}, h=1): ...\n"
    shape = measure({"client/aio.py": source})
    assert (shape.wide, shape.settings) == ({}, {"client/aio.py:1 Client": 8})
    assert measure({"client/other.py": source}).wide == {"client/other.py:1 Client": 9}
    wide = measure({"client/aio.py": f"class Client:\n    def __init__(self, {SEVEN}, h, *, i): ...\n"})
    assert wide.wide == {"client/aio.py:1 Client": 8}


def test_a_constructor_with_eight_parameters_is_found() -> None:
    source = (
        f"class Few:\n    def __init__(self, {SEVEN}): ...\nclass Many:\n    def __init__(self, {SEVEN}, *, h): ...\n"
    )
    assert measure({"server/a.py": source}).wide == {"server/a.py:3 Many": 8}
    starred = f"class Many:\n    def __init__(self, {SEVEN}, **more): ...\n"
    assert measure({"server/a.py": starred}).wide == {"server/a.py:1 Many": 8}


def test_fields_of_a_dataclass_are_parameters_unless_it_is_a_value() -> None:
    fields = "".join(f"    {name}: int\n" for name in "abcdefgh")
    more = "    i: int = field(init=False)\n    j: ClassVar[int] = 1\n"
    assert measure({"a.py": f"@dataclass(slots=True)\nclass A:\n{fields}{more}"}).wide == {"a.py:2 A": 8}
    assert measure({"a.py": f"@dataclass(frozen=True)\nclass A:\n{fields}"}).wide == {}
    assert measure({"a.py": f"class A(msgspec.Struct):\n{fields}"}).wide == {}
    assert measure({"a.py": f"class A(NamedTuple):\n{fields}"}).wide == {}


def test_what_derives_from_a_value_is_one() -> None:
    child = f"class B(A):\n    def __init__(self, {SEVEN}, h): ...\n"
    assert measure({"a.py": "class A(Struct): ...", "b.py": child}).wide == {}
    assert measure({"a.py": "class A: ...", "b.py": child}).wide == {"b.py:1 B": 8}


def test_any_is_found_in_each_part_of_a_signature() -> None:
    source = """
def one(a: Any): ...
def two(*a: list[Any]): ...
def three(*, a: "dict[str, typing.Any] | None"): ...
class A:
    async def four(self) -> Any: ...
def five(a: Anything, b: "no: type" = Any) -> None: ...
"""
    found = [place.split()[1] for place in measure({"server/a.py": source}).untyped]
    assert found == ["one", "two", "three", "four"]
    assert len(measure({"engine/redis/a.py": source, "app/a.py": source}).untyped) == 8
    assert measure({"web/a.py": source, "service.py": source}).untyped == []


def test_any_with_its_reason_is_counted_apart() -> None:
    source = """
def one(
    a: Any,  # Any: the library has no types
) -> None: ...
def two(a: Any): return a  # anything
"""
    shape = measure({"server/a.py": source})
    assert shape.reasoned == ["server/a.py:2 one"]
    assert shape.untyped == ["server/a.py:5 two"]


def test_a_name_for_a_type_hides_no_any() -> None:
    source = """
from typing import Any as Anything
Handler = Callable[[bytes], Awaitable[Any]]
Reply = Any
Answer: TypeAlias = "list[typing.Any]"
class A:
    Part = dict[str, Any]
#: Whatever comes.
Given = Any  # Any: the library has no types
# Any: whatever a call is given
Work = Callable[..., Any]
Number = int | None
made = cast(Any, 1)
count: Any = 1
"""
    shape = measure({"server/a.py": source})
    assert shape.untyped == [f"server/a.py:{n}" for n in ("2 Anything", "3 Handler", "4 Reply", "5 Answer", "7 Part")]
    assert shape.reasoned == ["server/a.py:9 Given", "server/a.py:11 Work"]
    assert measure({"web/a.py": source}).untyped == []


def test_the_report_shows_what_was_and_what_is() -> None:
    before = measure({"core/a.py": "x = 1\ny = 2\n", "old.py": "class A: ...", "wire/a.py": "class A: ..."})
    after = measure({"core/a.py": "x = 1\n"})
    lines = [" ".join(line.split()) for line in report(after, before).splitlines()]
    assert "core 2 -> 1 -1 0 -> 0 +0" in lines
    assert "wire 1 -> 0 -1 0 -> 0 +0" in lines
    assert "all 4 -> 1 -3 0 -> 0 +0" in lines
    assert "class names used twice: 1 -> 0 -1" in lines
    assert not before.wanted
    assert after.wanted
    assert "A: old.py:1, wire/a.py:1" in [" ".join(line.split()) for line in report(before).splitlines()]


def test_a_commit_is_read_without_a_checkout(tmp_path: Path) -> None:
    git = ("git", "-C", str(tmp_path), "-c", "user.name=t", "-c", "user.email=t@example.org")
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "pushserver/core").mkdir(parents=True)
    module = tmp_path / "pushserver/core/a.py"
    module.write_text("x = 1\n")
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "Plant it"], check=True)
    module.write_text("x = 2\n")
    assert at("HEAD", tmp_path) == {"core/a.py": "x = 1\n"}
    assert working_tree(tmp_path) == {"core/a.py": "x = 2\n"}


@pytest.fixture(scope="module")
def package() -> Shape:
    return measure(working_tree())


def test_the_package_has_nothing_of_what_is_unwanted(package: Shape) -> None:
    assert package.twice == {}
    assert package.wide == {}
    assert package.untyped == []


def test_what_is_excepted_is_still_there(package: Shape) -> None:
    """An exception that nothing needs any more is taken away."""
    sources = working_tree()
    for name, paths in PUBLIC_NAMES.items():
        assert all(f"\nclass {name}(" in sources[path] or f"\nclass {name}:" in sources[path] for path in paths), name
    public = {place.split(":")[0]: place.split()[1] for place in package.settings}
    assert public == PUBLIC_CLASSES
