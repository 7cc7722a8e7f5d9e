"""The publisher: a notification and a task, both answered. ``… URL API-KEY CA``"""

from __future__ import annotations

import sys

from pushserver.publisher import Publisher

url, key, ca = sys.argv[1:]
with Publisher(url, api_key=key, ca=ca, timeout=20) as publisher:
    (notified,) = publisher.notify("visitor", message="hello")
    assert notified.offset
    with publisher.task("visitor", title="visit") as work:
        work.progress(50)
    assert publisher.flush(20)
