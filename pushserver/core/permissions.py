"""What a token and the configured roles allow, and the decisions that follow from it.

A permission is ``subscribe:<glob>``, ``publish:<glob>``, ``presence:<glob>``, ``history:<glob>`` or ``admin``; ``*`` in
a glob matches any run of characters. A glob covers a built-in namespace only if its own part before the first ``:`` is
literal: ``subscribe:*`` does not cover ``task:7`` or ``stats``, ``subscribe:task:*`` and ``subscribe:stats`` do.

``admin`` holds every permission that these strings could give. It is no way around a rule that has no permission in
it: another user's ``user:`` channel stays closed, a namespace whose rule is ``nobody`` too, and no client publishes to
the server's own channels.

The decisions return the code of the refusal, or None where the thing is allowed. They take ``None`` as the user of a
connection that has not authenticated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Final
from weakref import WeakValueDictionary

from pushserver.core.channels import (
    CHARACTERS,
    MAX_CHANNEL_LENGTH,
    NO_CLIENT_PUBLISHES,
    Kind,
    Namespace,
    Rule,
    is_built_in,
)
from pushserver.core.errors import Code, Invalid
from pushserver.core.inbox import INBOXES
from pushserver.core.output import parts_of

ADMIN: Final = "admin"

_glob_match = re.compile(rf"[*{CHARACTERS}]{{1,{MAX_CHANNEL_LENGTH}}}").fullmatch


class PermissionVerb(StrEnum):
    """What a permission with a glob is for."""

    SUBSCRIBE = "subscribe"
    PUBLISH = "publish"
    PRESENCE = "presence"
    HISTORY = "history"


def matcher(glob: str) -> Callable[[str], bool]:
    """Whether a name matches a glob, in which ``*`` stands for any run of characters and all else for itself."""
    parts = tuple(glob.split("*"))
    return glob.__eq__ if len(parts) == 1 else partial(_matches, parts)


class Grants:
    """What one permission set allows, compiled. Equal sets are one object, however many connections hold it."""

    __slots__ = ("__weakref__", "_history", "_presence", "_publish", "_subscribe", "admin", "strings")

    def __init__(self, strings: tuple[str, ...]) -> None:
        """Use `of` or `parse`, which share; `strings` are sorted and well formed."""
        globs: dict[str, list[str]] = {verb: [] for verb in PermissionVerb}
        for text in strings:
            verb, _, glob = text.partition(":")
            if verb in globs:
                globs[verb].append(glob)
        #: sorted, as the client is told
        self.strings = strings
        self.admin = ADMIN in strings
        self._subscribe = _Globs(globs[PermissionVerb.SUBSCRIBE])
        self._publish = _Globs(globs[PermissionVerb.PUBLISH])
        self._history = _Globs(globs[PermissionVerb.HISTORY])
        self._presence = _Globs(globs[PermissionVerb.PRESENCE])

    @classmethod
    def of(cls, permissions: Iterable[str]) -> Grants:
        """The shared grants of these permissions, duplicates apart.

        Strings that mean nothing here are kept and grant nothing; a known verb with a glob that no channel could match,
        or an empty string, raises `errors.Invalid`.
        """
        strings = tuple(sorted(set(permissions)))
        known = _interned.get(strings)
        if known is None:
            for text in strings:
                verb, colon, glob = text.partition(":")
                if not text or (colon and verb in _VERBS and _glob_match(glob) is None):
                    raise Invalid(f"{text[:300]!r} is not a permission")
            known = _interned[strings] = cls(strings)
        return known

    @classmethod
    def parse(
        cls,
        permissions: object = (),
        channels: object = (),
        roles: object = (),
        role_permissions: Mapping[str, Iterable[str]] | None = None,
    ) -> Grants:
        """The grants of a token's claims, as they came out of its JSON.

        `channels` is short for ``subscribe:`` of each; `role_permissions` says what a role gives, and a role that it
        does not know gives nothing. Raises `errors.Invalid` for a claim that is not a list of strings, or that has a
        malformed one among them.
        """
        strings = _strings(permissions, "permissions")
        strings += [f"{PermissionVerb.SUBSCRIBE}:{glob}" for glob in _strings(channels, "channels")]
        for role in _strings(roles, "roles"):
            strings += (role_permissions or {}).get(role, ())
        return cls.of(strings)

    def subscribe(self, channel: str) -> bool:
        """Return whether ``admin`` or a ``subscribe:`` covers the channel."""
        return self.admin or self._subscribe.cover(channel)

    def publish(self, channel: str) -> bool:
        """Return whether ``admin`` or a ``publish:`` covers the channel."""
        return self.admin or self._publish.cover(channel)

    def history(self, channel: str) -> bool:
        """Return whether ``admin`` or a ``history:`` covers the channel."""
        return self.admin or self._history.cover(channel)

    def presence(self, channel: str) -> bool:
        """Return whether ``admin`` or a ``presence:`` covers the channel."""
        return self.admin or self._presence.cover(channel)

    def direct_chat(self, user_id: str) -> bool:
        """Return whether a chat message may go straight to this user: ``publish:user:<glob>`` or ``admin``."""
        return self.publish(f"user:{user_id}")

    def __repr__(self) -> str:
        return f"<Grants {' '.join(self.strings) or 'none'}>"


def may_subscribe(namespace: Namespace, channel: str, user_id: str | None, grants: Grants) -> Code | None:
    """Return whether a client may subscribe to a channel of this namespace.

    For ``task:`` and ``output:`` this is what the grants say. A task's owner needs none: ask only where the user is not
    the owner, and the refusal is NOT_FOUND, so that nobody learns that the task exists. ``user_id``: None for who
    shows no token, "" for who shows one of no user for this channel.
    """
    if not namespace.names(channel):
        return Code.INVALID_CHANNEL
    if namespace.open:
        return None
    only = namespace.only_user(channel)
    if user_id is None:
        return None if namespace.subscribe is Rule.ANYONE and only is None else Code.NOT_AUTHENTICATED
    if only is not None:
        allowed = only == user_id and namespace.subscribe is not Rule.NOBODY
        allowed = allowed and (not namespace.private or grants.subscribe(channel))
        return None if allowed else Code.PERMISSION_DENIED
    if namespace.kind is Kind.USER:
        return None if _own(channel, user_id) else Code.PERMISSION_DENIED
    if namespace.kind is Kind.TASK:
        return None if grants.subscribe(channel) else Code.NOT_FOUND
    if namespace.kind is Kind.OUTPUT:
        # Who may follow the task may read what it writes.
        task = f"task:{parts_of(channel)[1]}"
        return None if grants.subscribe(task) or grants.subscribe(channel) else Code.NOT_FOUND
    return _allow(namespace.subscribe, grants.subscribe, channel)


def may_publish(namespace: Namespace, channel: str, user_id: str | None, grants: Grants) -> Code | None:
    """Whether a client may publish to a channel of this namespace. Direct chat is `Grants.direct_chat`'s to allow."""
    if not namespace.names(channel):
        return Code.INVALID_CHANNEL
    if namespace.open:
        return None
    if user_id is None or (not user_id and not grants.publish(channel)):
        return Code.NOT_AUTHENTICATED
    if namespace.kind in NO_CLIENT_PUBLISHES or namespace.only_user(channel) not in (None, user_id):
        return Code.PERMISSION_DENIED
    return _allow(namespace.publish, grants.publish, channel)


