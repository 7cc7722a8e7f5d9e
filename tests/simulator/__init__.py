"""Nodes, Redis, clients and publishers in one process, under virtual time: the same seed gives the same run.

    world      virtual time, processes, chance; the scheduler
    network    connections between processes: latency, order, cuts
    reactor    what a process' Twisted code takes for its reactor
    redis/     a model of Redis that runs the server's own Lua scripts
    nodes      the server: the product's own service on such a reactor
    devices, publishers   who uses it, by the documented protocol alone
    plan, run  what happens under a seed; the run, and its history
    history    what happened, one JSON line each
    checker    judges a history, from the file alone
    shrink, mutants, __main__   a smaller plan that still fails; mends taken out; the commands

The README says how a history is read, and how a failing seed is repeated.
"""
