"""Known advisories of what is installed: ``make audit``. Exit status 1 where one is found, 0 where none is.

A registry that gives no answer is named, and is no verdict: exit status 2. So is what is left out where npm is missing.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 300


def _run(*command: str, cwd: Path = ROOT) -> tuple[int, str, str]:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return -1, "", str(problem)
    return done.returncode, done.stdout, done.stderr


def python() -> tuple[str, int | None]:
    """Return what to say of the Python packages, and how many advisories there are; None where nobody knows."""
    auditor = ROOT / "build" / "audit" / "bin" / "pip-audit"
    installed = sysconfig.get_paths()["purelib"]
    status, said, why = _run(str(auditor), "--path", installed, "--format", "json", "--progress-spinner", "off")
    try:
        packages = json.loads(said)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return f"python: no answer ({_last(why) or f'status {status}'})", None
    found = [(p["name"], p.get("version", "?"), v["id"]) for p in packages for v in p.get("vulns", ())]
    lines = [f"python: {name} {version}: {advisory}" for name, version, advisory in found]
    return "\n".join(lines or [f"python: {len(packages)} packages, no advisory"]), len(found)


def node(folder: Path) -> tuple[str, int | None]:
    """The same of a folder with a package.json."""
    name = str(folder.relative_to(ROOT))
    status, said, why = _run("npm", "audit", "--json", cwd=folder)
    try:
        answer = json.loads(said)
        counts = answer["metadata"]["vulnerabilities"]
    except ValueError:
        return f"{name}: no answer ({_last(why) or f'status {status}'})", None
    except (KeyError, TypeError):
        return f"{name}: no answer (the registry says {answer.get('statusCode', 'nothing')})", None
    return f"{name}: {counts['total']} advisories", int(counts["total"])


def packages() -> list[Path]:
    """Return the folders whose npm packages are locked to versions, in order."""
    listed = subprocess.run(
        ("git", "ls-files", "*package-lock.json"), cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    return [(ROOT / line).parent for line in listed.splitlines()]


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line]
    # An address of a registry is nobody's business.
    return lines[-1].split("http")[0][:120] if lines else ""


def main() -> int:
    answers = [python()]
    if shutil.which("npm") is not None:
        answers += [node(folder) for folder in packages()]
    else:
        answers += [(f"left out: {folder.relative_to(ROOT)}: npm is missing", None) for folder in packages()]
    for line, _ in answers:
        print(line)
    if any(count for _, count in answers):
        return 1
    return 2 if any(count is None for _, count in answers) else 0


if __name__ == "__main__":
    sys.exit(main())
