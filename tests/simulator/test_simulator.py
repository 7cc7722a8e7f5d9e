"""Fresh seeds hold what is promised, and a seed is the same run each time."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

#: How long fresh seeds are tried, s, and how many at most.
SECONDS = float(os.environ.get("SIMULATOR_SECONDS", "25"))
#: Beyond this the machine is not ours, or a run does not end, s.
DEADLINE = 240


def simulate(*words: str, hashes: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"PYTHONHASHSEED": hashes} if hashes else {})
    command = [sys.executable, "-m", "tests.simulator", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE, env=environment)


def test_fresh_seeds_hold_what_is_promised() -> None:
    seed = os.environ.get("SEED")
    words = ["--from", seed] if seed is not None else []
    done = simulate(*words, "--seeds", "100000", "--seconds", str(SECONDS))
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    tried = re.search(r"^(\d+) seeds, 0 of them", done.stdout, re.MULTILINE)
    assert tried is not None
    assert int(tried[1]) >= 5


def test_a_seed_gives_the_same_bytes_each_time(tmp_path: Path) -> None:
    for number, hashes in enumerate(("1", "77")):
        words = ["--from", "4", "--seeds", "1", "--faults", "8", "--history", str(tmp_path / str(number))]
        done = simulate(*words, hashes=hashes)
        assert done.returncode == 0, done.stdout + done.stderr
    first, second = ((tmp_path / name).read_bytes() for name in "01")
    assert first == second
    assert len(first) > 50_000
