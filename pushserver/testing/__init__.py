"""For the tests of applications: a real push server, as a pytest fixture.

::

    # conftest.py
    pytest_plugins = ["pushserver.testing"]

    # test_orders.py
    def test_an_order_is_told(push_server):
        with push_server.publisher() as publisher:
            publisher.notify(42, title="Paid")

Without pytest there is the server alone: ``with PushServer() as server``. A publisher that needs no server at all:
`pushserver.publisher.testing`.
"""

from __future__ import annotations

from collections.abc import Iterator

from pushserver.testing.server import PushServer

__all__ = ["PushServer"]

try:
    import pytest
except ImportError:
    # The fixture is for pytest alone.
    pass
else:
    __all__ += ["push_server"]

    @pytest.fixture(scope="session")
    def push_server() -> Iterator[PushServer]:
        """A server of its own for this run, on a free port of 127.0.0.1, with nothing in it at the start."""
        with PushServer() as server:
            yield server
