"""Several processes behind the same sockets: ``--workers N``.

supervisor   the process that twistd started: owns the sockets, keeps the workers alive, has no node of its own
worker       a process with one node: ``python -m pushserver.app.workers.worker``, started by the supervisor alone
child        a worker's process, as the supervisor sees it
messages     what the two send each other
questions    what all workers are asked, and their answers together
role         what a process knows of the others behind the same sockets, also one that is alone
sockets      bound by the supervisor, accepted from by the workers
load_table   how many connections each worker has, in memory that all of them see
metrics      the metrics of all workers as one answer
rolling_restart   the workers replaced one by one, with the code that lies on the disk
"""
