"""What the peers of the proof do to a server on Twisted."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bench.servers import PEERS

#: Says how many times the CPU that its calls have used a reactor has used in all.
PROGRAM = """
import time
from twisted.internet import reactor

used = 0.0

def work(times):
    global used
    began = time.process_time()
    while time.process_time() < began + 0.01:
        pass
    used += time.process_time() - began
    if times:
        reactor.callLater(0, work, times - 1)
    else:
        reactor.stop()

reactor.callWhenRunning(work, 40)
began = time.process_time()
reactor.run()
print((time.process_time() - began) / used)
"""


@pytest.mark.parametrize(("path", "least", "most"), [("", 1.0, 1.05), (str(PEERS / "slower"), 1.08, 1.16)])
def test_a_slower_reactor_wastes_a_tenth(path: str, least: float, most: float) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env={"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert least <= float(done.stdout) <= most
