from __future__ import annotations

from twisted.internet import task

from pushserver.core.histogram import Histogram
from pushserver.server.clock import Clock
from pushserver.server.reactor_lag import EVERY, ReactorLag


def test_a_turn_that_takes_long_is_seen_as_lag() -> None:
    reactor, histogram = task.Clock(), Histogram()
    lag = ReactorLag(Clock(reactor), histogram)
    lag.start()
    reactor.advance(EVERY)
    reactor.advance(EVERY + 0.3)
    assert histogram.count == 2
    assert round(histogram.sum, 6) == 0.3
    lag.stop()
    lag.stop()
    assert reactor.getDelayedCalls() == []
