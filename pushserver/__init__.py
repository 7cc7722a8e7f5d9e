"""Real-time WebSocket push on Twisted: channels, tasks and inboxes, run as ``twistd pushserver``.

The layers, imports going downward only (``tests/test_layers.py`` holds them):

    L4  tap, config, service                 wiring: options and files become a tree of services
    L3  web/, manhole, ingest                doors: bytes <-> messages, no rules of the domain
    L2  hub, delivery, tasks, inbox, …       rooms: who is connected, who gets what, what is due
    L1  engine/                              where messages travel and rest
    L0  wire/, session, progress, …          pure values and rules: no Twisted, no clock, no I/O
"""

__version__ = "0.1.0"
