"""What the matrix needs beside the project: the frameworks that publish, in an environment of their own; Node twice."""

from __future__ import annotations

import hashlib
import platform
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLACE = ROOT / ".venv-matrix"
FRAMEWORKS = ("rq", "celery[redis]", "gevent", "dramatiq[redis]", "huey", "gunicorn", "uwsgi", "django")


def python() -> Path:
    """Return the environment's interpreter, made and filled where it is not yet."""
    interpreter = PLACE / "bin" / "python"
    wanted = hashlib.sha256(repr((FRAMEWORKS, sys.version, (ROOT / "setup.cfg").read_text())).encode()).hexdigest()
    stamp = PLACE / ".installed"
    if not stamp.exists() or stamp.read_text() != wanted:
        sys.stdout.write("-- making .venv-matrix with the frameworks\n")
        sys.stdout.flush()
        venv.create(PLACE, clear=True, with_pip=True)
        command = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]
        subprocess.run([*command, "--editable", f"{ROOT}[publisher]", *FRAMEWORKS], check=True)
        stamp.write_text(wanted)
    return interpreter


def node(major: int) -> Path:
    """Return Node of this major version; npm has it as a package."""
    place = PLACE / f"node-{major}"
    program = place / "node_modules" / "node" / "bin" / "node"
    if not program.exists():
        machine = {"x86_64": "x64", "aarch64": "arm64"}[platform.machine()]
        package = f"node@npm:node-linux-{machine}@{major}"
        command = ["npm", "install", "--prefix", str(place), "--no-audit", "--no-fund", "--ignore-scripts", "--silent"]
        place.mkdir(parents=True, exist_ok=True)
        subprocess.run([*command, package], check=True)
    return program


def browsers() -> None:
    """See to it that both browsers are here."""
    subprocess.run(["bash", str(ROOT / "tools" / "packages.sh"), "firefox-esr:firefox-esr"], check=True)
