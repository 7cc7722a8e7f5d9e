"""The shape of the package, read from its source: what grows unseen.

    python -m tools.shape [COMMIT]

Prints, of the working tree, or of a commit and the working tree (``before -> after``):

- lines by folder, without blank lines, comments and docstrings; docstrings beside them;
- class names that two modules use. Not counted: the same name in ``engine/embedded`` and ``engine/redis``, and in the
  two client shells, ``client/aio`` and ``client/tx``; nor the public names of `PUBLIC_NAMES`; nor what is named as in
  another project's protocol (`FOREIGN`);
- constructors of collaborators that take more than seven parameters. Values are apart: frozen dataclasses, named
  tuples, enumerations, msgspec's structs. The keyword-only settings of the classes that users make, `PUBLIC_CLASSES`,
  are counted apart;
- ``Any`` in the signatures of ``server/``, ``engine/`` and ``app/``, where there are such folders, and in names for
  types there, which would hide it from the signatures. One that stands with its reason, a comment ``# Any: …`` in the
  signature, or in or above the name's line, is counted apart.

What is wanted is none of the last three: exit status 1 where the working tree has any. With ``--lines`` only the lines
are printed.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tokenize
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "pushserver"

#: Parameters that a collaborator's constructor may take.
PARAMETERS = 7

#: Places that may use a class name once each.
TWINS = (("engine/embedded", "engine/redis"), ("client/aio", "client/tx"))

#: Modules that name messages as another project's protocol definition does.
FOREIGN = ("protocols/centrifuge/messages.py",)

#: Public names of the Python client and the publisher, and one of Twisted's for a plugin: each is what its users write,
#: and the server has the same thing, or another one, under the field's word for it.
PUBLIC_NAMES = {
    "InboxChange": ("client/messages.py", "core/inbox.py", "publisher/receipts.py"),
    "InboxPage": ("client/messages.py", "engine/interfaces.py", "publisher/receipts.py"),
    "Options": ("client/state.py", "tap.py"),
    "Position": ("client/messages.py", "core/positions.py"),
    "Presence": ("client/messages.py", "server/presence.py"),
    "TaskState": ("client/messages.py", "core/task.py"),
    "Unread": ("client/messages.py", "core/inbox.py", "publisher/receipts.py"),
}

#: Classes that users make, by module: their keyword-only parameters are settings with defaults, of which a user writes
#: two or three by name. `PublisherBase` is what `Publisher` and `AsyncPublisher` are made with.
PUBLIC_CLASSES = {
    "client/aio.py": "Client",
    "client/tx.py": "ClientService",
    "publisher/core.py": "PublisherBase",
}

#: Folders whose signatures say what they take.
TYPED = ("server", "engine", "app")

#: What makes a class a value: these bases, or the decorator `dataclass` with ``frozen=True``.
VALUES = {"Struct", "NamedTuple", "Enum", "IntEnum", "StrEnum", "Flag", "IntFlag", "TypedDict"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Shape:
    """What was counted. Places are ``path:line``, paths below the package."""

    #: lines of code, and lines of docstrings, by folder
    lines: Counter[str] = field(default_factory=Counter)
    docstrings: Counter[str] = field(default_factory=Counter)
    #: places of each class name that is used twice where it should not be
    twice: dict[str, list[str]] = field(default_factory=dict)
    #: parameters of each constructor with too many, by place and name
    wide: dict[str, int] = field(default_factory=dict)
    #: keyword-only settings of each class that users make, by place and name
    settings: dict[str, int] = field(default_factory=dict)
    #: functions with `Any` in their signatures, by place and name: without a reason, and with one
    untyped: list[str] = field(default_factory=list)
    reasoned: list[str] = field(default_factory=list)

    @property
    def wanted(self) -> bool:
        return not (self.twice or self.wide or self.untyped)


def measure(sources: Mapping[str, str]) -> Shape:
    """Return the shape of modules, given as text by their paths below the package."""
    shape = Shape()
    trees = {path: ast.parse(text) for path, text in sorted(sources.items())}
    values = _values(trees.values())
    names: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees.items():
        folder = PurePosixPath(path).parent.as_posix()
        documented = _docstrings(tree)
        shape.docstrings[folder] += len(documented)
        shape.lines[folder] += len(_code(sources[path]) - documented)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                if path not in FOREIGN:
                    names[node.name].append(f"{path}:{node.lineno}")
                wide = 0 if node.name in values else _parameters(node)
                place = f"{path}:{node.lineno} {node.name}"
                if PUBLIC_CLASSES.get(path) == node.name:
                    shape.settings[place] = _settings(node)
                    wide -= shape.settings[place]
                if wide > PARAMETERS:
                    shape.wide[place] = wide
            elif isinstance(node, Function) and path.split("/")[0] in TYPED and _has_any(node):
                signature = "\n".join(sources[path].splitlines()[node.lineno - 1 : node.body[0].lineno])
                where = shape.reasoned if "# Any: " in signature else shape.untyped
                where.append(f"{path}:{node.lineno} {node.name}")
        if path.split("/")[0] in TYPED:
            for name, statement in _aliases(tree):
                lines = sources[path].splitlines()[max(0, statement.lineno - 2) : statement.end_lineno]
                where = shape.reasoned if any("# Any: " in line for line in lines) else shape.untyped
                where.append(f"{path}:{statement.lineno} {name}")
    shape.twice = {name: places for name, places in sorted(names.items()) if not _allowed(name, places)}
    return shape


def _code(text: str) -> set[int]:
    """Return the numbers of the lines that hold code, docstrings included."""
    empty = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    numbers: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in empty:
            numbers.update(range(token.start[0], token.end[0] + 1))
    return numbers


def _docstrings(tree: ast.Module) -> set[int]:
    numbers: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | Function) and ast.get_docstring(node, clean=False) is not None:
            end = node.body[0].end_lineno
            assert end is not None
            numbers.update(range(node.body[0].lineno, end + 1))
    return numbers


def _last(node: ast.expr) -> str:
    """Return the last name of a dotted one, of a call's function, or of what is subscripted."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return _last(inner)
    return ""


