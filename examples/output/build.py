"""Run ``make`` for a user, who watches it in a browser and may stop it.

    python build.py USER [ARGUMENT ...]

``PUSH_URL`` and ``PUSH_API_KEY`` say where the push server is. Ends with the status of ``make``.
"""

from __future__ import annotations

import os
import sys

from pushserver.publisher import Publisher


def work(publisher: Publisher, user: str, arguments: list[str]) -> int:
    """Return the status of ``make``."""
    task = publisher.task(user_id=user, title=" ".join(["make", *arguments]))
    print(task.task_id, flush=True)
    # What make says, and what the programs say that it calls.
    status = task.run(["make", *arguments])
    if status == 0:
        task.complete()
    else:
        task.fail(f"make ended with status {status}")
    return status


if __name__ == "__main__":
    with Publisher(os.environ["PUSH_URL"], api_key=os.environ["PUSH_API_KEY"]) as made:
        sys.exit(work(made, sys.argv[1], sys.argv[2:]))
