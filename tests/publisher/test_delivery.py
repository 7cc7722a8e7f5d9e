"""Waiting for what becomes of a command."""

from __future__ import annotations

import asyncio
import threading

from pushserver.publisher.delivery import Delivery


def test_it_is_told_once_to_all_who_wait() -> None:
    delivery = Delivery()
    received: list[str] = []
    delivery.then(lambda d: received.append("early"))
    assert not delivery.wait(0)
    assert not delivery.wait(0.01)
    threading.Thread(target=delivery.finish, args=({"n": 1},)).start()
    assert delivery.wait(30)
    delivery.then(lambda d: received.append("late"))
    delivery.finish(None, ValueError())
    assert (delivery.reply, delivery.error, received) == ({"n": 1}, None, ["early", "late"])


def test_event_loops_wait_too_and_may_end_before() -> None:
    delivery = Delivery()

    async def in_vain() -> bool:
        return await delivery.arrival(0.01)

    async def until_then() -> bool:
        threading.Timer(0.01, delivery.finish, (None,)).start()
        return await delivery.arrival(30)

    assert not asyncio.run(in_vain())
    # The first loop is gone, and waits still.
    assert asyncio.run(until_then())
    assert asyncio.run(in_vain())