def _values(trees: Iterable[ast.Module]) -> set[str]:
    """Return the names of the classes that are values, those that derive from one of ours included."""
    bases: dict[str, set[str]] = {}
    values = set(VALUES)
    for tree in trees:
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases.setdefault(node.name, set()).update(_last(base) for base in node.bases)
                if any(_is_frozen(decorator) for decorator in node.decorator_list):
                    values.add(node.name)
    while more := {name for name, above in bases.items() if above & values} - values:
        values |= more
    return values


def _is_frozen(decorator: ast.expr) -> bool:
    return isinstance(decorator, ast.Call) and any(
        keyword.arg == "frozen" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        for keyword in decorator.keywords
    )


def _parameters(node: ast.ClassDef) -> int:
    """Return how many parameters the constructor takes: that of ``__init__``, or the fields of a dataclass."""
    for statement in node.body:
        if isinstance(statement, Function) and statement.name == "__init__":
            given = statement.args
            starred = (given.vararg is not None) + (given.kwarg is not None)
            return len(given.posonlyargs) + len(given.args) - 1 + len(given.kwonlyargs) + starred
    if any(_last(decorator) in ("dataclass", "define", "attrs") for decorator in node.decorator_list):
        return sum(_is_parameter(statement) for statement in node.body)
    return 0


def _settings(node: ast.ClassDef) -> int:
    """Return how many of the constructor's parameters are given by keyword alone."""
    made = (part for part in node.body if isinstance(part, Function) and part.name == "__init__")
    return sum(len(constructor.args.kwonlyargs) for constructor in made)


def _is_parameter(statement: ast.stmt) -> bool:
    """Whether a statement of a dataclass' body is a field that its constructor takes."""
    if not isinstance(statement, ast.AnnAssign) or _last(statement.annotation) == "ClassVar":
        return False
    made = statement.value
    return not (
        isinstance(made, ast.Call)
        and any(k.arg == "init" and isinstance(k.value, ast.Constant) and not k.value.value for k in made.keywords)
    )


def _has_any(node: Function) -> bool:
    given = node.args
    arguments = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    notes = [argument.annotation for argument in arguments if argument is not None] + [node.returns]
    return any(_last(part) == "Any" for note in notes if note is not None for part in _parts(note))


