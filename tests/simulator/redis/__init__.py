"""A model of Redis 7.0: the commands that the server uses, its scripts in Lua 5.1, Pub/Sub, blocking reads.

    values     what a key holds, and when it ends
    commands   the commands on the data, each a function of the database and its arguments
    lua        runs scripts: `redis`, `struct`, `cmsgpack`
    server     connections: RESP, Pub/Sub, blocking, INFO; restarts and other data

`tests/simulator/test_redis.py` runs random commands and scripts against it and the real one, and demands equal answers.
"""