def may_read_history(namespace: Namespace, channel: str, user_id: str | None, grants: Grants) -> Code | None:
    """Whether a client may read a channel's history: who may subscribe may, and ``history:`` grants that alone.

    An inbox is its user's alone. For ``task:``, as `may_subscribe`: ask where the user is not the owner.
    """
    refusal = may_subscribe(namespace, channel, user_id, grants)
    if _past_help(refusal, namespace, channel) or not grants.history(channel):
        return refusal
    return None


def may_read_presence(namespace: Namespace, channel: str, user_id: str | None, grants: Grants) -> Code | None:
    """Whether a client may see who is on a channel: who may subscribe may, and ``presence:`` grants that alone.

    Never before authentication, also where anyone may subscribe, unless the namespace is open. A user's own channel is
    that user's alone; for ``task:``, as `may_subscribe`. Whether the namespace keeps presence at all is not asked here.
    """
    if user_id is None and not namespace.open:
        return Code.NOT_AUTHENTICATED if namespace.names(channel) else Code.INVALID_CHANNEL
    refusal = may_subscribe(namespace, channel, user_id, grants)
    if _past_help(refusal, namespace, channel) or not grants.presence(channel):
        return refusal
    return None


def _own(channel: str, user_id: str) -> bool:
    return channel == INBOXES + user_id


