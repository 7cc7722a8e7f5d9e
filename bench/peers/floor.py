"""floor.py PORT: what `floor.c` does, from Python: what it takes that the calls of send() come from there.

One loop in C over the sockets, as in the server's fan-out, and a second thread that does nothing: with one, as the
server has for its store, the kernel counts references to each socket's file.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
from itertools import repeat

ACCEPTED = b'HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x07"ready"'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


def frame(payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else struct.pack("!BBH", 0x81, 126, size)) + payload


def main() -> None:
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=4096)
    listener.setblocking(False)
    poller = select.epoll()
    poller.register(listener, select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    upgraded: list[socket.socket] = []
    while True:
        for descriptor, _ in poller.poll():
            if descriptor == listener.fileno():
                accepted, _ = listener.accept()
                accepted.setblocking(False)
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[accepted.fileno()] = accepted
                poller.register(accepted, select.EPOLLIN)
                continue
            client = sockets[descriptor]
            said = client.recv(65536)
            if not said:
                upgraded = [each for each in upgraded if each is not client]
                sockets.pop(descriptor).close()
            elif said.startswith(b"GET "):
                upgraded.append(client)
                client.send(ACCEPTED)
            elif said.startswith(b"POST "):
                head, _, body = said.partition(b"\r\n\r\n")
                times = int(head.partition(b"times=")[2].partition(b" ")[0] or 1)
                taken: list[int] = []
                taken.extend(map(socket.socket.send, upgraded, repeat(frame(body) * times)))
                client.send(ANSWER)


if __name__ == "__main__":
    main()
