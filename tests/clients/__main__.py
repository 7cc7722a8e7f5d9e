"""Real clients on every way of TLS to a server: ``make clients-tls`` or ``python -m tests.clients``.

    python -m tests.clients [--client PART ...] [--workers N ...] [--write]

Each client of `tests.clients.visitors` visits by each way of `tests.clients.stage`, on a single process and on two
workers: it signs in and hears what it publishes, or its call of the API is answered. Prints one line for each client,
and the versions; ``--write`` puts the table into docs/security.md. What is missing here is installed where that may be
done, and left out by name where not. Loopback alone; it ends what it starts. Exit status 1 where a client fails.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.clients.stage import Stage, find, staged
from tests.clients.visitors import VISITORS, Faults, Visitor, _said
from tests.harness import ROOT
from tests.tables import replace_table

TITLE = "Clients over TLS"
#: Programs, and the Debian packages that have them.
PACKAGES = {
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "chromium": "chromium",
    "firefox-esr": "firefox-esr",
    "prometheus": "prometheus",
    "curl": "curl",
    "node": "nodejs",
    "go": "golang-go",
}


def install() -> None:
    """Install what is missing, where that may be done."""
    missing = [package for program, package in PACKAGES.items() if find(program) is None]
    if find("nginx") is None or not list(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so")):
        missing.append("libnginx-mod-stream")
    if missing:
        script = f". tools/lib.sh; install_packages {' '.join(missing)}"
        subprocess.run(["bash", "-c", script], cwd=ROOT, check=False)


def visit(stage: Stage, visitor: Visitor) -> Faults:
    """Return what went wrong by each way, and print it."""
    began = time.monotonic()
    faults = visitor.visit(stage, stage.ways)
    failed = {way: why for way, why in faults.items() if why}
    took = time.monotonic() - began
    print(f"  {visitor.name:<26} {len(faults) - len(failed)} of {len(faults)} ways, {took:.0f} s", flush=True)
    for way, why in failed.items():
        print(f"    {way}: {why}", flush=True)
    return faults


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.clients", description=__doc__.partition("\n")[0])
    parser.add_argument("--client", action="append", help="only those whose name holds this")
    parser.add_argument("--workers", action="append", type=int, help="so many workers (default: 1, then 2)")
    parser.add_argument("--write", action="store_true", help="put the table into docs/security.md")
    options = parser.parse_args(arguments)
    install()
    chosen = [one for one in VISITORS if not options.client or any(part in one.name for part in options.client)]
    versions = {one.name: one.version() for one in chosen}
    for name, version in versions.items():
        print(f"{name}: {version or 'left out: it is not here'}", flush=True)
    for proxy, said in (("nginx", _said("nginx", "-v")), ("haproxy", _said("haproxy", "-v"))):
        print(f"{proxy}: {said() or 'left out: it is not here'}", flush=True)
    faults: dict[str, dict[int, Faults]] = {name: {} for name, version in versions.items() if version}
    for workers in options.workers or (1, 2):
        print(f"workers: {workers}", flush=True)
        with tempfile.TemporaryDirectory(prefix="clients-") as place, staged(Path(place), workers) as stage:
            ways = [way.name for way in stage.ways]
            for visitor in chosen:
                if versions[visitor.name]:
                    faults[visitor.name][workers] = visit(stage, visitor)
            if "Traceback" in stage.server.log or "Unhandled" in stage.server.log:
                print(stage.server.log[-4000:])
                faults.setdefault("server", {})[workers] = {"log": "a failure"}
    failed = [name for name, runs in faults.items() if any(any(run.values()) for run in runs.values())]
    if options.write:
        rows = [
            [name, versions.get(name) or "", *(_cell([run.get(way, "") for run in runs.values()]) for way in ways)]
            for name, runs in faults.items()
            if name != "server"
        ]
        replace_table(ROOT / "docs" / "security.md", TITLE, ["client", "version", *ways], rows)
    print(f"failed: {', '.join(failed)}" if failed else "all clients, all ways", flush=True)
    return 1 if failed else 0


def _cell(faults: Sequence[str]) -> str:
    """Return what the table says of one client by one way."""
    return next((f"fails: {fault}" for fault in faults if fault), "yes")


if __name__ == "__main__":
    sys.exit(main())
