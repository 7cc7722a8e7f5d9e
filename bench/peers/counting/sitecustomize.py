"""Counts the calls of a server's main thread, from SIGUSR2 on until it comes again: then they are written.

Python imports this at its start where the folder stands in PYTHONPATH.
"""

from __future__ import annotations

import cProfile
import os
import signal

_profile = cProfile.Profile()
_counts = False


def _turn(*_: object) -> None:
    global _counts
    _counts = not _counts
    if _counts:
        _profile.enable()
    else:
        _profile.disable()
        file = os.environ["BENCH_CALLS"]
        _profile.dump_stats(f"{file}.part")
        os.replace(f"{file}.part", file)


# An interpreter that is started for something else counts nothing.
if "BENCH_CALLS" in os.environ:
    signal.signal(signal.SIGUSR2, _turn)
