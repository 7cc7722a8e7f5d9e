"""What the embedded engine promises while disks get full, file systems are read-only and processes are killed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pushserver.engine.interfaces import InboxRules

from . import appender
from .stores import Asking, OpenStore, contents

ROOT = Path(__file__).parents[3]
PROGRAMS = Path(__file__).parent


def program(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-m", f"tests.engine.embedded.{name}", *map(str, arguments)]


def in_own_mounts(directory: Path, options: str, command: list[str]) -> subprocess.CompletedProcess[str]:
    """Runs a command where ``directory`` is a small file system of its own, which ends with it."""
    script = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'
    unshare = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return subprocess.run(
        [*unshare, "sh", "-c", script, "sh", options, str(directory), *command],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("wait", [0.0, 0.1, 0.3])
def test_what_was_answered_outlives_kill_9(tmp_path: Path, wait: float) -> None:
    process = subprocess.Popen(program("appender", tmp_path / "state"), cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        answered = [process.stdout.readline() for _ in range(200)]
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(wait)
    finally:
        process.send_signal(signal.SIGKILL)
        answered += process.stdout.readlines()
        process.stdout.close()
        process.wait()
    expected: dict[str, list[tuple[int, str]]] = {}
    for line in answered:
        user, offset, text = line.decode().split()
        expected.setdefault(user, []).append((int(offset), text))
    assert len(expected) == appender.USERS
    opened = OpenStore(tmp_path / "state", InboxRules(size=100_000, chat_size=10, ttl=3_600_000))
    try:
        for user, messages in expected.items():
            page = opened.do(
                Asking(
                    lambda store, user=user: store.inboxes.read(store.connection, 1, user, None, 100_000),
                    user_id=user,
                )
            )
            kept = [(message.offset, *contents([message])) for message in page.messages]
            assert kept[: len(messages)] == messages
            # At most the one that was under way when the process was killed.
            assert len(kept) <= len(messages) + 1
            assert [offset for offset, _ in kept] == list(range(1, len(kept) + 1))
    finally:
        opened.close()


def test_the_disk_is_synced_between_the_write_and_the_answer(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    tracing = ["strace", "-f", "-o", str(trace), "-e", "trace=pwrite64,fdatasync,fsync,write", "-e", "signal=none"]
    process = subprocess.Popen(
        [*tracing, *program("appender", tmp_path / "state")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        for _ in range(100):
            assert process.stdout.readline()
    finally:
        process.send_signal(signal.SIGTERM)
        process.stdout.close()
        process.wait()
    answers = 0
    unsynced = True
    for line in trace.read_text().splitlines():
        call = line.split(maxsplit=1)[1]
        if call.startswith("pwrite64("):
            unsynced = True
        elif re.match(r"(fdatasync|fsync)\(.*= 0$", call) or re.match(
            r"<\.\.\. (fdatasync|fsync) resumed>.*= 0$", call
        ):
            unsynced = False
        elif call.startswith('write(1, "'):
            answers += 1
            assert not unsynced, f"answer {answers} came before the sync"
    assert answers >= 100


def test_a_full_disk_is_said_and_nothing_is_told_as_done(tmp_path: Path) -> None:
    done = in_own_mounts(tmp_path, "size=4m", program("smalldisk", tmp_path))
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert len(result["refused"]) == 5
    assert "full" in result["trouble"]
    assert result["recovered"]
    # What was answered before, and what came once there was room, is kept and was delivered; nothing else.
    assert result["kept"] == result["delivered"] == result["answered"]
    assert result["answered"][-1] == result["refused"][-1] + 1
    assert result["offsets"] == list(range(1, len(result["kept"]) + 1))
    # So is what a task wrote; what was refused can be appended under the same number.
    assert len(result["output"]) > 100_000
    assert result["output"] == result["written"]


def test_a_read_only_file_system_is_refused_at_the_start(tmp_path: Path) -> None:
    opening = (
        "import sys; from pathlib import Path; from pushserver.engine.embedded.database import hold\n"
        "from pushserver.core.errors import ConfigError\n"
        "try: hold(Path(sys.argv[1]) / 'state')\n"
        "except ConfigError as error: print(error)\n"
    )
    done = in_own_mounts(tmp_path, "ro", [sys.executable, "-c", opening, str(tmp_path)])
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"server.state_dir = {str(tmp_path / 'state')!r}: expected a directory that can be written:"
        " Read-only file system\n"
    )
