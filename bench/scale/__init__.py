"""How far one machine goes: tens of thousands of idle connections on a server with workers, and one worker killed.

limits      whether descriptors, ports and memory suffice: pure
server      the whole server, with workers and a Redis of its own
crowd       the clients: several processes in C, from several addresses, that come back as the protocol's clients do
steps       what is measured, one step after another; what goes wrong ends the run
records     a line of JSON for each whole run
arithmetic  from the figures of a run to 1,000,000 connections, and to the limit of one Redis: formulas
report      the tables, and docs/scaling.md
command     `python -m bench scale`
"""
