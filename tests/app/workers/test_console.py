"""The console where several processes share the sockets: one of them opens it, and another when that one dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from tests.cluster.conftest import Deployment
from tests.harness import free_port, wait_until
from tests.manhole.test_ssh import Operator, make_key


def test_the_leader_opens_it_and_the_next_leader_takes_it_over(tmp_path: Path) -> None:
    key, port, place = make_key(tmp_path / "key"), free_port(), Deployment(tmp_path)
    try:
        redis = place.redis()
        server = place.server(
            *("--workers", "2", "--redis", redis.url, "--manhole", f"tcp:{port}:interface=127.0.0.1"),
            env={"PUSHSERVER_MANHOLE__AUTHORIZED_KEYS": f"{key}.pub", "PUSHSERVER_SERVER__NODE_NAME": "n"},
        )
        operator = Operator(server, port, key)

        def leader() -> int | None:
            said = operator.run_command("import os; os.getpid()")
            return int(said.stdout) if said.returncode == 0 else None

        first = wait_until(leader)
        wait_until(lambda: {"n-1", "n-2"} <= set(operator.run_command("nodes()").stdout.split()))
        os.kill(first, signal.SIGKILL)
        second = wait_until(leader)
        assert second != first
        assert "connections" in operator.run_command("stats()").stdout
    finally:
        place.end()
