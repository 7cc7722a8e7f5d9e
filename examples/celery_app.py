"""A Celery application whose tasks show their owner how far they are.

Start a worker (the broker here is a directory, so that nothing else has to run; any other will do):

    export PUSHSERVER_URL=http://127.0.0.1:8080 PUSHSERVER_API_KEY=…
    celery --app examples.celery_app worker --concurrency 2

and from Python, in the same environment:

    from examples.celery_app import render
    render.delay(user_id=42, frames=100)
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from celery import Celery

from pushserver.publisher import Publisher

spool = Path(os.environ.get("EXAMPLE_SPOOL", Path(tempfile.gettempdir()) / "pushserver-example"))
for folder in ("queue", "control"):
    (spool / folder).mkdir(parents=True, exist_ok=True)

app = Celery("examples", broker="filesystem://")
app.conf.broker_transport_options = {
    "data_folder_in": str(spool / "queue"),
    "data_folder_out": str(spool / "queue"),
    "control_folder": str(spool / "control"),
}

# One for the whole module: the forked workers make their own thread and sockets from it.
publisher = Publisher(os.environ["PUSHSERVER_URL"], api_key=os.environ.get("PUSHSERVER_API_KEY"))


@app.task(bind=True, ignore_result=True)
def render(self, user_id: int, frames: int) -> None:  # type: ignore[no-untyped-def]
    """Celery's own task id serves as ours: whoever started the task knows which one to watch."""
    with publisher.task(user_id, "Render", task_id=self.request.id) as task:
        for frame in range(1, frames + 1):
            task.raise_if_cancelled()
            time.sleep(0.01)
            task.progress(frame, of=frames, message=f"frame {frame}")


@app.task(ignore_result=True)
def import_rows(user_id: int, rows: list[str]) -> None:
    for row in publisher.track(rows, user_id, "Import"):
        int(row)
