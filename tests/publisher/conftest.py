"""What the publisher's tests share: a fake HTTP API, and a real Redis."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from pushserver.publisher import Publisher
from tests.publisher.fake_api import KEY, PATIENT, FakeApi


@pytest.fixture
def api() -> Iterator[FakeApi]:
    fake = FakeApi()
    fake.start()
    yield fake
    fake.stop()


@pytest.fixture
def publisher(api: FakeApi) -> Iterator[Publisher]:
    with Publisher(api.url, api_key=KEY, min_interval=0.02, **PATIENT) as publisher:
        yield publisher


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    # A short path: a Unix socket's may have 107 characters.
    where = Path(tempfile.mkdtemp(prefix="redis-"))
    process = subprocess.Popen(
        ["redis-server", "--port", "0", "--unixsocket", str(where / "s"), "--save", "", "--dir", str(where)],
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"unix://{where / 's'}"
        client = redis.Redis.from_url(url)
        deadline = time.monotonic() + 30
        while True:
            try:
                client.ping()
                break
            except redis.ConnectionError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        client.close()
        yield url
    finally:
        process.terminate()
        process.wait(30)
        shutil.rmtree(where)
