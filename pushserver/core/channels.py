"""Names of channels and ids, and the namespaces that say what a channel means and may do.

A channel's namespace is the part of its name before the first ``:``, and ``""`` for a name without one. A namespace
that is neither built in nor configured does not exist, and its channels are refused: fail closed. Two built-in channels
have no ``:`` at all, ``system`` and ``stats``: each is the one channel of the namespace of that name, so
``system:anything`` is unknown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any, Final

import msgspec

from pushserver.core.errors import Code, Refused
from pushserver.core.output import is_output_name, parts_of

MAX_CHANNEL_LENGTH: Final = 255
MAX_ID_LENGTH: Final = 200
#: Channels whose namespace is remembered.
MAX_KNOWN: Final = 10_000

# From "!" to "~" (0x21-0x7E) without "*" (the glob) and "," (separates channels in a query string).
CHARACTERS: Final = r"!-)+\--~"

_channel_match = re.compile(rf"[{CHARACTERS}]{{1,{MAX_CHANNEL_LENGTH}}}").fullmatch
_id_match = re.compile(rf"[{CHARACTERS}]{{1,{MAX_ID_LENGTH}}}").fullmatch
_namespace_match = re.compile(rf"(?:(?!:)[{CHARACTERS}]){{0,{MAX_CHANNEL_LENGTH - 1}}}").fullmatch


def is_channel(name: str) -> bool:
    """Whether this is the name of a channel: 1 to 255 characters from ``!`` to ``~``, without ``*`` and ``,``."""
    return _channel_match(name) is not None


def is_id(text: str) -> bool:
    """Return whether this is an id of a user or a task: 1 to 200 of a channel name's characters."""
    return _id_match(text) is not None


def is_namespace_name(text: str) -> bool:
    """Return whether a namespace may be called so: a channel name's characters without ``:``, or empty."""
    return _namespace_match(text) is not None


class Rule(StrEnum):
    """Who may do a thing in a namespace."""

    ANYONE = "anyone"
    AUTHENTICATED = "authenticated"
    PERMISSION = "permission"
    NOBODY = "nobody"


class Kind(Enum):
    """What the channels of a namespace mean; only ``PLAIN`` has no meaning to the server."""

    USER = "user"
    TASK = "task"
    OUTPUT = "output"
    SYSTEM = "system"
    STATS = "stats"
    CHAT = "chat"
    STATUS = "status"
    PUBLIC = "public"
    PLAIN = "plain"


#: Kinds whose channels no client publishes to, whatever is configured or granted.
NO_CLIENT_PUBLISHES: Final = frozenset({Kind.USER, Kind.TASK, Kind.OUTPUT, Kind.SYSTEM, Kind.STATS, Kind.STATUS})

# What is part of the meaning: who receives, and what is kept. Options of these names have no effect there.
_FIXED_SUBSCRIBE = frozenset({Kind.USER, Kind.TASK, Kind.OUTPUT, Kind.SYSTEM})
_FIXED_HISTORY = frozenset({Kind.USER, Kind.TASK, Kind.OUTPUT, Kind.STATUS})
_SINGLE_CHANNEL = frozenset({Kind.SYSTEM, Kind.STATS})
# The rest of these channels' names is an id.
_NAMED_BY_ID = frozenset({Kind.USER, Kind.TASK, Kind.STATUS})


class Namespace(msgspec.Struct, frozen=True):
    """What the channels of one namespace may do. `history_ttl` is in milliseconds; 0 messages of history: none kept.
    `user_limited`: a channel whose name has a ``#`` is for the user alone whose id stands behind its last one. `open`:
    whoever connects may do everything there, signed in or not. `private`: as it counts for a channel whose name begins
    with `PRIVATE`: whose name it is needs a permission as well. Never configured.
    """

    name: str
    kind: Kind = Kind.PLAIN
    subscribe: Rule = Rule.AUTHENTICATED
    publish: Rule = Rule.PERMISSION
    history_size: int = 0
    history_ttl: int = 600_000
    presence: bool = False
    join_leave: bool = False
    user_limited: bool = False
    open: bool = False
    private: bool = False

    @property
    def durable(self) -> bool:
        """Return whether its messages rest in an inbox, which has its own limits, rather than in a history."""
        return self.kind is Kind.USER

    @property
    def has_positions(self) -> bool:
        """Return whether its messages carry offsets: it has an inbox or a history."""
        return self.history_size > 0 or self.kind is Kind.USER

    @property
    def tracks_presence(self) -> bool:
        """Whether it is kept who is there: what `presence` shows, and in a chat room, shown or not, what allows its
        people to write to each other."""
        return self.presence or self.kind is Kind.CHAT

    @property
    def announces_presence(self) -> bool:
        """Return whether its channels are told of users who come and go."""
        return self.presence and self.join_leave

    def only_user(self, channel: str) -> str | None:
        """Return the one user that a channel is for by its name; None where it is for others too."""
        return channel.rpartition("#")[2] if self.user_limited and "#" in channel else None

    def names(self, channel: str) -> bool:
        """Whether a channel of this namespace is well named: ``user:``, ``task:`` and ``status:`` want an id,
        ``output:`` the name of an output and a task's id."""
        if self.kind is Kind.OUTPUT:
            name, task_id = parts_of(channel)
            return is_output_name(name) and is_id(task_id)
        return self.kind not in _NAMED_BY_ID or is_id(channel[len(self.name) + 1 :])


_DAY: Final = 86_400_000

