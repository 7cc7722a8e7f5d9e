"""One target under atheris, in a process of its own: ``python -m tests.fuzz.engine TARGET [libFuzzer's arguments]``."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["pushserver", "twisted.protocols.haproxy", "autobahn.websocket.protocol"]):
    from tests.fuzz.targets import TARGETS, failures_raised


def main() -> None:
    target = TARGETS[sys.argv[1]]

    def one(octets: bytes) -> None:
        with failures_raised():
            target.parse(octets)

    atheris.Setup([sys.argv[0], *sys.argv[2:], f"-max_len={target.max_size}"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
