"""What is left of a call over HTTP that is refused, or whose body does not come: nothing, and by reference counts."""

from __future__ import annotations

import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from tests.fakes import Rig
from tests.web.paper_http import KEY, Exchange, PaperHttp


@pytest_twisted.async_yield_fixture
async def http(tmp_path: Path) -> AsyncIterator[PaperHttp]:
    rig = await Rig(tmp_path, "").start()
    yield PaperHttp(rig)
    await rig.stop()


@pytest.fixture(autouse=True)
def no_rounds() -> Iterator[None]:
    """None waits for the collector's round over all that is kept, which may be hours away."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Begun:
    """A connection on which a request has begun."""

    def __init__(self, http: PaperHttp, line: bytes) -> None:
        self.exchange = Exchange(http.site)
        self.exchange.channel.dataReceived(line + b"\r\nHost: push.example\r\n")
        channel: Any = self.exchange.channel
        self._of_it = [weakref.ref(each) for each in (channel, channel.requests[0])]

    def send(self, rest: bytes) -> None:
        self.exchange.channel.dataReceived(rest)

    def vanish(self) -> list[Any]:
        """Lose the connection; return what is left."""
        self.exchange.vanish()
        # As a socket does.
        self.exchange.transport.producer = None
        del self.exchange
        return [each() for each in self._of_it]


@pytest.mark.parametrize("length", [b"100", b"4000000000"])
async def test_nothing_keeps_a_request_whose_body_does_not_come(http: PaperHttp, length: bytes) -> None:
    begun = Begun(http, b"POST /api/publish HTTP/1.1")
    begun.send(b"X-API-Key: %b\r\nContent-Length: %b\r\n\r\n{" % (KEY.encode(), length))
    assert begun.vanish() == [None, None]


async def test_nothing_keeps_a_request_whose_chunks_end_in_their_midst(http: PaperHttp) -> None:
    begun = Begun(http, b"POST /api/publish HTTP/1.1")
    begun.send(b"X-API-Key: %b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{" % KEY.encode())
    assert begun.vanish() == [None, None]


@pytest.mark.parametrize("key", ["wrong", KEY])
@pytest.mark.parametrize("method", [b"GET", b"DELETE"])
async def test_nothing_keeps_a_request_that_was_refused(http: PaperHttp, key: str, method: bytes) -> None:
    begun = Begun(http, method + b" /api/nothing HTTP/1.1")
    begun.send(b"X-API-Key: %b\r\n\r\n" % key.encode())
    answer = begun.exchange.answer
    assert answer is not None
    assert answer.status in (401, 404)
    assert begun.vanish() == [None, None]
