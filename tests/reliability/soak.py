"""A server under load and churn for long: what it uses does not grow.

    python -m tests.reliability.soak [--seconds N] [--connections N] [--seed N]

So many users follow a channel, each with an inbox that is full; some come and go all the time. What the server uses
(memory, descriptors, the size of its store) is noted all along; of the last three quarters of the time the slope of
each is found by least squares. Exit status 1 where the 95 % interval of one lies above 0, and not below 1 % an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

import websockets

from tests.harness import Server, start
from tests.loopback import source
from tests.reliability.slopes import LEAST, Slope, slope

CHANNEL = "log:all"
CONFIG = """
[inbox]
max_messages = 5
[server]
max_connections = 20000
[rate_limits]
messages_per_second = 0
[[namespaces]]
name = "log"
subscribe = "authenticated"
history_size = 100
history_ttl = "1m"
"""
#: How often what is used is noted, s, at most: there have to be enough samples.
EVERY = 10.0

Samples = dict[str, list[tuple[float, float]]]


def used(server: Server) -> dict[str, float]:
    """Return what a server uses now."""
    status = Path(f"/proc/{server.pid}/status").read_text()
    return {
        "memory, KiB": float(status.partition("VmRSS:")[2].split()[0]),
        "descriptors": float(len(list(Path(f"/proc/{server.pid}/fd").iterdir()))),
        "store, octets": float(sum(each.stat().st_size for each in server.state_dir.glob("pushserver.db*"))),
    }


async def follow(server: Server, user: str, chance: random.Random, stay: float) -> None:
    """Be connected for about so long, s, again and again."""
    token = server.token(user)
    while True:
        try:
            async with websockets.connect(
                server.ws_url, local_addr=(source(user), 0), open_timeout=60, ping_interval=None, max_size=None
            ) as socket:
                await socket.send(json.dumps({"type": "auth", "data": {"token": token}}))
                await socket.send(json.dumps({"type": "subscribe", "data": {"channels": [CHANNEL]}}))
                async with asyncio.timeout(chance.expovariate(1 / stay)):
                    async for _ in socket:
                        pass
        except (OSError, websockets.WebSocketException, TimeoutError):
            await asyncio.sleep(chance.uniform(0.05, 0.5))


async def publish(server: Server, users: list[str], chance: random.Random) -> None:
    while True:
        await asyncio.to_thread(server.api, "POST", "/api/publish", {"channel": CHANNEL, "data": {"text": "x" * 200}})
        body = {"userIds": chance.sample(users, min(5, len(users))), "data": {"text": "x" * 200}}
        await asyncio.to_thread(server.api, "POST", "/api/notify", body)
        # Each is sent to all: so much the clients take in one process.
        await asyncio.sleep(max(0.05, len(users) / 2000))


async def watch(server: Server, seconds: float) -> Samples:
    """Note what the server uses for so long."""
    clock = asyncio.get_running_loop().time
    began, found = clock(), {name: [] for name in used(server)}
    every = min(EVERY, seconds / 4 * 3 / LEAST / 2)
    while clock() - began < seconds:
        for name, value in used(server).items():
            found[name].append((clock() - began, value))
        await asyncio.sleep(every)
    return found


async def play(server: Server, seconds: float, connections: int, seed: int) -> Samples:
    """Have a server under load for so long; return what it used."""
    chance = random.Random(seed)
    users = [f"u{n}" for n in range(connections)]
    running = [asyncio.create_task(follow(server, user, random.Random(f"{seed}{user}"), 60)) for user in users]
    running.append(asyncio.create_task(publish(server, users, chance)))
    try:
        return await watch(server, seconds)
    finally:
        for each in running:
            each.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def slopes(samples: Samples, seconds: float) -> dict[str, Slope]:
    """Return the slope of each over the last three quarters of the time."""
    return {name: slope([each for each in noted if each[0] >= seconds / 4]) for name, noted in samples.items()}


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability.soak", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args(words)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="soak-") as place:
        server = start(Path(place), config=CONFIG)
        try:
            samples = asyncio.run(play(server, options.seconds, options.connections, options.seed))
        finally:
            server.stop()
    grown = []
    print("| what is used | first | last | an hour | 95 % interval |\n|---|---:|---:|---:|---|")
    for name, found in slopes(samples, options.seconds).items():
        first, last = samples[name][0][1], samples[name][-1][1]
        print(
            f"| {name} | {first:,.0f} | {last:,.0f} | {found.per_hour:+.1%} | {found.low:+.1%} to {found.high:+.1%} |"
        )
        grown += [name] * found.grows()
    print(f"grows: {', '.join(grown) or 'nothing'}")
    return bool(grown)


if __name__ == "__main__":
    sys.exit(main())
