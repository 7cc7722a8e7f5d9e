"""The versions that ``setup.cfg`` allows: the oldest as a constraints file for pip, and what has no bound.

python -m tools.bounds            prints the constraints: every requirement, extras included, at its lower bound
python -m tools.bounds --check    names each requirement without a lower or an upper bound; exit status 1 for any
"""

from __future__ import annotations

import argparse
import configparser
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

SETUP = Path(__file__).resolve().parent.parent / "setup.cfg"


def requirements(text: str) -> Iterator[Requirement]:
    """What the project needs from others by a ``setup.cfg``: to run first, then each extra. Itself is left out."""
    setup = configparser.ConfigParser(interpolation=None)
    setup.read_string(text)
    lists = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    for line in "\n".join(lists).splitlines():
        if line.strip():
            requirement = Requirement(line)
            if requirement.name != setup["metadata"]["name"]:
                yield requirement


def oldest(requirement: Requirement) -> str | None:
    """Return the version of the lower bound (``>=``), None where there is none."""
    return next((bound.version for bound in requirement.specifier if bound.operator == ">="), None)


def newest(requirement: Requirement) -> str | None:
    """Return the version that the requirement excludes with everything after it (``<``), None where there is none."""
    return next((bound.version for bound in requirement.specifier if bound.operator == "<"), None)


def constraints(text: str) -> list[str]:
    """Return a line for each requirement that holds it at its lower bound. Raises ValueError where one has none."""
    lines = []
    for requirement in requirements(text):
        version = oldest(requirement)
        if version is None:
            raise ValueError(f"{requirement.name} has no lower bound")
        lines.append(f"{requirement.name} == {version}")
    return sorted(lines)


def unbounded(text: str) -> list[str]:
    """Return a line for each bound that is missing."""
    missing = []
    for requirement in requirements(text):
        missing += [f"{requirement.name}: no lower bound"] if oldest(requirement) is None else []
        missing += [f"{requirement.name}: no upper bound"] if newest(requirement) is None else []
    return missing


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tools.bounds", description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--check", action="store_true", help="name what has no bound, instead")
    given = options.parse_args()
    text = SETUP.read_text()
    if given.check:
        missing = unbounded(text)
        print("\n".join(missing or ["every requirement is bounded below and above"]))
        return 1 if missing else 0
    print("\n".join(constraints(text)))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
