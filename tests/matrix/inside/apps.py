"""The frameworks' applications, each around the same job; imported by the frameworks, in the matrix' environment."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jobs

BROKER = os.environ["MATRIX_BROKER"]
FRAMEWORK = os.environ["MATRIX_WORKER"]

if FRAMEWORK.startswith("celery"):
    from celery import Celery

    celery = Celery("matrix", broker=BROKER)
    celery.conf.broker_connection_retry_on_startup = True
    # As for jobs that may be run twice: a message is done with when its job is, and goes back where its process died.
    again = jobs.LEAVES == "killed"
    celery_job = celery.task(jobs.job, name="job", ignore_result=True, acks_late=again, reject_on_worker_lost=again)

elif FRAMEWORK == "dramatiq":
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    dramatiq.set_broker(RedisBroker(url=BROKER))
    dramatiq_job = dramatiq.actor(jobs.job, actor_name="job", max_retries=0)

elif FRAMEWORK == "huey":
    from huey import RedisHuey

    huey = RedisHuey("matrix", url=BROKER)
    huey_job = huey.task(name="job")(jobs.job)

elif FRAMEWORK == "runserver":
    import django
    from django.conf import settings
    from django.http import HttpRequest, HttpResponse
    from django.urls import path

    def view(request: HttpRequest) -> HttpResponse:
        jobs.job(int(request.GET["first"]), int(request.GET["count"]))
        return HttpResponse("done")

    urlpatterns = [path("job", view)]
    if not settings.configured:
        settings.configure(DEBUG=True, SECRET_KEY="matrix", ROOT_URLCONF="apps", ALLOWED_HOSTS=["*"], DATABASES={})
        django.setup()


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """For gunicorn and uWSGI: one request, one job."""
    query = parse_qs(environ["QUERY_STRING"])
    jobs.job(int(query["first"][0]), int(query["count"][0]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"done"]


def reported() -> int:
    """How many ends have been said to be done."""
    report = Path(os.environ["MATRIX_REPORT"])
    return len(report.read_text().splitlines()) if report.exists() else 0


if __name__ == "__main__":
    # Django's manage.py.
    from django.core.management import execute_from_command_line

    # As runserver itself does with its reloader, without which SIGTERM would end it on the spot.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    execute_from_command_line(["manage.py", *sys.argv[1:]])
