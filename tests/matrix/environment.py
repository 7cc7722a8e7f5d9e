"""A virtual environment of its own for the frameworks that publish: none of them is the project's."""

from __future__ import annotations

import hashlib
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
