"""One row of the matrix, in its own environment: has a framework's workers do the jobs, and ends them.

``python -m play WORKER``; everything else by the environment, as `jobs` reads it.
"""

from __future__ import annotations

import asyncio
import http.client
import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import apps
import jobs
from jobs import ENDS, LEAVES

BIN = Path(sys.executable).parent
#: Seconds that the jobs of a row may take altogether, and a worker to end.
_PATIENCE = 280.0
#: Whether the process that does a job is gone after it.
DIES = LEAVES in ("os._exit", "SIGTERM")


def one_by_one() -> list[tuple[int, int]]:
    """A process for each job, or one that lives on: (first, count) of each job."""
    return [(number, 1) for number in range(ENDS)]


def at_once() -> list[tuple[int, int]]:
    """Where the jobs share a process, and it dies with the first, there is one job."""
    return [(0, ENDS)] if DIES else one_by_one()


def rq(kind: str) -> None:
    import redis
    from rq import Queue, Retry

    queue = Queue(connection=redis.Redis.from_url(apps.BROKER))
    for first, count in at_once() if kind == "SimpleWorker" else one_by_one():
        queue.enqueue(jobs.job, first, count, retry=Retry(max=1) if LEAVES == "killed" else None)
    command = [BIN / "rq", "worker", "--burst", "--url", apps.BROKER, "--worker-class", f"rq.worker.{kind}"]
    with worker(command) as process:
        process.wait(_PATIENCE)


def celery(pool: str) -> None:
    command = [BIN / "celery", "--app", "apps:celery", "worker", "--pool", pool, "--concurrency", "4"]
    with worker([*command, "--loglevel", "WARNING", "--without-gossip", "--without-mingle"]) as process:
        for first, count in one_by_one() if pool == "prefork" else at_once():
            apps.celery_job.delay(first, count)
        wait_for_reports(process)


def dramatiq() -> None:
    for first, count in at_once():
        apps.dramatiq_job.send(first, count)
    with worker([BIN / "dramatiq", "apps", "--processes", "1", "--threads", "4"]) as process:
        wait_for_reports(process)


def huey() -> None:
    for first, count in at_once():
        apps.huey_job(first, count)
    with worker([BIN / "huey_consumer", "apps.huey", "-k", "process", "-w", "2"]) as process:
        wait_for_reports(process)


def pool() -> None:
    context = multiprocessing.get_context("fork")
    with context.Pool(4) as workers:
        results = [workers.apply_async(jobs.job, wanted) for wanted in one_by_one()]
        wait_for_reports(None)
        if not DIES:
            for result in results:
                result.wait(_PATIENCE)
    # Leaving the block has ended the workers by SIGTERM.


def process_executor() -> None:
    context = multiprocessing.get_context("fork")
    if not DIES:
        with ProcessPoolExecutor(4, mp_context=context) as workers:
            for future in [workers.submit(jobs.job, *wanted) for wanted in one_by_one()]:
                future.exception(_PATIENCE)
        return
    for wanted in one_by_one():
        # One whose process dies is broken for good.
        with ProcessPoolExecutor(1, mp_context=context) as workers:
            assert isinstance(workers.submit(jobs.job, *wanted).exception(_PATIENCE), BrokenExecutor | None)


def thread_executor() -> None:
    with ThreadPoolExecutor(4) as workers:
        for future in [workers.submit(jobs.job, *wanted) for wanted in at_once()]:
            future.exception(_PATIENCE)


def loops() -> None:
    """One publisher over four event loops, one after another."""
    for first in range(0, ENDS, 5):
        asyncio.run(jobs.async_job(first, 5))
    try:
        jobs.leave()
    except jobs.Boom:
        pass


def gunicorn() -> None:
    address = Path("gunicorn.sock").resolve()
    with worker([BIN / "gunicorn", "--bind", f"unix:{address}", "--workers", "2", "apps:wsgi"]):
        ask(lambda: unix(address), one_by_one())


def uwsgi() -> None:
    address = Path("uwsgi.sock").resolve()
    command = [BIN / "uwsgi", "--http-socket", address, "--enable-threads", "--master", "--processes", "2"]
    with worker([*command, "--die-on-term", "--module", "apps:wsgi", "--venv", BIN.parent]):
        ask(lambda: unix(address), one_by_one())


def runserver() -> None:
    log = Path("runserver.log")
    command = [sys.executable, "-u", "-m", "apps", "runserver", "--noreload", "127.0.0.1:0"]
    with log.open("wb") as output, worker(command, stdout=output):
        deadline = time.monotonic() + _PATIENCE
        while not (found := re.search(r"http://127\.0\.0\.1:([1-9]\d*)/", log.read_text())):
            if time.monotonic() > deadline:
                raise SystemExit("runserver does not say where it listens")
            time.sleep(0.05)
        port = int(found[1])
        ask(lambda: socket.create_connection(("127.0.0.1", port)), at_once())


def unix(address: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(address))
    return connection


def ask(connect: Callable[[], socket.socket], wanted: list[tuple[int, int]]) -> None:
    """One request for each job; the answer is missing where the job took its process along."""
    for first, count in wanted:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                sock = connect()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        request = http.client.HTTPConnection("127.0.0.1", timeout=_PATIENCE)
        request.sock = sock
        try:
            request.request("GET", f"/job?first={first}&count={count}")
            request.getresponse().read()
        except (OSError, http.client.HTTPException):
            pass
        finally:
            request.close()


def wait_for_reports(process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + _PATIENCE
    while apps.reported() < ENDS and time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            return
        time.sleep(0.05)


@contextmanager
def worker(command: list[object], **options: object) -> Iterator[subprocess.Popen[bytes]]:
    """A framework's processes; asked to end by SIGTERM, and waited for."""
    process = subprocess.Popen([str(part) for part in command], start_new_session=True, **options)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


WORKERS: dict[str, Callable[[], None]] = {
    "rq Worker": lambda: rq("Worker"),
    "rq SpawnWorker": lambda: rq("SpawnWorker"),
    "rq SimpleWorker": lambda: rq("SimpleWorker"),
    "celery prefork": lambda: celery("prefork"),
    "celery solo": lambda: celery("solo"),
    "celery threads": lambda: celery("threads"),
    "celery gevent": lambda: celery("gevent"),
    "Pool": pool,
    "process executor": process_executor,
    "thread executor": thread_executor,
    "dramatiq": dramatiq,
    "huey": huey,
    "gunicorn": gunicorn,
    "uwsgi": uwsgi,
    "runserver": runserver,
    "asyncio": loops,
}

if __name__ == "__main__":
    WORKERS[sys.argv[1]]()
