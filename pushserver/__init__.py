"""Real-time WebSocket push on Twisted: channels, tasks and inboxes, run as ``twistd pushserver``.

The folders are the floors; imports go downward only (``tests/test_layers.py`` holds them):

    app/ config/ tap       wiring: options and files become a checked configuration, that a tree of services
    web/ manhole/          doors: bytes <-> messages, no rules of the domain
    server/                who is connected, who gets what, what is due
    engine/                where messages travel and rest: embedded, Redis
    protocols/             a folder for each client protocol: messages, session, framing
    core/                  values and rules: no Twisted, no clock, no I/O
    client/ publisher/ pushctl/      beside
"""

__version__ = "0.1.0"
