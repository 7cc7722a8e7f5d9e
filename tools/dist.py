"""What is given to others, in ``dist/``: a wheel and an sdist for pip, a tarball for npm.

    python -m tools.dist        make dist

It builds in a copy, ``build/dist``, so that a checkout goes on serving its sources. There Node makes the browser client
(tools/node/build.mjs) into ``pushserver/web/dist``, which is a part of both packages: who installs them needs no Node.
Then it asks those who judge packages: twine, publint, arethetypeswrong. Exit status 1 where one has an objection.
"""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from pushserver import __version__
from pushserver.web.npm_package import tar
from pushserver.web.static_files import walk

ROOT = Path(__file__).resolve().parent.parent
NODE = ROOT / "tools" / "node"

#: What the packages are made from.
FOLDERS = ("pushserver", "twisted")
FILES = ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")

#: Where the built files lie in the package.
BUILT = Path("pushserver", "web", "dist")


class Packages(NamedTuple):
    """The three files."""

    sdist: Path
    wheel: Path
    npm: Path


def copy_sources(target: Path) -> None:
    """Copy what the packages are made from, without what running it has left."""
    ignored = shutil.ignore_patterns("__pycache__", "dropin.cache", "dist")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, target)


def build_files(source: Path) -> Path:
    """Make ``pushserver/web/dist`` in a copy of the sources, and return the npm package in it."""
    built = source / BUILT
    _run("node", NODE / "build.mjs", "client", built.parent / "static", built)
    package = built / "pushclient.tgz"
    # What lies in one wheel is the same everywhere, so zlib may do here as it likes.
    package.write_bytes(gzip.compress(tar(walk(built / "pushclient")), 9, mtime=0))
    _run("node", NODE / "build.mjs", "encode", built)
    return package


def build_python(source: Path, output: Path) -> tuple[Path, Path]:
    """Make an sdist, and the wheel from that sdist, into an empty folder."""
    # Without isolation: setuptools is here already, and need not be fetched again.
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, source)
    (sdist,), (wheel,) = output.glob("*.tar.gz"), output.glob("*.whl")
    return sdist, wheel


def build(place: Path, output: Path) -> Packages:
    """Make the three packages, with what is on the way to them in ``place``; both folders begin empty."""
    for folder in (place, output):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    copy_sources(place)
    package = build_files(place)
    sdist, wheel = build_python(place, output)
    return Packages(sdist, wheel, Path(shutil.copy(package, output / f"pushclient-{__version__}.tgz")))


def judge(packages: Packages) -> None:
    """Ask the judges of both registries. Raises `subprocess.CalledProcessError` at the first objection."""
    programs = NODE / "node_modules" / ".bin"
    _run(sys.executable, "-m", "twine", "check", "--strict", packages.sdist, packages.wheel)
    _run(programs / "publint", "run", "--strict", packages.npm)
    # A worker's script is loaded by its address: nobody requires it.
    _run(programs / "attw", "--exclude-entrypoints", "worker", "--no-color", "--no-emoji", packages.npm)


def _run(*command: str | Path) -> None:
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def main() -> int:
    try:
        packages = build(ROOT / "build" / "dist", ROOT / "dist")
        judge(packages)
    except subprocess.CalledProcessError as failed:
        print(f"{failed.stdout}failed: {' '.join(map(str, failed.cmd))}", file=sys.stderr)
        return 1
    for package in packages:
        print(f"{package.stat().st_size:9,} {package.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
