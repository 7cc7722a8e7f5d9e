"""Many clients of centrifuge-python in one process: they say when each of them is told to go, and when all are back.

``crowd.py ADDRESS TOKEN COUNT``: on each line ``{"what", "code"?, "at"?}``, ms since some moment.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import centrifuge


def report(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, **more}), flush=True)


class Crowd(centrifuge.ClientEventHandler):
    def __init__(self, count: int) -> None:
        self._count, self._connected = count, 0

    async def on_connected(self, ctx: Any) -> None:
        self._connected += 1
        if self._connected == self._count:
            report("all")

    async def on_connecting(self, ctx: Any) -> None:
        # 0: it was told to connect by this program.
        if ctx.code:
            self._connected -= 1
            report("gone", code=ctx.code, at=time.monotonic() * 1000)

    async def on_disconnected(self, ctx: Any) -> None:
        report("ended", code=ctx.code)


async def main(address: str, token: str, count: str) -> None:
    crowd = Crowd(int(count))
    # What is waited for are the clients, not a machine that is busy with other tests.
    options: dict[str, Any] = {"token": token, "timeout": 60, "max_reconnect_delay": 5, "proxy": None}
    clients = [centrifuge.Client(address, events=crowd, **options) for _ in range(int(count))]
    for client in clients:
        await client.connect()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
