"""Several processes behind the same sockets: ``--workers N``.

supervisor   the process that twistd started: owns the sockets, keeps the workers alive, has no node of its own
worker       a process with one node: ``python -m pushserver.app.workers.worker``, started by the supervisor alone
wire         what the two tell each other
sockets      bound by the one, accepted from by the others
load_table   how many connections each worker has, in memory that all of them see
totals       the metrics of all workers as one answer
"""
