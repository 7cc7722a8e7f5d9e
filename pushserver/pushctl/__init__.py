"""``pushctl``: the command line beside the server.

    place    which server, and with which keys: options, environment, configuration, state directory
    options  what every command takes, before it or behind it
    calls    the HTTP API, called
    verbs    the commands
    store    those of them that are about the data itself
    show     answers as tables for people, or JSON for programs
    live     what goes on: ``listen`` and ``top``

Exit statuses: 0 done, 1 the server (or a check) said no, 2 wrong usage, 3 the server cannot be reached.
"""

from __future__ import annotations


def main() -> None:
    """The console script."""
    from pushserver.pushctl.verbs import pushctl

    pushctl(auto_envvar_prefix="PUSHCTL", prog_name="pushctl")
