"""The ordinary suite: one run, and a second look at a few that failed in it.

    python -m tools.ordinary PYTEST-ARGUMENT ...

Where at most `FEW` tests failed, they run once more, by themselves and not beside others. One that fails again ends
this with exit status 1. One that passes then stands by name in the last lines: it is a fault of the test or of the
server that shows on a busy machine alone, and it is mended like any other, but it says nothing of the change at hand.
CPython's own suite does the same (``python -m test --rerun``). `make coverage` and `make full` take no second look.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

#: More failures than this are no accident.
FEW = 3


class Failures:
    """A plugin of pytest that remembers which tests failed, in their own part, before or after it."""

    def __init__(self) -> None:
        self.tests: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and report.nodeid not in self.tests:
            self.tests.append(report.nodeid)


def main(arguments: Sequence[str]) -> int:
    failures = Failures()
    status = int(pytest.main(list(arguments), plugins=[failures]))
    if status != pytest.ExitCode.TESTS_FAILED or len(failures.tests) > FEW:
        return status
    print(f"-- once more, by themselves: {len(failures.tests)}", flush=True)
    # In a process of its own: as little as possible of the first run is left.
    again = subprocess.run([sys.executable, "-m", "pytest", "-q", *_seed(arguments), *failures.tests], check=False)
    if again.returncode == 0:
        print("-- failed beside others and passed alone; to be mended:", *failures.tests, sep="\n   ", flush=True)
    return again.returncode


def _seed(arguments: Sequence[str]) -> list[str]:
    return [argument for argument in arguments if argument.startswith("--hypothesis-seed=")]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