#: The namespaces that every server has, by name.
BUILT_IN: Final[Mapping[str, Namespace]] = MappingProxyType(
    {
        namespace.name: namespace
        for namespace in (
            Namespace("user", Kind.USER, Rule.AUTHENTICATED, Rule.NOBODY),
            Namespace("task", Kind.TASK, Rule.PERMISSION, Rule.NOBODY),
            Namespace("output", Kind.OUTPUT, Rule.PERMISSION, Rule.NOBODY),
            Namespace("system", Kind.SYSTEM, Rule.AUTHENTICATED, Rule.NOBODY, history_size=50, history_ttl=_DAY),
            Namespace("stats", Kind.STATS, Rule.PERMISSION, Rule.NOBODY),
            Namespace(
                "chat",
                Kind.CHAT,
                Rule.AUTHENTICATED,
                Rule.AUTHENTICATED,
                history_size=50,
                history_ttl=_DAY,
                presence=True,
                join_leave=True,
            ),
            Namespace("status", Kind.STATUS, Rule.AUTHENTICATED, Rule.NOBODY),
            Namespace("public", Kind.PUBLIC, Rule.ANYONE, Rule.PERMISSION),
        )
    }
)

_SINGLE: Final = frozenset(name for name, namespace in BUILT_IN.items() if namespace.kind in _SINGLE_CHANNEL)
_PREFIXES: Final = tuple(f"{name}:" for name in BUILT_IN if name not in _SINGLE)


def is_built_in(channel: str) -> bool:
    """Return whether a channel belongs to a built-in namespace: the ones that a loose glob never covers."""
    return channel in _SINGLE or channel.startswith(_PREFIXES)


def configured(name: str, **options: Any) -> Namespace:
    """Return the namespace of a name with these options, by the names of `Namespace`'s fields.

    A built-in one keeps what is not given, and its meaning: who receives a ``user:``, ``task:``, ``output:`` or
    ``system`` channel, what is kept of ``user:``, ``task:``, ``output:`` and ``status:``, and that no client publishes
    to these and ``stats``, whatever the options say.
    """
    namespace = BUILT_IN.get(name, Namespace(name))
    fixed: set[str] = set()
    if namespace.kind in _FIXED_SUBSCRIBE:
        fixed.add("subscribe")
    if namespace.kind in NO_CLIENT_PUBLISHES:
        fixed.add("publish")
    if namespace.kind in _FIXED_HISTORY:
        fixed |= {"history_size", "history_ttl"}
    return msgspec.structs.replace(namespace, **{key: value for key, value in options.items() if key not in fixed})


#: How names begin that are for who has a permission or a token for them, where there are such names.
PRIVATE: Final = "$"


class Namespaces:
    """All namespaces of a server: the built-in ones, and in their place or beside them those `configured`."""

    __slots__ = ("_by_name", "_known", "_private", "_single", "_unnamed", "all")

    def __init__(self, entries: Iterable[Namespace] = (), *, private: bool = False) -> None:
        """``private``: channels whose names begin with `PRIVATE` need a permission to subscribe, whatever their
        namespace says. Raises ValueError for a name that no namespace can have, and for one that comes twice."""
        namespaces = dict(BUILT_IN)
        seen: set[str] = set()
        for entry in entries:
            if not is_namespace_name(entry.name):
                raise ValueError(f"{entry.name!r} cannot be the name of a namespace")
            if entry.name in seen:
                raise ValueError(f"the namespace {entry.name!r} is configured twice")
            seen.add(entry.name)
            namespaces[entry.name] = entry
        #: by name, the built-in ones first
        self.all: Mapping[str, Namespace] = MappingProxyType(namespaces)
        self._single = {name: namespaces[name] for name in _SINGLE}
        self._unnamed = namespaces.get("")
        self._by_name = {name: found for name, found in namespaces.items() if name not in _SINGLE}
        self._private = private
        #: channels that were looked up, since each is looked up many times
        self._known: dict[str, Namespace] = {}

    def adopt(self, other: Namespaces) -> None:
        """Be as another from now on, for all who hold this one."""
        self.all, self._single = other.all, other._single
        self._unnamed, self._by_name, self._private = other._unnamed, other._by_name, other._private
        self._known = {}

    def of(self, channel: str) -> Namespace:
        """Return a channel's namespace. Raises `errors.Refused`: INVALID_CHANNEL, UNKNOWN_CHANNEL."""
        namespace = self._known.get(channel)
        if namespace is not None:
            return namespace
        if not is_channel(channel):
            raise Refused("not the name of a channel", Code.INVALID_CHANNEL)
        namespace = self.find(channel)
        if namespace is None:
            raise Refused("no such namespace", Code.UNKNOWN_CHANNEL)
        if not namespace.names(channel):
            raise Refused("not the name of a channel", Code.INVALID_CHANNEL)
        if len(self._known) >= MAX_KNOWN:
            self._known.clear()
        self._known[channel] = namespace
        return namespace

    def find(self, channel: str) -> Namespace | None:
        """The namespace of a channel, which is presumed to be well formed; None: unknown, so refuse it."""
        name, colon, _ = channel.partition(":")
        # A name that begins with ":" has the empty namespace as well.
        found = self._by_name.get(name) if colon else self._single.get(channel, self._unnamed)
        if found is None or not (self._private and channel.startswith(PRIVATE)) or found.subscribe is Rule.NOBODY:
            return found
        return msgspec.structs.replace(found, subscribe=Rule.PERMISSION, private=True)
