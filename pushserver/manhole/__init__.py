"""The console: an SSH door to a running server, for looking and for stepping in.

    ssh -> `ssh`, `login` (who may come in) -> `session` (a terminal, or one command)
        -> `terminal` (keyboard, editor, renderer) -> `interpreter` -> `verbs` -> rooms
                                                                    -> `tracing` (messages and log, live)

Imported only where it is switched on: the SSH library costs start-up time, and importing it needs a chosen reactor.
"""
