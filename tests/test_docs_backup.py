"""docs/backup.md: its commands, run in their order, and what clients are told then."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.engine.redis.servers import RedisServer
from tests.harness import ROOT, Server, start, wait_until
from tests.web.test_sse import Events, token

TEXT = (ROOT / "docs" / "backup.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
PUSHCTL = f'{sys.executable} -c "from pushserver.pushctl import main; main()"'


def commands(section: str) -> list[list[str]]:
    """The commands of a section, block by block."""
    blocks = re.findall(r"```console\n(.*?)```", SECTIONS[section], re.DOTALL)
    return [[line.removeprefix("$ ") for line in block.splitlines()] for block in blocks]


def shell(command: str, *, status: int = 0, **places: object) -> str:
    for name, place in places.items():
        command = command.replace(PLACES[name], str(place))
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, (command, done.stdout, done.stderr)
    return done.stdout + done.stderr


PLACES = {
    "state": "/var/lib/pushserver",
    "backups": "/srv/backups",
    "pushctl": "pushctl",
    "redis": "/var/lib/redis",
    "cli": "redis-cli",
    "url": "http://127.0.0.1:8080",
}


def notify(server: Server, *numbers: int) -> None:
    for n in numbers:
        assert server.api("POST", "/api/notify", {"userId": "ann", "data": n}).status == 200


def read(server: Server, last: str, count: int) -> tuple[str, bool, list[int]]:
    """What a device with this last event gets: its own last event, whether nothing is missing, the messages."""
    headers = {"Last_Event_ID": last} if last else {}
    with closing(Events(server, "?channels=user:ann", Authorization=token(server, "ann"), **headers)) as events:
        result = events.next()["data"]["results"]["user:ann"]
        seen = [m["data"] for m in result["messages"]]
        while len(seen) < count:
            event = events.next()
            if event.get("channel") == "user:ann" and event["data"] not in seen:
                seen.append(event["data"])
        return events.last_id, result["recovered"], seen


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = start(tmp_path)
    yield running
    running.stop()


def test_the_embedded_engine(server: Server, tmp_path: Path) -> None:
    [[back_up], [stop, restore, begin], [move]] = commands("The embedded engine")
    places = {"state": server.state_dir, "backups": tmp_path, "pushctl": PUSHCTL}
    notify(server, 1, 2)
    shell(back_up, **places)
    notify(server, 3)
    last, *told = read(server, "", 3)
    assert told == [False, [1, 2, 3]]
    assert "another server is using this one" in shell(restore, status=1, **places)
    assert (stop, begin) == ("systemctl stop pushserver", "systemctl start pushserver")
    server.stop()
    assert "restored from" in shell(restore, **places)
    again = start(tmp_path, port=server.port, secret=server.secret, api_key=server.api_key)
    try:
        (line,) = re.findall(r"^(/var/lib/pushserver/.*)\n", SECTIONS["The embedded engine"], re.MULTILINE)
        assert line.partition(" ")[2] in again.log
        # What its position covers was lost, so it is sent all that is kept.
        notify(again, 4)
        last, *told = read(again, last, 3)
        assert told == [False, [1, 2, 4]]
        notify(again, 5)
        shell(f"{move} --api-key {again.api_key} --url {again.url}", **places)
        last, *told = read(again, last, 4)
        # None of it was acknowledged, so that it is sent once more.
        assert told == [False, [1, 2, 4, 5]]
    finally:
        again.stop()
    assert "when the server starts" in shell(move, **places)


def test_redis(tmp_path: Path) -> None:
    [[save, keep], [stop, put_back, begin], [move]] = commands("Redis")
    assert [shlex.split(each)[1:] for each in (stop, begin)] == [["stop", "redis"], ["start", "redis"]]
    redis = RedisServer(tmp_path / "redis").start()
    places = {"redis": redis.directory, "backups": tmp_path, "cli": f"redis-cli -s {redis.path}", "pushctl": PUSHCTL}
    server = start(tmp_path, "--redis", redis.url)
    try:
        wait_until(lambda: server.api("GET", "/readyz").status == 200)
        notify(server, 1, 2)
        shell(save, **places)
        shell(keep, **places)
        notify(server, 3)
        last, *told = read(server, "", 3)
        assert told == [False, [1, 2, 3]]
        redis.kill()
        shell(put_back, **places)
        redis.start()
        wait_until(lambda: server.api("GET", "/readyz").status == 200)
        notify(server, 4)
        last, *told = read(server, last, 3)
        assert told == [False, [1, 2, 4]]
        shell(f"{move} --api-key {server.api_key}", url=server.url, **places)
        notify(server, 5)
        last, *told = read(server, last, 4)
        assert told == [False, [1, 2, 4, 5]]
        refused = f"{PUSHCTL} --config {tmp_path / 'redis.toml'} backup {tmp_path / 'no'}"
        (tmp_path / "redis.toml").write_text('[engine]\nkind = "redis"\n')
        assert "the data is in Redis" in shell(refused, status=1)
    finally:
        server.stop()
        redis.kill()
