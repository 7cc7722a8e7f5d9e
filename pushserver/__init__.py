"""Real-time WebSocket push on Twisted: channels, tasks and inboxes, run as ``twistd pushserver``.

The folders are the floors; imports go downward only (``tests/test_layers.py`` holds them):

    tap  app/              wiring: options become a checked configuration, that a tree of services
    web/ manhole/          doors: bytes <-> messages, no rules of the domain
    server/                who is connected, who gets what, what is due
    engine/                where messages travel and rest: embedded, Redis
    protocols/ config/     a folder for each client protocol: messages, session, framing; what can be set
    core/                  values and rules: no Twisted, no clock, no I/O
    client/ publisher/ pushctl/ testing/      beside
"""

__version__ = "0.1.0"
