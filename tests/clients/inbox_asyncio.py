"""The asyncio client with an inbox, told what to do by JSON lines: ``… WS-URL TOKEN``; each is answered by a line.

    {"do": "show"}                                  {"connected", "unread"}
    {"do": "list"}                                  {"unread", "messages": [{"offset", "readAt"}, …]}
    {"do": "mark", "offsets" or "upTo", "read"}     {"unread"}
    {"do": "delete", "offsets"}                     {"unread"}

What fails is answered {"error"}.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from pushserver.client import Client, ClientError, Retry, Settings, State
from tests.harness import PATIENCE

#: Soon back, and no request given up, however long its node takes to come back.
SETTINGS = Settings(
    retry=Retry(first=0.2, next=0.2, factor=1.0, cap=0.2), connect_timeout=PATIENCE, request_timeout=PATIENCE
)


def counts(unread: Any) -> Any:
    return unread and {name: getattr(unread, name) for name in ("notification", "chat", "task")}


async def carry_out(client: Client, command: dict[str, Any]) -> dict[str, Any]:
    match command:
        case {"do": "show"}:
            return {"connected": client.state is State.CONNECTED, "unread": counts(client.unread)}
        case {"do": "list"}:
            page = await client.read_inbox(limit=200)
            kept = [{"offset": each.offset, "readAt": each.read_at} for each in page.messages]
            return {"unread": counts(page.unread), "messages": kept}
        case {"do": "mark", "upTo": up_to}:
            changed = await client.mark_read(up_to=up_to)
        case {"do": "mark", "offsets": offsets, "read": read}:
            changed = await client.mark_read(offsets, read=read)
        case {"do": "delete", "offsets": offsets}:
            changed = await client.delete_from_inbox(offsets)
        case _:
            raise ValueError(command)
    return {"unread": counts(changed.unread)}


async def main(url: str, token: str) -> None:
    async with Client(url, token=token, proxy=None, settings=SETTINGS, open_timeout=PATIENCE) as client:
        while line := await asyncio.to_thread(sys.stdin.readline):
            try:
                answer = await carry_out(client, json.loads(line))
            except ClientError as problem:
                answer = {"error": str(problem)}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
