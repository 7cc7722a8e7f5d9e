"""The scoreboard: this server beside the servers that people would pick today, on every path that a user pays for.

paths      what is measured, of whom, against which targets
peers      the servers: how each is installed, configured, greeted and published to
clients    who loads them
quiet      whether anything else was at work meanwhile
meters     how a figure is taken
rounds     the turns, again where something disturbed them
records    a line for each round, kept in a file: an interrupted run goes on
verdicts   met, missed or open: pure
command    `python -m bench scoreboard`
report     the table, the plots, the history, and the pages that quote them
"""
