"""What nodes send Redis: the commands and scripts of simulated runs, with their arguments.

    python -m tests.simulator.calls SEED COUNT FILE

The file is JSON: for each of so many runs a list of commands, each a list of texts (octets as Latin-1). In ``EVALSHA``
the script's name stands in place of its digest.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from pushserver.engine.redis.scripts import load

from .plan import make
from .redis.commands import COMMANDS
from .run import Run
from .suite import silence


def calls_of(seed: int) -> list[list[str]]:
    """Return the commands of one run without faults, in the order in which Redis carried them out."""
    names = {script.digest.encode(): name for name, script in load().items()}
    found: list[list[str]] = []

    def see(parts: Sequence[bytes]) -> None:
        name = parts[0].upper()
        if name == b"EVALSHA":
            found.append(["EVALSHA", names[parts[1]], *(part.decode("latin-1") for part in parts[2:])])
        elif name in COMMANDS:
            found.append([part.decode("latin-1") for part in parts])

    plan = make(seed, 80, 0)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(plan, Path(folder))
        run.redis.model.see = see
        run.run()
    return found


def main(words: list[str]) -> int:
    first, count, file = int(words[0]), int(words[1]), Path(words[2])
    silence()
    runs: list[list[list[str]]] = []
    for seed in range(first, first + 1000):
        # A node with a store of its own asks nothing.
        if len(runs) < count and make(seed, 80, 0).settings["engine"]["kind"] == "redis":
            runs.append(calls_of(seed))
    file.write_text(json.dumps(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