def _allow(rule: Rule, granted: Callable[[str], bool], channel: str) -> Code | None:
    if rule is Rule.ANYONE or rule is Rule.AUTHENTICATED or (rule is Rule.PERMISSION and granted(channel)):
        return None
    return Code.PERMISSION_DENIED


def _past_help(refusal: Code | None, namespace: Namespace, channel: str) -> bool:
    # What no narrower grant can mend: nothing was refused, nobody is signed in, or the channel is a user's own.
    if refusal in (None, Code.NOT_AUTHENTICATED, Code.INVALID_CHANNEL):
        return True
    return namespace.kind is Kind.USER or namespace.only_user(channel) is not None


def _strings(claim: object, name: str) -> list[str]:
    if isinstance(claim, list | tuple):
        strings = [item for item in claim if isinstance(item, str)]
        if len(strings) == len(claim):
            return strings
    raise Invalid(f"{name} is not a list of strings")


class _Globs:
    """The globs of one verb, sorted by what they cost to match: a set, prefixes, the rest."""

    __slots__ = ("_built_in_prefixes", "_built_in_rest", "_exact", "_prefixes", "_rest")

    def __init__(self, globs: Iterable[str]) -> None:
        exact: set[str] = set()
        prefixes: list[str] = []
        rest: list[tuple[str, ...]] = []
        for glob in globs:
            parts = tuple(glob.split("*"))
            if len(parts) == 1:
                exact.add(glob)
            elif not any(parts[1:]):
                prefixes.append(parts[0])
            else:
                rest.append(parts)
        self._exact = frozenset(exact)
        self._prefixes = tuple(prefixes)
        self._rest = tuple(rest)
        # A ":" in the part before the first "*" is what makes the namespace literal.
        self._built_in_prefixes = tuple(prefix for prefix in prefixes if ":" in prefix)
        self._built_in_rest = tuple(parts for parts in rest if ":" in parts[0])

    def cover(self, channel: str) -> bool:
        if channel in self._exact:
            return True
        prefixes, rest = self._prefixes, self._rest
        if is_built_in(channel):
            prefixes, rest = self._built_in_prefixes, self._built_in_rest
        return channel.startswith(prefixes) or any(_matches(parts, channel) for parts in rest)


def _matches(parts: tuple[str, ...], channel: str) -> bool:
    # The earliest place for each part is always good enough, so there is no backtracking: a glob of many stars, which a
    # regular expression would take exponentially long over, costs no more than another.
    first, *between, last = parts
    if not channel.startswith(first):
        return False
    place = len(first)
    for part in between:
        found = channel.find(part, place)
        if found < 0:
            return False
        place = found + len(part)
    return len(channel) - len(last) >= place and channel.endswith(last)


_VERBS: Final = frozenset(PermissionVerb)
# Weak, so that permission sets go with the last connection that holds them.
_interned: WeakValueDictionary[tuple[str, ...], Grants] = WeakValueDictionary()
