"""Who asks a server that is measured: it does not wait for ever."""

from __future__ import annotations

import socket

import pytest

from bench.servers import Http


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        http = Http(listener.getsockname()[1])
        with pytest.raises(TimeoutError, match=r"the server has not answered for 0\.05 s"):
            http.post("/publish", b"{}")
        http.close()
