"""A tree of this project's source with the environment that runs it: the working tree, or a commit built for itself.

Nothing of either is imported here: a tree is known by its folder and by the commands in its environment.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

#: Where commits are built, each once.
BUILT = ROOT / "build" / "trees"

#: Seconds that one command of a build may take.
PATIENCE = 600


class CannotBuild(Exception):
    """A commit cannot be had, built or run; the message is one line."""


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree of source, and the interpreter of the environment in which it is installed."""

    name: str
    root: Path
    python: Path

    @property
    def twistd(self) -> Path:
        return self.python.with_name("twistd")

    def check(self) -> None:
        """Raises CannotBuild where this environment runs something else than this tree, or has no such command."""
        code = "import pushserver; print(pushserver.__file__)"
        where = Path(_run(self.python, "-c", code, cwd=self.root.parent).strip())
        if not where.is_relative_to(self.root / "pushserver"):
            raise CannotBuild(f"{self.name}: its environment runs pushserver from {where.parent}, not from {self.root}")
        if "pushserver" not in _run(self.twistd, "--help", cwd=self.root.parent):
            raise CannotBuild(f"{self.name}: its twistd does not know pushserver")

    def versions(self) -> dict[str, str]:
        """Return the version of each package in the environment."""
        listed = _run(self.python, "-m", "pip", "--disable-pip-version-check", "list", "--format=freeze")
        return dict(line.split("==") for line in listed.splitlines() if "==" in line)


#: What runs here, in the environment of the interpreter that runs this.
WORKING_TREE = Tree("working tree", ROOT, Path(sys.executable))


def build(commit: str, repository: Path = ROOT, place: Path = BUILT) -> Tree:
    """Return the tree of a commit of the repository, with an environment made as its own ``setup.cfg`` says.

    It is kept under its hash and the interpreter's version: the second call is quick. Raises CannotBuild.
    """
    try:
        number = _run(
            "git", "rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}", cwd=repository
        ).strip()
    except CannotBuild:
        raise CannotBuild(f"{commit}: no such commit") from None
    version = hashlib.sha256(sys.version.encode()).hexdigest()[:8]
    home = place / f"{number[:12]}-{version}"
    tree = Tree(number[:7], home / "tree", home / "venv" / "bin" / "python")
    done = home / "done"
    with _alone(place):
        if not done.exists():
            shutil.rmtree(home, ignore_errors=True)
            try:
                _make(number, repository, home, tree)
            except CannotBuild as problem:
                shutil.rmtree(home, ignore_errors=True)
                raise CannotBuild(f"{tree.name}: {problem}") from None
            done.touch()
    tree.check()
    return tree


def _make(number: str, repository: Path, home: Path, tree: Tree) -> None:
    tree.root.mkdir(parents=True)
    archive = home / "tree.tar"
    _run("git", "archive", f"--output={archive}", number, cwd=repository)
    _run("tar", "-xf", archive, "-C", tree.root)
    archive.unlink()
    _run(sys.executable, "-m", "venv", home / "venv")
    install = (tree.python, "-m", "pip", "--disable-pip-version-check", "install", "--no-input", "--quiet")
    _run(*install, "--editable", ".", cwd=tree.root)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """One build at a time in this place."""
    place.mkdir(parents=True, exist_ok=True)
    with open(place / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(*command: str | Path, cwd: Path = ROOT) -> str:
    """Return what a command printed. Raises CannotBuild with the last line of what went wrong."""
    words = [str(word) for word in command]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise CannotBuild(f"{words[0]}: {problem}") from None
    if done.returncode:
        said = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        what = " ".join([Path(words[0]).name, *words[1:4]])
        raise CannotBuild(f"{what}: {said[-1] if said else f'exit status {done.returncode}'}")
    return done.stdout
