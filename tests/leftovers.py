"""What a test leaves on the machine: processes, and entries in the folder for temporary files.

A process is known by a mark in its environment, which it has from whoever started it, or by its parents. Not found is
only one that was given another environment, and whose parent has ended.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import tempfile
from contextlib import suppress
from pathlib import Path

#: The variable that marks what a run of the tests has started: the processes that run tests, one inside another.
MARK = "TESTS_RUN_BY"

#: Python starts one where a process is spawned, and keeps it for as long as the tests' own process lives.
TRACKER = "multiprocessing.resource_tracker"


def mark() -> str:
    """Mark all processes that are started from here on; return the mark."""
    value = f"{os.environ.get(MARK, '')}/{os.getpid()}"
    os.environ[MARK] = value
    return value


def own_folder() -> Path:
    """Make a folder, in which this process and those that it starts make their temporary files from here on.

    Only what pytest itself keeps, such as the folders of failed tests, stays where it was.
    """
    root = os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())
    # A short name: the path of a Unix socket may have 107 characters.
    folder = tempfile.mkdtemp(prefix="t-", dir=root)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    return Path(folder)


class Leftovers:
    """What is there more than when this was made."""

    def __init__(self, marked: str, folder: Path) -> None:
        self._marked = f"{MARK}={marked}".encode()
        self._folder = folder
        self._known = _all()
        self._entries = set(os.listdir(folder))

    def processes(self) -> dict[int, str]:
        """Return the command of each process that is left, by its id."""
        found = {}
        for pid in _all() - self._known:
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if TRACKER not in command and not _has_ended(pid) and self._is_left(pid):
                    found[pid] = command
        return found

    def _is_left(self, pid: int) -> bool:
        """Whether this process was started here, and not by one that was there before and is ours: a server that
        several tests share may start and end some as it likes."""
        marked = self._has_mark(pid)
        while (pid := _parent(pid)) > 1:
            if pid == os.getpid():
                return True
            if pid in self._known:
                return marked and not self._has_mark(pid)
            marked = marked or self._has_mark(pid)
        return marked

    def _has_mark(self, pid: int) -> bool:
        with suppress(OSError):
            for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if entry == self._marked or entry.startswith(self._marked + b"/"):
                    return True
        return False

    def entries(self) -> list[Path]:
        """Return what is left in the folder for temporary files."""
        return sorted(self._folder / name for name in set(os.listdir(self._folder)) - self._entries)

    def accept(self, shared: Leftovers) -> None:
        """What is left since `shared` was made belongs to several tests: it is none of this one's leftovers."""
        self._known |= shared.processes().keys()
        self._entries |= {path.name for path in shared.entries()}

    def clear(self) -> None:
        """End the processes, and wait until they have; remove the entries."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(pid)
                try:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    # Readable when it has ended.
                    select.select([handle], [], [], 10)
                finally:
                    os.close(handle)
        for path in self.entries():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _all() -> set[int]:
    return {int(name) for name in os.listdir("/proc") if name.isdigit()}


def _stat(pid: int) -> list[str]:
    """Return the fields of a process behind its name, which may hold anything: its state, its parent, and more."""
    return Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()


def processor_seconds(pid: int) -> float:
    """Return for how many seconds a processor has worked for a process that runs."""
    # Its time in programs and in the system, in ticks: the fields 14 and 15 of proc(5), of which two are left out.
    return sum(map(int, _stat(pid)[11:13])) / os.sysconf("SC_CLK_TCK")


def _has_ended(pid: int) -> bool:
    """Whether a process only waits for its parent to take note of its end."""
    return _stat(pid)[0] in "ZX"


def _parent(pid: int) -> int:
    try:
        return int(_stat(pid)[1])
    except OSError:
        return 0
