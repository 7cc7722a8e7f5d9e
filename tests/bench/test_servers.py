"""Who asks a server that is measured: it does not wait for ever."""

from __future__ import annotations

import socket
import threading

import pytest

from bench.servers import Http


def test_a_server_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Http, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        http = Http(listener.getsockname()[1])
        with pytest.raises(TimeoutError, match=r"the server has not answered for 0\.05 s"):
            http.post("/publish", b"{}")
        http.close()


def test_a_connection_that_the_server_ended_is_not_used_again() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            for _ in range(2):
                connection = listener.accept()[0]
                with connection:
                    connection.recv(1000)
                    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                ended.release()

        ended = threading.Semaphore(0)
        server = threading.Thread(target=answer)
        server.start()
        http = Http(listener.getsockname()[1])
        for _ in range(2):
            assert http.post("/", b"{}") == b"ok"
            assert ended.acquire(timeout=60)
        http.close()
        server.join()
