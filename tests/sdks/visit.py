"""A visit by centrifuge-python, unmodified: what it is told and what it is answered, one JSON object on each line.

Arguments: the address, ``json`` or ``protobuf``, and tokens: the first one, and those that it is given later, one after
another. It reads one word on each line of its input and does it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import centrifuge


def report(what: str, **more: Any) -> None:
    print(json.dumps({"what": what, **more}), flush=True)


class Tokens:
    """Tokens that are given one after another, until there are none."""

    def __init__(self, of: str, tokens: list[str]) -> None:
        self._of, self._tokens = of, tokens

    async def __call__(self, *_: Any) -> str:
        report("token", of=self._of, left=len(self._tokens))
        if not self._tokens:
            raise centrifuge.UnauthorizedError
        return self._tokens.pop(0)


class Visit:
    """One client, and what its handlers hear."""

    def __init__(self, address: str, protobuf: bool, token: str, *later: str) -> None:
        self.protobuf = protobuf
        self.subscriptions: dict[str, centrifuge.Subscription] = {}
        self.client = centrifuge.Client(
            address, events=_Events(self), token=token, get_token=Tokens("", [*later]), use_protobuf=protobuf,
            min_reconnect_delay=0.1, proxy=None,
        )  # fmt: skip

    def pack(self, data: Any) -> Any:
        return json.dumps(data).encode() if self.protobuf else data

    def unpack(self, data: Any) -> Any:
        return json.loads(data) if self.protobuf and data else data

    def publication(self, pub: Any) -> dict[str, Any]:
        return {"offset": pub.offset, "data": self.unpack(pub.data), "tags": dict(pub.tags or {})}

    async def run(self, word: str, *arguments: Any) -> None:
        match word:
            case "connect":
                await self.client.connect()
                await self.client.ready(30)
            case "disconnect":
                await self.client.disconnect()
            case "subscribe":
                channel, *tokens = arguments
                own = {"token": tokens[0], "get_token": Tokens(channel, tokens[1:])} if tokens else {}
                sub = self.subscriptions[channel] = self.client.new_subscription(
                    channel, events=_SubEvents(self, channel), **own
                )
                await sub.subscribe()
            case "unsubscribe":
                await self.subscriptions[arguments[0]].unsubscribe()
            case "publish":
                await self.client.publish(arguments[0], self.pack(arguments[1]))
                report("done", word=word)
            case "history":
                channel, *rest = arguments
                since = centrifuge.StreamPosition(**rest[0]) if rest else None
                found = await self.client.history(channel, limit=-1, since=since)
                report("done", word=word, offset=found.offset, epoch=found.epoch,
                    data=[self.unpack(p.data) for p in found.publications])  # fmt: skip
            case "presence":
                clients = (await self.client.presence(arguments[0])).clients
                report("done", word=word, users=sorted(info.user for info in clients.values()))
            case "presence_stats":
                stats = await self.client.presence_stats(arguments[0])
                report("done", word=word, clients=stats.num_clients, users=stats.num_users)
            case "rpc":
                found = await self.client.rpc(arguments[0], self.pack(arguments[1]))
                report("done", word=word, data=self.unpack(found.data))


class _Events(centrifuge.ClientEventHandler):
    def __init__(self, visit: Visit) -> None:
        self.visit = visit

    async def on_connected(self, ctx: Any) -> None:
        report("connected", client=ctx.client, version=ctx.version)

    async def on_connecting(self, ctx: Any) -> None:
        report("connecting", code=ctx.code, reason=ctx.reason)

    async def on_disconnected(self, ctx: Any) -> None:
        report("disconnected", code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: Any) -> None:
        report("error", code=ctx.code, error=str(ctx.error))

    async def on_subscribed(self, ctx: Any) -> None:
        report("subscribed", channel=ctx.channel, recovered=ctx.recovered, server=True)

    async def on_unsubscribed(self, ctx: Any) -> None:
        report("unsubscribed", channel=ctx.channel, server=True)

    async def on_publication(self, ctx: Any) -> None:
        report("publication", channel=ctx.channel, **self.visit.publication(ctx.pub))


class _SubEvents(centrifuge.SubscriptionEventHandler):
    def __init__(self, visit: Visit, channel: str) -> None:
        self.visit, self.channel = visit, channel

    async def on_subscribed(self, ctx: Any) -> None:
        report("subscribed", channel=self.channel, recovered=ctx.recovered, server=False)

    async def on_unsubscribed(self, ctx: Any) -> None:
        report("unsubscribed", channel=self.channel, code=ctx.code, server=False)

    async def on_publication(self, ctx: Any) -> None:
        report("publication", channel=self.channel, **self.visit.publication(ctx.pub))

    async def on_join(self, ctx: Any) -> None:
        report("join", channel=self.channel, user=ctx.info.user, client=ctx.info.client)

    async def on_leave(self, ctx: Any) -> None:
        report("leave", channel=self.channel, user=ctx.info.user, client=ctx.info.client)

    async def on_error(self, ctx: Any) -> None:
        report("error", channel=self.channel, code=ctx.code, error=str(ctx.error))


async def main(address: str, codec: str, *tokens: str) -> None:
    visit = Visit(address, codec == "protobuf", *tokens)
    loop = asyncio.get_running_loop()
    report("ready", sdk="centrifuge-python")
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        word = json.loads(line)
        try:
            await visit.run(*word)
        except Exception as problem:
            report("failed", word=word[0], error=f"{type(problem).__name__}: {problem}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
