"""Import a CSV file, with a log that its user reads along.

    python importer.py USER FILE

``PUSH_URL`` and ``PUSH_API_KEY`` say where the push server is. What is wrong with a row goes to the log pane, and the
import goes on.
"""

from __future__ import annotations

import csv
import logging
import os
import sys

from pushserver.publisher import Publisher


def work(publisher: Publisher, user: str, file: str) -> int:
    """Return how many rows were imported."""
    good = 0
    with publisher.task(user_id=user, title=f"Import of {os.path.basename(file)}") as task:
        print(task.task_id, flush=True)
        log = logging.getLogger("importer")
        log.setLevel(logging.INFO)
        # Whatever the program logs is shown in the pane.
        log.addHandler(logging.StreamHandler(task.out))
        with open(file, newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        for number, row in enumerate(rows, 1):
            task.raise_if_cancelled()
            try:
                amount = float(row["amount"])
            except (KeyError, TypeError, ValueError):
                log.warning("line %d: %r is no amount", number + 1, row.get("amount"))
            else:
                good += 1
                task.emit({"line": number + 1, "amount": amount}, "rows")
            task.progress(number, of=len(rows))
        log.info("%d of %d rows imported", good, len(rows))
        task.complete({"imported": good})
    return good


if __name__ == "__main__":
    with Publisher(os.environ["PUSH_URL"], api_key=os.environ["PUSH_API_KEY"]) as made:
        work(made, *sys.argv[1:3])
