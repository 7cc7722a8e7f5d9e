"""The commands on the data: each is a function of the database and its arguments, and returns the reply."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from .values import OK, Database, RedisError, Reply, SortedSet, Status, Stream

Command = Callable[[Database, Sequence[bytes]], Reply]

NOT_INTEGER = "ERR value is not an integer or out of range"
NOT_FLOAT = "ERR value is not a valid float"
SYNTAX = "ERR syntax error"
#: So many octets of text Redis keeps beside what else it notes of it.
EMBEDDED = 44

#: The commands by name, the least number of arguments, whether there may be more, and whether they write.
COMMANDS: dict[bytes, tuple[Command, int, bool, bool]] = {}


def command(name: str, least: int, *, more: bool = False, writes: bool = False) -> Callable[[Command], Command]:
    def add(call: Command) -> Command:
        COMMANDS[name.encode()] = (call, least, more, writes)
        return call

    return add


#: What a Redis without memory refuses; other writes need none.
NEEDS_MEMORY = frozenset(
    {b"SET", b"INCR", b"INCRBYFLOAT", b"DECR", b"HSET", b"HSETNX", b"HINCRBY", b"SADD", b"ZADD", b"XADD"}
)


def run(database: Database, parts: Sequence[bytes], begun: bool = False) -> Reply:
    """Return a command's reply; ``begun``: it belongs to a script that has written already, and goes on to its end
    whatever memory there is. Raises `RedisError`."""
    name = parts[0].upper()
    found = COMMANDS.get(name)
    if found is None:
        raise RedisError(f"ERR unknown command '{parts[0].decode('latin-1')}'")
    call, least, more, _ = found
    arguments = parts[1:]
    if len(arguments) < least or (len(arguments) > least and not more):
        raise RedisError(f"ERR wrong number of arguments for '{name.decode().lower()}' command")
    if database.full and name in NEEDS_MEMORY and not begun:
        raise RedisError(database.full)
    return call(database, arguments)


def integer(text: bytes) -> int:
    digits = text[1:] if text[:1] == b"-" else text
    if not digits.isdigit() or (len(digits) > 1 and digits[:1] == b"0") or len(digits) > 19:
        raise RedisError(NOT_INTEGER)
    number = int(text)
    if not -(2**63) <= number < 2**63:
        raise RedisError(NOT_INTEGER)
    return number


def number(text: bytes) -> float:
    try:
        if text != text.strip() or b"_" in text:
            raise ValueError
        found = float(text)
    except ValueError:
        raise RedisError(NOT_FLOAT) from None
    if found != found:
        raise RedisError(NOT_FLOAT)
    return found


def shown(score: float) -> bytes:
    """Return a score as Redis shows it."""
    if score in (float("inf"), float("-inf")):
        return b"inf" if score > 0 else b"-inf"
    if score == int(score) and abs(score) < 1e17:
        return b"%d" % int(score)
    return (b"%.17g" % score) if float(b"%.17g" % score) == score else repr(score).encode()


# -- keys -------------------------------------------------------------------------------------------------------------


@command("PING", 0, more=True)
def ping(database: Database, a: Sequence[bytes]) -> Reply:
    return a[0] if a else Status(b"PONG")


@command("TIME", 0)
def time(database: Database, a: Sequence[bytes]) -> Reply:
    now = database.now()
    return [b"%d" % (now // 1_000_000), b"%d" % (now % 1_000_000)]


@command("PUBLISH", 2)
def publish(database: Database, a: Sequence[bytes]) -> Reply:
    return database.publish(a[0], a[1])


@command("DEL", 1, more=True, writes=True)
def delete(database: Database, a: Sequence[bytes]) -> Reply:
    return sum(database.exists(key) and database.remove(key) for key in a)


@command("EXISTS", 1, more=True)
def exists(database: Database, a: Sequence[bytes]) -> Reply:
    return sum(database.exists(key) for key in a)


@command("TYPE", 1)
def type_of(database: Database, a: Sequence[bytes]) -> Reply:
    return Status(database.kind(a[0]))


@command("PEXPIRE", 2, writes=True)
def pexpire(database: Database, a: Sequence[bytes]) -> Reply:
    return int(database.expire(a[0], database.milliseconds + integer(a[1])))


@command("PEXPIREAT", 2, writes=True)
def pexpireat(database: Database, a: Sequence[bytes]) -> Reply:
    return int(database.expire(a[0], integer(a[1])))


@command("PTTL", 1)
def pttl(database: Database, a: Sequence[bytes]) -> Reply:
    if not database.exists(a[0]):
        return -2
    end = database.end(a[0])
    return -1 if end is None else max(0, end - database.milliseconds)


@command("TTL", 1)
def ttl(database: Database, a: Sequence[bytes]) -> Reply:
    left = pttl(database, a)
    return left if left < 0 else (left + 500) // 1000


# -- strings ----------------------------------------------------------------------------------------------------------


@command("GET", 1)
def get(database: Database, a: Sequence[bytes]) -> Reply:
    return database.get(a[0], bytes)


@command("MGET", 1, more=True)
def mget(database: Database, a: Sequence[bytes]) -> Reply:
    return [database.get(key, bytes) if database.kind(key) == b"string" else None for key in a]


@command("SET", 2, more=True, writes=True)
def set_(database: Database, a: Sequence[bytes]) -> Reply:
    end = None
    if len(a) > 2:
        if len(a) != 4 or a[2].upper() != b"PX":
            raise RedisError(SYNTAX)
        after = integer(a[3])
        if after <= 0:
            raise RedisError("ERR invalid expire time in 'set' command")
        end = database.milliseconds + after
    database.put(a[0], a[1])
    if end is not None:
        database.expire(a[0], end)
    return OK


def _add(database: Database, key: bytes, by: int) -> int:
    value = integer(database.get(key, bytes) or b"0") + by
    if not -(2**63) <= value < 2**63:
        raise RedisError("ERR increment or decrement would overflow")
    database.change(key, b"%d" % value)
    return value


@command("INCR", 1, writes=True)
def incr(database: Database, a: Sequence[bytes]) -> Reply:
    return _add(database, a[0], 1)


@command("DECR", 1, writes=True)
def decr(database: Database, a: Sequence[bytes]) -> Reply:
    return _add(database, a[0], -1)


@command("INCRBYFLOAT", 2, writes=True)
def incrbyfloat(database: Database, a: Sequence[bytes]) -> Reply:
    by = number(a[1])
    value = number(database.get(a[0], bytes) or b"0") + by
    if value != int(value) or abs(value) > 2**53:
        raise RedisError("ERR the model adds whole numbers alone")
    database.compute(a[0], b"%d" % int(value))
    return b"%d" % int(value)


@command("OBJECT", 2)
def object_(database: Database, a: Sequence[bytes]) -> Reply:
    if a[0].upper() != b"ENCODING" or database.kind(a[1]) not in (b"string", b"none"):
        raise RedisError("ERR the model knows OBJECT ENCODING of strings alone")
    value = database.get(a[1], bytes)
    if value is None:
        return None
    if not database.computed(a[1]) and len(value) <= 20:
        try:
            return b"int" if b"%d" % integer(value) == value else b"embstr"
        except RedisError:
            pass
    return b"embstr" if len(value) <= EMBEDDED else b"raw"


# -- hashes -----------------------------------------------------------------------------------------------------------


@command("HSET", 3, more=True, writes=True)
def hset(database: Database, a: Sequence[bytes]) -> Reply:
    if len(a) % 2 == 0:
        raise RedisError("ERR wrong number of arguments for 'hset' command")
    known = database.make(a[0], dict)
    before = len(known)
    known.update(zip(a[1::2], a[2::2], strict=True))
    return len(known) - before


@command("HSETNX", 3, writes=True)
def hsetnx(database: Database, a: Sequence[bytes]) -> Reply:
    known = database.make(a[0], dict)
    if a[1] in known:
        return 0
    known[a[1]] = a[2]
    return 1


@command("HGET", 2)
def hget(database: Database, a: Sequence[bytes]) -> Reply:
    return (database.get(a[0], dict) or {}).get(a[1])


@command("HMGET", 2, more=True)
def hmget(database: Database, a: Sequence[bytes]) -> Reply:
    known = database.get(a[0], dict) or {}
    return [known.get(field) for field in a[1:]]


@command("HGETALL", 1)
def hgetall(database: Database, a: Sequence[bytes]) -> Reply:
    return [part for pair in (database.get(a[0], dict) or {}).items() for part in pair]


@command("HKEYS", 1)
def hkeys(database: Database, a: Sequence[bytes]) -> Reply:
    return list(database.get(a[0], dict) or ())


@command("HEXISTS", 2)
def hexists(database: Database, a: Sequence[bytes]) -> Reply:
    return int(a[1] in (database.get(a[0], dict) or {}))


@command("HDEL", 2, more=True, writes=True)
def hdel(database: Database, a: Sequence[bytes]) -> Reply:
    known = database.get(a[0], dict)
    if known is None:
        return 0
    removed = sum(known.pop(field, None) is not None for field in a[1:])
    database.tidy(a[0])
    return removed


@command("HINCRBY", 3, writes=True)
def hincrby(database: Database, a: Sequence[bytes]) -> Reply:
    by = integer(a[2])
    known = database.make(a[0], dict)
    try:
        value = integer(known.get(a[1], b"0")) + by
    except RedisError:
        raise RedisError("ERR hash value is not an integer") from None
    known[a[1]] = b"%d" % value
    return value


# -- sets -------------------------------------------------------------------------------------------------------------


@command("SADD", 2, more=True, writes=True)
def sadd(database: Database, a: Sequence[bytes]) -> Reply:
    # A dictionary's order would not be Redis' either, and a set's is nobody's: members are sorted where order shows.
    known = database.make(a[0], set)
    before = len(known)
    known.update(a[1:])
    return len(known) - before


@command("SREM", 2, more=True, writes=True)
def srem(database: Database, a: Sequence[bytes]) -> Reply:
    known = database.get(a[0], set)
    if known is None:
        return 0
    before = len(known)
    known.difference_update(a[1:])
    removed = before - len(known)
    database.tidy(a[0])
    return removed


@command("SCARD", 1)
def scard(database: Database, a: Sequence[bytes]) -> Reply:
    return len(database.get(a[0], set) or ())


@command("SMEMBERS", 1)
def smembers(database: Database, a: Sequence[bytes]) -> Reply:
    return sorted(database.get(a[0], set) or ())


@command("SISMEMBER", 2)
def sismember(database: Database, a: Sequence[bytes]) -> Reply:
    return int(a[1] in (database.get(a[0], set) or ()))


@command("SRANDMEMBER", 2)
def srandmember(database: Database, a: Sequence[bytes]) -> Reply:
    count = integer(a[1])
    if count < 0:
        raise RedisError("ERR the model has no negative counts")
    members = sorted(database.get(a[0], set) or ())
    return database.chance.sample(members, min(count, len(members)))


# -- sorted sets ------------------------------------------------------------------------------------------------------


@command("ZADD", 3, more=True, writes=True)
def zadd(database: Database, a: Sequence[bytes]) -> Reply:
    greater = a[1].upper() == b"GT"
    pairs = a[2:] if greater else a[1:]
    if not pairs or len(pairs) % 2:
        raise RedisError(SYNTAX)
    scores = [number(score) for score in pairs[::2]]
    known = database.make(a[0], SortedSet)
    before = len(known)
    for score, member in zip(scores, pairs[1::2], strict=True):
        if not greater or member not in known or score > known[member]:
            known[member] = score
    return len(known) - before


@command("ZREM", 2, more=True, writes=True)
def zrem(database: Database, a: Sequence[bytes]) -> Reply:
    known = database.get(a[0], SortedSet)
    if known is None:
        return 0
    removed = sum(known.pop(member, None) is not None for member in a[1:])
    database.tidy(a[0])
    return removed


@command("ZSCORE", 2)
def zscore(database: Database, a: Sequence[bytes]) -> Reply:
    score = (database.get(a[0], SortedSet) or {}).get(a[1])
    return None if score is None else shown(score)


@command("ZCARD", 1)
def zcard(database: Database, a: Sequence[bytes]) -> Reply:
    return len(database.get(a[0], SortedSet) or ())


def _bound(text: bytes) -> tuple[float, bool]:
    try:
        return (number(text[1:]), True) if text[:1] == b"(" else (number(text), False)
    except RedisError:
        raise RedisError("ERR min or max is not a float") from None


def _bounds(least: bytes, most: bytes) -> Callable[[float], bool]:
    """Return what tells whether a score lies between. Raises `RedisError`."""
    (low, without_low), (high, without_high) = _bound(least), _bound(most)

    def between(score: float) -> bool:
        above = score > low or (score == low and not without_low)
        return above and (score < high or (score == high and not without_high))

    return between


def _ranked(database: Database, key: bytes) -> list[tuple[float, bytes]]:
    return (database.get(key, SortedSet) or SortedSet()).ranked()


@command("ZRANGE", 3, more=True)
def zrange(database: Database, a: Sequence[bytes]) -> Reply:
    first, last = a[1], a[2]
    reverse = by_score = by_text = with_scores = False
    skip, count = 0, -1
    options = [each.upper() for each in a[3:]]
    while options:
        option = options.pop(0)
        if option == b"REV":
            reverse = True
        elif option == b"BYSCORE":
            by_score = True
        elif option == b"BYLEX":
            by_text = True
        elif option == b"WITHSCORES":
            with_scores = True
        elif option == b"LIMIT" and len(options) >= 2:
            skip, count = integer(options.pop(0)), integer(options.pop(0))
        else:
            raise RedisError(SYNTAX)
    if by_score or by_text:
        if by_text and (by_score or reverse or with_scores):
            raise RedisError(SYNTAX)
        bounds = (last, first) if reverse else (first, last)
        # Redis reads the bounds before it looks at the key.
        if by_text:
            among = _texts_between(*bounds)
            found = [each for each in _ranked(database, a[0]) if among(each[1])]
        else:
            between = _bounds(*bounds)
            found = [each for each in _ranked(database, a[0]) if between(each[0])]
        if reverse:
            found.reverse()
        found = found[skip:] if count < 0 else found[skip : skip + count]
    else:
        if count >= 0 or skip:
            raise RedisError("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
        start, end = integer(first), integer(last)
        found = _ranked(database, a[0])
        if reverse:
            found.reverse()
        start = max(0, start + len(found)) if start < 0 else start
        end = end + len(found) if end < 0 else end
        found = found[start : end + 1] if end >= 0 else []
    if not with_scores:
        return [member for _, member in found]
    return [part for score, member in found for part in (member, shown(score))]


def _lexical(text: bytes) -> tuple[int, bytes, bool]:
    """Return a bound between texts: before all, a text, or behind all; and whether the text itself lies outside."""
    if text in (b"-", b"+"):
        return (-1 if text == b"-" else 1), b"", False
    if text[:1] not in (b"(", b"["):
        raise RedisError("ERR min or max not valid string range item")
    return 0, text[1:], text[:1] == b"("


def _texts_between(first: bytes, last: bytes) -> Callable[[bytes], bool]:
    (low, least, without_least), (high, most, without_most) = _lexical(first), _lexical(last)

    def between(member: bytes) -> bool:
        above = (0, member) >= (low, least) and not (without_least and member == least)
        return above and (0, member) <= (high, most) and not (without_most and member == most)

    return between


@command("ZLEXCOUNT", 3)
def zlexcount(database: Database, a: Sequence[bytes]) -> Reply:
    return sum(map(_texts_between(a[1], a[2]), database.get(a[0], SortedSet) or ()))


@command("ZREMRANGEBYSCORE", 3, writes=True)
def zremrangebyscore(database: Database, a: Sequence[bytes]) -> Reply:
    between = _bounds(a[1], a[2])
    known = database.get(a[0], SortedSet)
    if known is None:
        return 0
    found = [each for each in known.ranked() if between(each[0])]
    for _, member in found:
        del known[member]
    database.tidy(a[0])
    return len(found)


# -- streams ----------------------------------------------------------------------------------------------------------

_INVALID_ID = "ERR Invalid stream ID specified as stream command argument"
_MOST = 2**64 - 1


def _id(text: bytes, missing: int) -> tuple[int, int]:
    head, dash, tail = text.partition(b"-")
    if not head.isdigit() or (dash and not tail.isdigit()) or int(head) > _MOST or int(tail or 0) > _MOST:
        raise RedisError(_INVALID_ID)
    return int(head), int(tail) if dash else missing


def _shown(id: tuple[int, int]) -> bytes:
    return b"%d-%d" % id


def _least(text: bytes) -> tuple[int, int]:
    if text == b"-":
        return 0, 0
    if text == b"+":
        return _MOST, _MOST
    if text[:1] == b"(":
        high, low = _id(text[1:], 0)
        return (high, low + 1) if low < _MOST else (high + 1, 0)
    return _id(text, 0)


def _most(text: bytes) -> tuple[int, int]:
    if text == b"-":
        return 0, 0
    if text == b"+":
        return _MOST, _MOST
    if text[:1] == b"(":
        high, low = _id(text[1:], _MOST)
        return (high, low - 1) if low > 0 else (high - 1, _MOST)
    return _id(text, _MOST)


def _trim(stream: Stream, bound: int | tuple[int, int]) -> int:
    """Keep so many entries, or those from an id on; return how many went."""
    before = len(stream.entries)
    if isinstance(bound, int):
        stream.entries = stream.entries[-bound:] if bound else []
    else:
        stream.entries = [entry for entry in stream.entries if entry[0] >= bound]
    return before - len(stream.entries)


def _trimming(arguments: list[bytes]) -> int | tuple[int, int] | None:
    """Take ``MAXLEN = 5`` or ``MINID = 5`` from the head of the arguments."""
    if not arguments or arguments[0].upper() not in (b"MAXLEN", b"MINID"):
        return None
    strategy = arguments.pop(0).upper()
    if arguments and arguments[0] == b"=":
        arguments.pop(0)
    if not arguments:
        raise RedisError(SYNTAX)
    if strategy == b"MINID":
        return _id(arguments.pop(0), 0)
    keep = integer(arguments.pop(0))
    if keep < 0:
        raise RedisError("ERR The MAXLEN argument must be >= 0.")
    return keep


@command("XADD", 4, more=True, writes=True)
def xadd(database: Database, a: Sequence[bytes]) -> Reply:
    arguments = list(a[1:])
    trimming = _trimming(arguments)
    if not arguments or len(arguments) % 2 == 0 or len(arguments) < 3:
        raise RedisError("ERR wrong number of arguments for 'xadd' command")
    wanted, fields = arguments[0], arguments[1:]
    given = None if wanted == b"*" else _id(wanted, 0)
    if given == (0, 0):
        raise RedisError("ERR The ID specified in XADD must be greater than 0-0")
    known = database.get(a[0], Stream)
    last = known.last if known is not None else (0, 0)
    now = database.milliseconds
    id = given or ((now, 0) if now > last[0] else (last[0], last[1] + 1))
    if id <= last:
        raise RedisError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    stream = database.make(a[0], Stream)
    stream.entries.append((id, list(fields)))
    stream.last = id
    if trimming is not None:
        _trim(stream, trimming)
    return _shown(id)


@command("XLEN", 1)
def xlen(database: Database, a: Sequence[bytes]) -> Reply:
    stream = database.get(a[0], Stream)
    return 0 if stream is None else len(stream.entries)


@command("XDEL", 2, more=True, writes=True)
def xdel(database: Database, a: Sequence[bytes]) -> Reply:
    ids = {_id(each, 0) for each in a[1:]}
    stream = database.get(a[0], Stream)
    if stream is None:
        return 0
    before = len(stream.entries)
    stream.entries = [entry for entry in stream.entries if entry[0] not in ids]
    return before - len(stream.entries)


@command("XTRIM", 3, more=True, writes=True)
def xtrim(database: Database, a: Sequence[bytes]) -> Reply:
    arguments = list(a[1:])
    trimming = _trimming(arguments)
    if trimming is None or arguments:
        raise RedisError(SYNTAX)
    stream = database.get(a[0], Stream)
    return 0 if stream is None else _trim(stream, trimming)


def _range(database: Database, a: Sequence[bytes], reverse: bool) -> Reply:
    count = -1
    if len(a) > 3:
        if len(a) != 5 or a[3].upper() != b"COUNT":
            raise RedisError(SYNTAX)
        count = max(0, integer(a[4]))
    least, most = (_least(a[2]), _most(a[1])) if reverse else (_least(a[1]), _most(a[2]))
    stream = database.get(a[0], Stream)
    if stream is not None and count == 0:
        return None
    found = [entry for entry in (stream.entries if stream else ()) if least <= entry[0] <= most]
    if reverse:
        found.reverse()
    return [[_shown(id), list(fields)] for id, fields in (found if count < 0 else found[:count])]


@command("XRANGE", 3, more=True)
def xrange(database: Database, a: Sequence[bytes]) -> Reply:
    return _range(database, a, False)


@command("XREVRANGE", 3, more=True)
def xrevrange(database: Database, a: Sequence[bytes]) -> Reply:
    return _range(database, a, True)


def read_stream(database: Database, key: bytes, after: bytes, count: int) -> Reply:
    """Return what ``XREAD`` of one stream gives, None where there is nothing."""
    least = _id(after, 0)
    stream = database.get(key, Stream)
    found = [entry for entry in (stream.entries if stream else ()) if entry[0] > least][:count]
    return [[key, [[_shown(id), list(fields)] for id, fields in found]]] if found else None
