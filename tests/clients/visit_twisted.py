"""The Twisted client: signs in, subscribes, publishes, and hears what it published. ``… WS-URL TOKEN CA``"""

from __future__ import annotations

import sys
from typing import Any

from twisted.internet import defer, task

from pushserver.client.tx import ClientService


async def visit(reactor: Any, url: str, token: str, ca: str) -> None:
    client = ClientService(url, token=token, ca_file=ca)
    received: defer.Deferred[Any] = defer.Deferred()

    def receive(message: Any) -> None:
        if not received.called and message.data == {"from": token[-8:]}:
            received.callback(message)

    client.startService()
    await client.when_connected()
    await client.subscribe("live:twisted", receive).ready()
    await client.publish("live:twisted", {"from": token[-8:]})
    await received.addTimeout(20, reactor)
    await client.stopService()


def main(reactor: Any) -> defer.Deferred[None]:
    return defer.Deferred.fromCoroutine(visit(reactor, *sys.argv[1:])).addTimeout(25, reactor)


task.react(main)