def _aliases(tree: ast.Module) -> Iterator[tuple[str, ast.stmt]]:
    """Names for types that have `Any` in them, at the top of a module or of a class: ``A = …``, also as a `TypeAlias`,
    and an import under another name."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    for statement in (statement for holder in (tree, *classes) for statement in holder.body):
        match statement:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(
                    target=ast.Name(id=name),
                    annotation=ast.Name(id="TypeAlias") | ast.Attribute(attr="TypeAlias"),
                    value=ast.expr() as value,
                )
            ) if not isinstance(value, ast.Call) and any(_last(part) == "Any" for part in _parts(value)):
                yield name, statement
            case ast.ImportFrom(module="typing", names=names):
                for each in names:
                    if each.name == "Any" and each.asname not in (None, "Any"):
                        yield each.asname or "", statement


def _parts(note: ast.expr) -> Iterator[ast.expr]:
    """Every expression of an annotation, also of one in quotes."""
    for part in ast.walk(note):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            try:
                yield from _parts(ast.parse(part.value, mode="eval").body)
            except SyntaxError:
                continue
        elif isinstance(part, ast.Name | ast.Attribute):
            yield part


def _allowed(name: str, places: list[str]) -> bool:
    if len(places) < 2 or tuple(place.partition(":")[0] for place in places) == PUBLIC_NAMES.get(name):
        return True
    for twins in TWINS:
        ours = {twin: tuple(f"{twin}{end}" for end in "/._") for twin in twins}
        homes = [next((twin for twin in twins if place.startswith(ours[twin])), "") for place in places]
        if "" not in homes and len(set(homes)) == len(homes):
            return True
    return False


def working_tree(root: Path = ROOT) -> dict[str, str]:
    """Return the text of each module of the package by its path below it."""
    package = root / PACKAGE
    return {path.relative_to(package).as_posix(): path.read_text() for path in package.rglob("*.py")}


def at(commit: str, root: Path = ROOT) -> dict[str, str]:
    """The same of a commit. Raises CalledProcessError where there is no such commit."""
    listed = _git(root, "ls-tree", "-r", "-z", "--name-only", "--end-of-options", commit, f"{PACKAGE}/").split("\0")
    paths = [path for path in listed if path.endswith(".py")]
    return {path.removeprefix(f"{PACKAGE}/"): _git(root, "show", f"{commit}:{path}") for path in paths}


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True, check=True).stdout


def report(after: Shape, before: Shape | None = None, lines_only: bool = False) -> str:
    """Return the shape as text, beside what it was where that is given."""

    def figures(now: int, was: int | None) -> str:
        return f"{now:7}" if was is None else f"{was:7} -> {now:<7} {now - was:+}"

    folders = sorted(after.lines.keys() | (before.lines.keys() if before else set()))
    out = ["lines of code (docstrings beside them)"]
    for folder in [*folders, None]:
        counts = []
        for part in ("lines", "docstrings"):
            now, was = getattr(after, part), getattr(before, part, None)
            new = now[folder] if folder else sum(now.values())
            old = None if was is None else was[folder] if folder else sum(was.values())
            counts.append(figures(new, old))
        out.append(f"  {folder or 'all':24}{counts[0]:28}{counts[1]}".rstrip())
    if lines_only:
        return "\n".join(out)
    for title, part in (
        ("class names used twice", "twice"),
        (f"constructors of collaborators with more than {PARAMETERS} parameters", "wide"),
        ("classes that users make, with keyword-only settings", "settings"),
        (f"`Any` in signatures of {', '.join(TYPED)}", "untyped"),
        ("the same, with its reason", "reasoned"),
    ):
        count = figures(len(getattr(after, part)), len(getattr(before, part)) if before else None)
        out.append(f"{title}: {count.strip()}")
    out += [f"  {name}: {', '.join(places)}" for name, places in after.twice.items()]
    out += [f"  {place}: {count} parameters" for place, count in after.wide.items()]
    out += [f"  {place}: {count} settings" for place, count in after.settings.items()]
    out += [f"  {place}: Any" for place in after.untyped]
    return "\n".join(out)


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tools.shape", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("commit", nargs="?", help="what to compare with")
    options.add_argument("--lines", action="store_true")
    given = options.parse_args()
    after, before = measure(working_tree()), None
    if given.commit is not None:
        try:
            before = measure(at(given.commit))
        except subprocess.CalledProcessError:
            print(f"no such commit: {given.commit}")
            return 1
    print(report(after, before, given.lines))
    return 0 if given.lines or after.wanted else 1


if __name__ == "__main__":
    raise SystemExit(main())
