"""The way from clients to a server: it passes on what is sent, and fails as ways do."""

from __future__ import annotations

import socket
import threading

_HEAD_ENDS = b"\r\n\r\n"


class _Connection:
    def __init__(self, near: socket.socket, far: socket.socket) -> None:
        self.near = near
        self.far = far
        #: what is sent is lost from now on, both ways, and neither side is told
        self.forgotten = False
        #: a WebSocket of which the handshake alone got through
        self.dead = False

    def end(self) -> None:
        for each in (self.near, self.far):
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Line:
    """Carries bytes from a port of its own to the port that it leads to."""

    def __init__(self, target: int) -> None:
        self.target = target
        self._refuses = False
        self._deadens = False
        self._connections: set[_Connection] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def cut(self) -> None:
        """End every connection, and refuse new ones."""
        self._refuses = True
        self.end_all()

    def mend(self) -> None:
        self._refuses = self._deadens = False

    def deaden(self) -> None:
        """End every connection; from now on WebSockets open, and not a byte passes through them."""
        self._deadens = True
        self.end_all()

    def forget(self) -> None:
        """Lose what is sent on the present connections from now on, as a way does that was used by nobody for long."""
        for connection in self._present():
            connection.forgotten = True

    def end_all(self) -> None:
        for connection in self._present():
            connection.end()

    def close(self) -> None:
        self._listener.close()
        self.end_all()

    def _present(self) -> list[_Connection]:
        with self._lock:
            return list(self._connections)

    def _serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                near.close()
                continue
            try:
                far = socket.create_connection(("127.0.0.1", self.target))
            except OSError:
                near.close()
                continue
            connection = _Connection(near, far)
            with self._lock:
                self._connections.add(connection)
            for way in (self._carry_there, self._carry_back):
                threading.Thread(target=self._run, args=(way, connection), daemon=True).start()

    def _run(self, way: object, connection: _Connection) -> None:
        try:
            way(connection)  # type: ignore[operator]
        except OSError:
            pass
        if connection.forgotten:
            # Whoever still waits at the other end learns nothing.
            return
        connection.end()
        with self._lock:
            self._connections.discard(connection)

    def _carry_there(self, connection: _Connection) -> None:
        while data := connection.near.recv(65_536):
            if self._deadens and not connection.dead and b"upgrade: websocket" in data.lower():
                connection.dead = True
                connection.far.sendall(data)
            elif not connection.forgotten and not connection.dead:
                connection.far.sendall(data)

    def _carry_back(self, connection: _Connection) -> None:
        head = b""
        while data := connection.far.recv(65_536):
            if connection.dead:
                if _HEAD_ENDS in head:
                    continue
                head += data
                data = data[: len(data) - len(head.partition(_HEAD_ENDS)[2])]
            if not connection.forgotten:
                connection.near.sendall(data)
