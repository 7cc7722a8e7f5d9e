"""One target under atheris, in a process of its own: ``python -m tests.fuzz.engine TARGET [libFuzzer's arguments]``."""

from __future__ import annotations

import shlex
import sys

import atheris

with atheris.instrument_imports(include=["pushserver", "twisted.protocols.haproxy", "autobahn.websocket.protocol"]):
    from tests.fuzz.targets import TARGETS, failures_raised


def main() -> None:
    target = TARGETS[sys.argv[1]]

    def one(octets: bytes) -> None:
        with failures_raised():
            target.parse(octets)

    # Where it merges, libFuzzer begins itself again, by a shell.
    itself = f"{shlex.quote(sys.executable)} -m tests.fuzz.engine {shlex.quote(sys.argv[1])}"
    atheris.Setup([itself, *sys.argv[2:], f"-max_len={target.max_size}"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
