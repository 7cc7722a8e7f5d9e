"""Attacks on every door, over every transport and both engines: ``make attack`` or ``python -m tests.attack``.

rows, texts          what strangers and a user say, and how much
attackers            the sockets that say it, and when the last of them is gone
honest               somebody else, who signs in and pings meanwhile
results              what came of it, and what does not hold
__main__             servers, the order of the attacks, the table
"""
