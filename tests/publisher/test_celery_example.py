"""The Celery example, with a real worker of forked processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.publisher.fake_api import KEY, ROOT, FakeApi, child_environment


def test_the_example_shows_its_progress(api: FakeApi, tmp_path: Path) -> None:
    environment = child_environment(PUSHSERVER_URL=api.url, PUSHSERVER_API_KEY=KEY, EXAMPLE_SPOOL=str(tmp_path))
    # A process for each task: what the last moment of a process holds must arrive too.
    options = [
        "--concurrency=2",
        "--max-tasks-per-child=1",
        "--loglevel=WARNING",
        "--without-gossip",
        "--without-mingle",
    ]
    log = (tmp_path / "log").open("w")
    worker = subprocess.Popen(
        [sys.executable, "-m", "celery", "--app", "examples.celery_app", "worker", *options],
        cwd=ROOT,
        env=environment,
        stdout=log,
        stderr=log,
    )
    try:
        order = (
            "from examples.celery_app import *; "
            "print(render.delay(user_id=42, frames=20).id, import_rows.delay(7, ['1', '2', 'x']) and '')"
        )
        asked = subprocess.run(
            [sys.executable, "-c", order], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
        render_id = asked.stdout.split()[0]

        def ended() -> bool:
            if worker.poll() is not None:
                raise AssertionError((tmp_path / "log").read_text())
            states = list(api.tasks.values())
            return len(states) == 2 and all(state["status"] in ("completed", "failed") for state in states)

        api.until(ended, timeout=60)
    finally:
        worker.terminate()
        try:
            worker.wait(20)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
        log.close()
    rendered = api.tasks[render_id]
    assert (rendered["status"], rendered["title"], rendered["userId"]) == ("completed", "Render", "42")
    assert rendered["message"] == "frame 20"
    (imported,) = (state for task_id, state in api.tasks.items() if task_id != render_id)
    assert (imported["status"], imported["error"]) == ("failed", "stopped after 2 of 3")
