"""The console: an SSH door to a running server, for looking and for stepping in.

    ssh -> ssh.py (who may come in) -> shell.py (a terminal, or one command) -> verbs.py -> rooms
                                                                             -> tracing.py (messages and log, live)

Imported only where it is switched on: the SSH library costs start-up time, and importing it needs a chosen reactor.
"""
