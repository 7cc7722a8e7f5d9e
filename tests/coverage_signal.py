"""A plugin of coverage.py: a process that ends itself by a signal writes what was measured first.

``twistd`` ends by resetting the handler of the signal that stopped it and sending it to itself, which skips every
other way that coverage has of noticing the end.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import coverage


def coverage_init(registry: Any, options: dict[str, Any]) -> None:
    """Called by coverage.py as it starts in each process."""
    sys.addaudithook(_save_before_the_end)


def _save_before_the_end(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "os.kill" and arguments[0] == os.getpid():
        current = coverage.Coverage.current()
        if current is not None:
            current.stop()
            current.save()
