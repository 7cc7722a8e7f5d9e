"""The asyncio client: signs in, subscribes, publishes, and hears what it published. ``… WS-URL TOKEN CA``"""

from __future__ import annotations

import asyncio
import sys

from pushserver.client import Client


async def main(url: str, token: str, ca: str) -> None:
    async with asyncio.timeout(20), Client(url, token=token, ca_file=ca) as client:
        async with client.subscribe("live:asyncio") as news:
            await client.publish("live:asyncio", {"from": token[-8:]})
            async for message in news:
                if message.type == "message" and message.data == {"from": token[-8:]}:
                    return


asyncio.run(main(*sys.argv[1:]))
