from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import coverage

from tests.harness import ROOT

# What twistd does at its end, see twisted.application.app.
ENDS_AS_TWISTD = """
import os, signal
import pushserver.core.errors
signal.signal(signal.SIGTERM, signal.SIG_DFL)
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_process_that_ends_itself_by_a_signal_is_measured(tmp_path: Path) -> None:
    (tmp_path / "ends.py").write_text(ENDS_AS_TWISTD)
    data = tmp_path / "data"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        [sys.executable, "-m", "coverage", "run", f"--rcfile={ROOT}/pyproject.toml", f"--data-file={data}", "ends.py"],
        cwd=tmp_path,
        env={**environ, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    assert done.returncode == -signal.SIGTERM
    (written,) = tmp_path.glob("data.*")
    measured = coverage.CoverageData(str(written))
    measured.read()
    assert str(ROOT / "pushserver" / "core" / "errors.py") in measured.measured_files()
