"""Makes a server on Twisted slower by a tenth: of what it has used of the CPU, each turn of its reactor wastes as much.

Python imports this at its start where the folder stands in PYTHONPATH.
"""

from __future__ import annotations

import time

from twisted.internet.epollreactor import EPollReactor

PART = 0.1

_turn = EPollReactor.doPoll
_used = time.process_time()


def _slower(reactor: EPollReactor, timeout: float) -> None:
    global _used
    now = time.process_time()
    end = now + (now - _used) * PART
    while (_used := time.process_time()) < end:
        pass
    _turn(reactor, timeout)


EPollReactor.doPoll = EPollReactor.doIteration = _slower
