"""The ordinary suite against the newest or the oldest versions that ``setup.cfg`` allows.

    python -m tools.versions newest|oldest [--python 3.11 ...] [PYTEST-ARGUMENT ...]

With each Python from 3.11 to 3.13 on this machine, on the path or of pyenv, in an environment of its own
(``.venv-oldest-3.11``), which is made anew where ``setup.cfg`` has changed, or, for the newest, the day. What our
dependencies need in turn is always the newest that fits. Prints what was run with what, names each Python that is not
here, and ends with exit status 1 where an installation, ``pip check`` or a test fails, 77 where no Python is here.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from tools.bounds import SETUP, constraints, requirements

ROOT = SETUP.parent
PYTHONS = ("3.11", "3.12", "3.13")
KINDS = ("newest", "oldest")

#: The exit status of what cannot be run here, as automake has it.
CANNOT_RUN = 77

#: The ordinary suite, without what no version of a Python package can change.
ORDINARY = "not slow and not full and not browser"


def find(version: str) -> Path | None:
    """Return an interpreter of this version that runs, None where there is none."""
    name = f"python{version}"
    places = [Path(place) for place in os.get_exec_path()]
    places += sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin"), reverse=True)
    for place in places:
        # The path may hold a name that pyenv does not let run.
        if (place / name).is_file():
            asked = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
            if (
                subprocess.run([place / name, "-c", asked], capture_output=True, text=True, check=False).stdout.strip()
                == version
            ):
                return place / name
    return None


def run(python: Path, version: str, kind: str, arguments: list[str]) -> str:
    """Install and test with one Python; return ``passed`` or what failed."""
    place = ROOT / f".venv-{kind}-{version}"
    suite = ("-m", "pytest", "-q", "-m", ORDINARY, "-n", "3", "--dist", "worksteal", *arguments)
    try:
        install(python, place, kind)
        _show(place / "bin/python")
        for words in (("-m", "pip", "check"), suite):
            _call([str(place / "bin/python"), *words])
    except subprocess.CalledProcessError as problem:
        return f"failed: {' '.join(str(word) for word in problem.cmd[1:4])}: exit status {problem.returncode}"
    return "passed"


def _call(command: list[str]) -> None:
    """Run a command. One that is interrupted says what had failed before it goes."""
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if status:
        raise subprocess.CalledProcessError(status, command)


def main() -> int:
    options = argparse.ArgumentParser(
        prog="python -m tools.versions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("kind", choices=KINDS)
    options.add_argument("--python", action="append", choices=PYTHONS, help="repeatable; default: all that are here")
    given, arguments = options.parse_known_args()
    verdicts = {}
    for version in PYTHONS:
        python = find(version)
        if python is None or (given.python and version not in given.python):
            reason = "not on this machine" if python is None else "not asked for"
            print(f"left out: {given.kind} versions with Python {version}: {reason}", flush=True)
            continue
        print(f"-- {given.kind} versions, Python {version}", flush=True)
        verdicts[version] = run(python, version, given.kind, arguments)
    for version, verdict in verdicts.items():
        print(f"{given.kind} versions with Python {version}: {verdict}")
    if not verdicts:
        return CANNOT_RUN
    return 0 if set(verdicts.values()) == {"passed"} else 1


def install(interpreter: Path, place: Path, kind: str) -> None:
    """Make or bring up to date an environment. Raises CalledProcessError."""
    text = SETUP.read_text()
    today = time.strftime("%Y-%m-%d", time.gmtime()) if kind == "newest" else ""
    wanted = hashlib.sha256(f"{interpreter} {place} {today} {text}".encode()).hexdigest()
    stamp, python = place / ".installed", place / "bin/python"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    shutil.rmtree(place, ignore_errors=True)
    subprocess.run([interpreter, "-m", "venv", place], cwd=ROOT, check=True)
    held = place / "constraints.txt"
    held.write_text("\n".join(constraints(text)) if kind == "oldest" else "")
    pip = (python, "-m", "pip", "--disable-pip-version-check", "install", "--no-input", "--quiet")
    subprocess.run([*pip, "--constraint", held, "--editable", ".[dev]"], cwd=ROOT, check=True)
    # Written now, so that no test finds it being written.
    subprocess.run([place / "bin/twistd", "--help"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    stamp.write_text(wanted)


def _show(python: Path) -> None:
    """Print the versions of what we require."""
    names = {requirement.name.lower().replace("_", "-") for requirement in requirements(SETUP.read_text())}
    words = ("-m", "pip", "--disable-pip-version-check", "list", "--format=freeze")
    listed = subprocess.run([python, *words], capture_output=True, text=True, check=True).stdout.split()
    there = [line for line in listed if line.partition("==")[0].lower().replace("_", "-") in names]
    print(", ".join(line.replace("==", " ") for line in there), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
