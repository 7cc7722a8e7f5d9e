"""What every test gets: the reactor of pytest-twisted, and a look around afterwards.

pytest-twisted runs tests on the global reactor but does not notice what they leave in it. `clean_reactor` does, as
trial's TestCase would: a test fails that leaves delayed calls, open sockets or logged failures behind. So does one that
leaves a process or a temporary file (`clean_machine`).
"""

from __future__ import annotations

import gc
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.task import deferLater
from twisted.logger import LogEvent, globalLogPublisher
from twisted.python.failure import Failure

from tests.harness import Server, start
from tests.leftovers import Leftovers, mark, own_folder

#: Turns of the reactor that what is closing may take to be gone: a socket's end needs a few.
_TURNS = 50

#: Seconds that a process which was told to end may take.
_ENDING = 10.0

_MARK = mark()
_FOLDER = own_folder()
#: the look around of the test that runs
_looking: list[Leftovers] = []
#: whether a test has failed so far
_FAILED = pytest.StashKey[bool]()


def pytest_unconfigure() -> None:
    shutil.rmtree(_FOLDER, ignore_errors=True)


def pytest_configure() -> None:
    """Let interrupts through: what a shell starts in its background ignores them, and so does all that it starts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let whoever collects garbage, or looks through all objects, pass over what was imported and collected: it stays,
    and there is so much of it that each look would take a good part of a second."""
    gc.collect()
    gc.freeze()


class LoggedErrors:
    """The failures that were logged during one test; call it with exception types to take those back."""

    def __init__(self) -> None:
        self._failures: list[Failure] = []

    def observe(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        if failure is not None:
            self._failures.append(failure)

    def __call__(self, *types: type[BaseException]) -> list[Failure]:
        """Forget and return the failures of these types, or all where none is named."""
        wanted = types or (BaseException,)
        taken = [failure for failure in self._failures if isinstance(failure.value, wanted)]
        self._failures = [failure for failure in self._failures if failure not in taken]
        return taken


@pytest.fixture
def flush_errors(_logged_errors: LoggedErrors) -> LoggedErrors:
    """``flush_errors(ZeroDivisionError)``: this failure was meant to be logged; return those that were."""
    return _logged_errors


@pytest.fixture
def _logged_errors() -> Iterator[LoggedErrors]:
    errors = LoggedErrors()
    globalLogPublisher.addObserver(errors.observe)
    yield errors
    globalLogPublisher.removeObserver(errors.observe)


@pytest.fixture(autouse=True)
def seeded(request: pytest.FixtureRequest) -> None:
    """Let chance repeat itself: each test draws what it drew the last time, whichever tests ran before it."""
    random.seed(f"{os.environ.get('SEED', '')} {request.node.nodeid}")


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Any:
    """What a fixture of several tests starts is not the affair of the one test that was the first to ask for it."""
    if fixturedef.scope == "function" or not _looking:
        return (yield)
    shared = Leftovers(_MARK, _FOLDER)
    made = yield
    _looking[-1].accept(shared)
    return made


@pytest.fixture(autouse=True)
def clean_machine(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves a process or a temporary file behind, and clear it away for the next one.

    Of a test that failed it is cleared away without a word: what it would have ended is not what it failed for.
    """
    from twisted.internet import reactor

    left = Leftovers(_MARK, _FOLDER)
    _looking.append(left)
    yield
    _looking.remove(left)
    failed = request.node.stash.get(_FAILED, False)
    end = time.monotonic() + (0 if failed else _ENDING)
    while left.processes() and time.monotonic() < end:
        # Twisted takes note of a child's end in a turn of the reactor.
        pytest_twisted.blockon(deferLater(reactor, 0.01))
    remains = [f"process {pid}: {command}" for pid, command in left.processes().items()]
    remains += [f"temporary: {path}" for path in left.entries()]
    left.clear()
    if remains and not failed:
        pytest.fail("the test left behind:\n" + "\n".join(remains), pytrace=False)


@pytest.fixture(autouse=True)
def clean_reactor(_logged_errors: LoggedErrors) -> Iterator[None]:
    """Fail the test that leaves something behind, and clear it away for the next one."""
    from twisted.internet import reactor

    known_calls = set(reactor.getDelayedCalls())
    known_sockets = {*reactor.getReaders(), *reactor.getWriters()}

    def left() -> tuple[list[Any], list[Any]]:
        calls = [call for call in reactor.getDelayedCalls() if call not in known_calls]
        sockets = {*reactor.getReaders(), *reactor.getWriters()} - known_sockets
        # The reactor's own waker, and what wakes it for signals and children, live as long as it does.
        return calls, [one for one in sockets if one not in getattr(reactor, "_internalReaders", ())]

    yield

    for _ in range(_TURNS):
        if not any(left()):
            break
        pytest_twisted.blockon(deferLater(reactor, 0.002))
    calls, sockets = left()
    remains = [f"delayed call: {call}" for call in calls] + [f"open: {socket!r}" for socket in sockets]
    for call in calls:
        call.cancel()
    for socket in sockets:
        reactor.removeReader(socket)
        reactor.removeWriter(socket)
    # A Deferred that failed without an errback says so when it is collected.
    gc.collect(0)
    remains += [f"logged failure: {failure.getTraceback()}" for failure in _logged_errors()]
    if remains:
        pytest.fail("the test left behind:\n" + "\n".join(remains), pytrace=False)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """``start_server(...)`` as `tests.harness.start`: what it starts ends with the test."""
    servers: list[Server] = []

    def begin(*options: str, **settings: Any) -> Server:
        place = tmp_path / f"server-{len(servers)}"
        place.mkdir()
        server = start(place, *options, **settings)
        servers.append(server)
        return server

    yield begin
    for server in servers:
        server.stop()


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    """One server with the defaults, a token secret and an API key."""
    return start_server()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """In CI nothing is skipped: what a test needs and does not find is a failure there. Remember which tests failed."""
    report = yield
    if report.skipped and os.environ.get("CI") == "true" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
    if report.failed:
        item.stash[_FAILED] = True
    return report
