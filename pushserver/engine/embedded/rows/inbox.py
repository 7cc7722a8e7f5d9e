"""What users have waiting, as rows (on the writer thread).

Of each user in use a `InboxHead` is in memory: it knows the offsets of the kept messages, of which kind they are, and
which were read, so that an append needs no query, neither for its offset nor for what must go, and counting none. It is
always what the transaction under way would read; after a rollback every head is forgotten.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import msgspec

from pushserver.core import errors
from pushserver.core.inbox import InboxChange, Selection, Unread
from pushserver.core.positions import base_of
from pushserver.engine.embedded.database import ABSENT, read_rows, run_listed, take_rows, write_rows
from pushserver.engine.embedded.epochs import CARRY
from pushserver.engine.interfaces import (
    POSITION_TTL,
    InboxListing,
    InboxNumbers,
    InboxOutcome,
    InboxPage,
    InboxRules,
)

from .quarantine import read_publications

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterator, Sequence

    from pushserver.core.positions import Position
    from pushserver.core.publication import Publication
    from pushserver.engine.embedded.epochs import Epochs

    from .quarantine import QuarantineRows

#: What a row's ``kind`` is made of.
_CHAT: Final = 1
_OWN_TTL: Final = 2
_TASK: Final = 4
#: How far an entry of a head stands above its kind.
_SHIFT: Final = 3
#: What a head says of each message.
_UNREAD: Final = 0
_READ: Final = 1

#: How many heads are kept in memory, of some 1 to 2 KiB each.
_HEADS: Final = 8192
#: How many separate stretches of lost messages an inbox remembers; beyond it the two oldest become one.
_STRETCHES: Final = 64
#: How often a head says that it is in use, ms.
_TOUCH: Final = 24 * 3600 * 1000
_NEVER: Final = 1 << 62
#: More than any offset is, and little enough for an entry.
_NEWEST: Final = 1 << 58
#: What the epochs of inboxes are derived under.
_KIND: Final = "inbox"

_lost = msgspec.json.Decoder(list[list[int]])


class InboxHead:
    """One user's inbox without its messages.

    ``kept`` holds for each kept message its offset and below that its kind, ascending, and ``read`` in the same order
    whether it was read; ``unread`` counts those that were not by their kind; ``collapse`` the newest offset by key;
    ``lost`` stretches ``[first, last, how many]``; ``next_expiry`` is never later than the first message's.
    """

    __slots__ = (
        "acked",
        "base",
        "carried",
        "chats",
        "collapse",
        "kept",
        "lost",
        "newest",
        "next_expiry",
        "read",
        "tasks",
        "touched_at",
        "unread_chats",
        "unread_others",
        "unread_tasks",
        "user",
        "user_id",
    )

    def __init__(
        self, user: int, user_id: str, base: str, newest: int, acked: int, touched_at: int, carried: str = ""
    ) -> None:
        self.user = user
        self.user_id = user_id
        #: its epoch, without the generation
        self.base = base
        #: the newest offsets when the generation moved on, the last move first
        self.carried = str(carried)
        self.newest = newest
        self.acked = acked
        self.touched_at = touched_at
        self.lost: list[list[int]] = []
        self.empty()

    def empty(self) -> None:
        """Nothing is kept."""
        self.kept = array("q")
        self.read = bytearray()
        self.chats = self.tasks = 0
        self.unread_others = self.unread_chats = self.unread_tasks = 0
        self.collapse: dict[str, int] | None = None
        self.next_expiry = _NEVER

    @property
    def unread(self) -> Unread:
        """How many messages were not read."""
        return Unread(self.unread_others, self.unread_chats, self.unread_tasks)

    def append(self, entry: int, read: int) -> None:
        """A message is kept after all others."""
        self.kept.append(entry)
        self.read.append(read)
        self._count(entry, read, 1)

    def pop(self, index: int) -> int:
        """Take a message out; return whether it was read."""
        entry, read = self.kept.pop(index), self.read.pop(index)
        self._count(entry, read, -1)
        return read

    def drop(self, number: int) -> None:
        """Take out so many of the oldest."""
        for index in range(number):
            self._count(self.kept[index], self.read[index], -1)
        del self.kept[:number], self.read[:number]

    def mark(self, index: int, read: int) -> None:
        """A message that was unread is read now, or the other way round."""
        self.read[index] = read
        self._count_unread(self.kept[index], -1 if read else 1)

    def _count(self, entry: int, read: int, by: int) -> None:
        self.chats += by * bool(entry & _CHAT)
        self.tasks += by * bool(entry & _TASK)
        if read == _UNREAD:
            self._count_unread(entry, by)

    def _count_unread(self, entry: int, by: int) -> None:
        if entry & _TASK:
            self.unread_tasks += by
        elif entry & _CHAT:
            self.unread_chats += by
        else:
            self.unread_others += by

    def after(self, offset: int) -> int:
        """How many messages are kept after an offset."""
        return len(self.kept) - self.up_to(offset)

    def up_to(self, offset: int) -> int:
        """How many messages are kept up to and with an offset."""
        return bisect_left(self.kept, (min(offset, _NEWEST) + 1) << _SHIFT)

    def newest_first(self, end: int, unread: bool) -> Iterator[int]:
        """Return where the messages before place ``end`` stand in ``kept``, the newest first. ``unread``: only those
        that were not read."""
        while (end := self.read.rfind(_UNREAD, 0, end) if unread else end - 1) >= 0:
            yield end

    def place(self, offset: int) -> int | None:
        """Where an offset stands in ``kept``."""
        if offset > self.newest:
            return None
        index = bisect_left(self.kept, offset << _SHIFT)
        return index if index < len(self.kept) and self.kept[index] >> _SHIFT == offset else None

    def lose(self, offset: int) -> None:
        """Counts a message as lost."""
        lost = self.lost
        index = bisect_right(lost, offset, key=lambda stretch: stretch[0])
        if index and lost[index - 1][1] == offset - 1:
            lost[index - 1][1] = offset
            lost[index - 1][2] += 1
            if index < len(lost) and lost[index][0] == offset + 1:
                lost[index - 1][1] = lost[index][1]
                lost[index - 1][2] += lost[index][2]
                del lost[index]
        elif index < len(lost) and lost[index][0] == offset + 1:
            lost[index][0] = offset
            lost[index][2] += 1
        else:
            lost.insert(index, [offset, offset, 1])
        if len(lost) > _STRETCHES:
            lost[:2] = [[lost[0][0], lost[1][1], lost[0][2] + lost[1][2]]]

    def lost_after(self, offset: int) -> int:
        """How many messages after an offset were lost. Within a stretch that was merged, the most it can be."""
        return sum(
            count if first > offset else min(count, last - offset) for first, last, count in self.lost if last > offset
        )


class Inboxes:
    """Every user's inbox. One that was never written has no row and no head."""

    def __init__(self, rules: InboxRules, epochs: Epochs, quarantine: QuarantineRows) -> None:
        self._rules = rules
        self._epochs = epochs
        self._quarantine = quarantine
        self._heads: dict[str, InboxHead] = {}
        #: users that were asked for, and that have no head; at most about `ABSENT` of them
        self._absent: set[str] = set()
        self._next_user = 0
        self._rows: list[tuple[int, int, int, int, str | None, bytes]] = []
        self._removed: list[tuple[int, int]] = []
        self._changed: dict[str, InboxHead] = {}
        #: users of whom unread messages went by the limits or by age
        self._unread_lost: set[str] = set()

    def forget(self) -> None:
        self._unread_lost.clear()
        self._heads.clear()
        self._absent.clear()
        self._rows.clear()
        self._removed.clear()
        self._changed.clear()
        self._next_user = 0

    def fetch(self, connection: sqlite3.Connection, now: int, user_ids: Sequence[str]) -> None:
        """Make the heads of these users known, where there are any."""
        missing = [
            user_id for user_id in dict.fromkeys(user_ids) if user_id not in self._heads and user_id not in self._absent
        ]
        if not missing:
            return
        by_number: dict[int, InboxHead] = {}
        for *row, lost in read_rows(
            connection,
            "SELECT user, user_id, epoch, newest, acked, touched_at, carried, lost FROM inbox_user"
            " WHERE user_id IN (*)",
            missing,
        ):
            head = InboxHead(*row)
            by_number[head.user] = self._heads[head.user_id] = head
            try:
                head.lost = _lost.decode(lost)
            except (msgspec.MsgspecError, TypeError) as error:
                # How many there were nobody knows now; that there were some is told.
                head.lost = [[head.newest, head.newest, 1]]
                self._quarantine.put(connection, now, "inbox", head.user_id, None, lost, str(error))
                self._changed[head.user_id] = head
        for user, offset, kind, expires_at, collapse_key, read in read_rows(
            connection,
            "SELECT user, offset, kind, expires_at, collapse_key, read_at IS NOT NULL FROM inbox WHERE user IN (*)"
            " ORDER BY user, offset",
            list(by_number),
        ):
            self._register(by_number[user], offset, kind, expires_at, collapse_key, read)
        self._absent.update(user_id for user_id in missing if user_id not in self._heads)

    def _create(self, connection: sqlite3.Connection, now: int, user_id: str) -> InboxHead:
        if not self._next_user:
            (highest,) = connection.execute("SELECT max(user) FROM inbox_user").fetchone()
            self._next_user = (highest or 0) + 1
        head = InboxHead(self._next_user, user_id, self._epochs.current(_KIND, user_id, now), 0, 0, now)
        self._next_user += 1
        self._absent.discard(user_id)
        self._heads[user_id] = self._changed[user_id] = head
        return head

    @staticmethod
    def _register(
        head: InboxHead, offset: int, kind: int, expires_at: int, collapse_key: str | None, read: int = _UNREAD
    ) -> None:
        head.append(offset << _SHIFT | kind & (_CHAT | _TASK), read)
        if offset > head.newest:
            head.newest = offset
        if expires_at < head.next_expiry:
            head.next_expiry = expires_at
        if collapse_key is not None:
            if head.collapse is None:
                head.collapse = {}
            head.collapse[collapse_key] = offset

    def _head(self, connection: sqlite3.Connection, now: int, user_id: str) -> InboxHead | None:
        heads = self._heads
        head = heads.get(user_id)
        if head is None:
            self.fetch(connection, now, (user_id,))
            head = heads.get(user_id)
            if head is None:
                return None
        elif len(heads) > _HEADS // 2:
            # The dictionary's order is the order of use; `flush` forgets the least recently used.
            heads[user_id] = heads.pop(user_id)
        if head.next_expiry <= now:
            self._expire(connection, now, head)
        if now - head.touched_at > _TOUCH:
            head.touched_at = now
            self._changed[user_id] = head
        return head

    def _expire(self, connection: sqlite3.Connection, now: int, head: InboxHead) -> int:
        """Remove what is past its age; return how many."""
        self._flush_rows(connection)
        expired = connection.execute(
            "SELECT offset, kind FROM inbox WHERE user = ? AND expires_at <= ? ORDER BY offset", (head.user, now)
        ).fetchall()
        for offset, kind in expired:
            self._evict(head, offset, lost=not kind & _OWN_TTL)
        self._flush_rows(connection)
        (next_expiry,) = connection.execute("SELECT min(expires_at) FROM inbox WHERE user = ?", (head.user,)).fetchone()
        head.next_expiry = next_expiry if next_expiry is not None else _NEVER
        return len(expired)

    def _remove(self, head: InboxHead, offset: int) -> bool:
        """Take a message out; return whether it was there, and unread."""
        index = head.place(offset)
        if index is None:
            return False
        read = head.pop(index)
        self._removed.append((head.user, offset))
        self._changed[head.user_id] = head
        return read == _UNREAD

    def _evict(self, head: InboxHead, offset: int, lost: bool = True) -> None:
        """A message, which is kept, goes by the inbox' limits or by age. ``lost``: its reader has to know."""
        if self._remove(head, offset):
            self._unread_lost.add(head.user_id)
        if lost:
            head.lose(offset)

    def take_unread_lost(self) -> list[str]:
        """Return the users of whom unread messages went by the limits or by age since this was last asked."""
        users, self._unread_lost = sorted(self._unread_lost), set()
        return users

    def append(
        self,
        connection: sqlite3.Connection,
        now: int,
        user_id: str,
        chat: bool,
        ttl: int | None,
        collapse_key: str | None,
        body: bytes,
        task: bool = False,
    ) -> tuple[int, str, InboxChange | None]:
        """Keep a message; return its offset and epoch, and what became of the one that it replaces. ``task``: it is the
        end of a task."""
        head = self._head(connection, now, user_id) or self._create(connection, now, user_id)
        replaced = 0
        if collapse_key is not None and head.collapse is not None:
            earlier = head.place(head.collapse.get(collapse_key, 0))
            if earlier is not None and head.read[earlier] == _UNREAD:
                replaced = head.kept[earlier] >> _SHIFT
                self._remove(head, replaced)
        offset = head.newest + 1
        rules = self._rules
        own = ttl is not None and ttl < rules.ttl
        expires_at = now + (ttl if own and ttl is not None else rules.ttl)
        kind = (_CHAT if chat else 0) | (_OWN_TTL if own else 0) | (_TASK if task else 0)
        self._register(head, offset, kind, expires_at, collapse_key)
        self._rows.append((head.user, offset, kind, expires_at, collapse_key, body))
        self._make_room(head, chat)
        if head.collapse is not None and len(head.collapse) > 2 * rules.size:
            head.collapse = {key: at for key, at in head.collapse.items() if head.place(at) is not None}
        epoch = self._epochs.full(head.base)
        change = InboxChange(head.unread, epoch, (replaced,), deleted=True) if replaced else None
        return offset, epoch, change

    def _make_room(self, head: InboxHead, chat: bool) -> None:
        """Let go what is too much now that a message came. ``chat``: it is direct chat."""
        kept, rules = head.kept, self._rules

        def oldest(marks: int, value: int) -> int:
            return next(entry for entry in kept if entry & marks == value) >> _SHIFT

        while head.tasks > rules.task_size:
            self._evict(head, oldest(_TASK, _TASK))
        # Chat gives way to what is unread and matters more, but not to what was read long ago: acknowledging deletes
        # nothing, so a busy user's inbox is always full.
        while head.chats > rules.chat_size or (
            chat and len(kept) - head.tasks > rules.size and oldest(_TASK, 0) > head.acked
        ):
            self._evict(head, oldest(_CHAT, _CHAT))
        while len(kept) - head.tasks > rules.size:
            self._evict(head, oldest(_TASK, 0))

    def withdraw(
        self, connection: sqlite3.Connection, now: int, user_id: str, offset: int, epoch: str
    ) -> InboxChange | None:
        """Remove a message; it does not count as lost. Return what is told of that; None where it is not kept."""
        head = self._head(connection, now, user_id)
        if head is None or head.base != base_of(epoch) or head.place(offset) is None:
            return None
        self._flush_rows(connection)
        self._remove(head, offset)
        return InboxChange(head.unread, self._epochs.full(head.base), (offset,), deleted=True)

    def state(self, connection: sqlite3.Connection, now: int, user_id: str) -> InboxNumbers:
        head = self._head(connection, now, user_id)
        if head is None:
            return InboxNumbers(0, self._epochs.full(self._epochs.current(_KIND, user_id, now)), 0, 0)
        pending = head.after(head.acked)
        return InboxNumbers(head.newest, self._epochs.full(head.base), head.acked, pending, head.unread)

    def count_unread(self, connection: sqlite3.Connection, now: int, user_id: str) -> Unread:
        """Return how many messages were not read."""
        head = self._head(connection, now, user_id)
        return Unread() if head is None else head.unread

    def read(
        self,
        connection: sqlite3.Connection,
        now: int,
        user_id: str,
        after: int | None,
        limit: int,
        max_bytes: int | None = None,
    ) -> InboxPage:
        """As `interfaces.IInbox.read`."""
        head = self._head(connection, now, user_id)
        if head is None:
            base = self._epochs.current(_KIND, user_id, now)
            previous = self._epochs.previous(_KIND, user_id, base, now)
            return InboxPage([], 0, self._epochs.full(base), 0, 0, 0, 0, previous_epoch=previous)
        since = head.acked if after is None else after
        self._flush_rows(connection)
        found = connection.execute(
            "SELECT offset, body, read_at FROM inbox WHERE user = ? AND offset > ? ORDER BY offset LIMIT ?",
            (head.user, min(since, _NEVER), max(limit, 0)),
        )
        rows, more = take_rows(found, max_bytes)
        epoch = self._epochs.full(head.base)
        messages, damaged = read_publications(rows, epoch)
        if damaged:
            self._set_aside(connection, now, head, damaged)
            return self.read(connection, now, user_id, after, limit, max_bytes)
        pending = head.after(since)
        last = since if not messages or messages[-1].offset is None else messages[-1].offset
        lost, beyond = head.lost_after(since), head.lost_after(last)
        previous = self._epochs.previous(_KIND, user_id, head.base, now)
        return InboxPage(messages, head.newest, epoch, head.acked, lost, beyond, pending, more, previous, head.unread)

    def _set_aside(
        self,
        connection: sqlite3.Connection,
        now: int,
        head: InboxHead,
        damaged: list[tuple[int, Any, str]],  # Any: what a damaged row holds
    ) -> None:
        for offset, body, reason in damaged:
            self._quarantine.put(connection, now, "inbox", head.user_id, offset, body, reason)
            self._evict(head, offset)

    def list(
        self,
        connection: sqlite3.Connection,
        now: int,
        user_id: str,
        before: int | None,
        limit: int,
        unread: bool,
        max_bytes: int | None = None,
    ) -> InboxListing:
        """As `interfaces.IInbox.list`."""
        head = self._head(connection, now, user_id)
        base = self._epochs.current(_KIND, user_id, now) if head is None else head.base
        epoch, previous = self._epochs.full(base), self._epochs.previous(_KIND, user_id, base, now)
        if head is None:
            return InboxListing([], False, 0, epoch, Unread(), previous)
        self._flush_rows(connection)
        end = len(head.kept) if before is None else head.up_to(before - 1)
        # One more than is wanted says that there are more.
        places = list(islice(head.newest_first(end, unread), limit + 1))
        more = len(places) > limit
        offsets = [head.kept[place] >> _SHIFT for place in places[:limit]]
        found = run_listed(
            connection,
            "SELECT offset, body, read_at FROM inbox WHERE user = ? AND offset IN (*) ORDER BY offset DESC",
            (head.user,),
            offsets,
        )
        rows, cut = take_rows(found, max_bytes)
        messages, damaged = read_publications(rows, epoch)
        if damaged:
            self._set_aside(connection, now, head, damaged)
            return self.list(connection, now, user_id, before, limit, unread, max_bytes)
        return InboxListing(messages, more or cut, head.newest, epoch, head.unread, previous)

    def mark(
        self,
        connection: sqlite3.Connection,
        now: int,
        user_id: str,
        selection: Selection,
        read_at: int | None,
        exclude: str | None,
    ) -> tuple[InboxOutcome, InboxChange | None]:
        """As `interfaces.IInbox.mark`; also return what is told of it."""
        head, chosen = self._chosen(connection, now, user_id, selection)
        read = _UNREAD if read_at is None else _READ
        changed = [] if head is None else [index for index in chosen if head.read[index] != read]
        if head is None or not changed:
            return InboxOutcome(0, Unread() if head is None else head.unread), None
        for index in changed:
            head.mark(index, read)
        offsets = [head.kept[index] >> _SHIFT for index in changed]
        self._flush_rows(connection)
        if selection.up_to is None:
            update = "UPDATE inbox SET read_at = ? WHERE user = ? AND offset IN (*)"
            run_listed(connection, update, (read_at, head.user), offsets)
        else:
            before = "read_at IS NULL" if read else "read_at IS NOT NULL"
            update = f"UPDATE inbox SET read_at = ? WHERE user = ? AND offset <= ? AND {before}"
            connection.execute(update, (read_at, head.user, selection.up_to))
        return self._changed_by(selection, head, offsets, InboxChange(head.unread, read_at=read_at, exclude=exclude))

    def delete(
        self, connection: sqlite3.Connection, now: int, user_id: str, selection: Selection, exclude: str | None
    ) -> tuple[InboxOutcome, InboxChange | None]:
        """As `interfaces.IInbox.delete`; also return what is told of it."""
        head, chosen = self._chosen(connection, now, user_id, selection)
        if head is None or not chosen:
            return InboxOutcome(0, Unread() if head is None else head.unread), None
        offsets = [head.kept[index] >> _SHIFT for index in chosen]
        self._flush_rows(connection)
        if selection.up_to is None:
            for offset in offsets:
                self._remove(head, offset)
        else:
            head.drop(len(chosen))
            connection.execute("DELETE FROM inbox WHERE user = ? AND offset <= ?", (head.user, selection.up_to))
            self._changed[user_id] = head
        return self._changed_by(selection, head, offsets, InboxChange(head.unread, deleted=True, exclude=exclude))

    def _chosen(
        self, connection: sqlite3.Connection, now: int, user_id: str, selection: Selection
    ) -> tuple[InboxHead | None, Sequence[int]]:
        """Return the head, and where in ``kept`` the messages are that are chosen, ascending. Raises
        `errors.PushError`."""
        head = self._head(connection, now, user_id)
        up_to = selection.up_to
        self._check(now, user_id, head, up_to, selection.epoch)
        if head is None:
            return None, ()
        if up_to is not None:
            return head, range(head.up_to(up_to))
        places = map(head.place, sorted(set(selection.offsets)))
        return head, [place for place in places if place is not None]

    def _changed_by(
        self, selection: Selection, head: InboxHead, offsets: Sequence[int], change: InboxChange
    ) -> tuple[InboxOutcome, InboxChange]:
        named = () if selection.up_to is not None else tuple(offsets)
        epoch = self._epochs.full(head.base)
        change = msgspec.structs.replace(change, epoch=epoch, offsets=named, up_to=selection.up_to)
        return InboxOutcome(len(offsets), head.unread), change

    def _check(self, now: int, user_id: str, head: InboxHead | None, offset: int | None, epoch: str) -> None:
        """Raise `errors.Conflict` where this is not the inbox' epoch (0 of the one before is 0 of this one), and
        `errors.Invalid` where the offset is beyond the newest."""
        base = head.base if head is not None else self._epochs.current(_KIND, user_id, now)
        if epoch != self._epochs.full(base) and (
            offset != 0 or epoch != self._epochs.previous(_KIND, user_id, base, now)
        ):
            raise errors.Conflict("the inbox has another epoch")
        if (offset or 0) > (0 if head is None else head.newest):
            raise errors.Invalid("the offset is beyond the newest message")

    def locate(self, connection: sqlite3.Connection, now: int, user_id: str, since: Position) -> Position | None:
        """As `interfaces.IInbox.locate`."""
        head = self._head(connection, now, user_id)
        if head is None:
            return self._epochs.locate(since, self._epochs.current(_KIND, user_id, now), 0, "")
        return self._epochs.locate(since, head.base, head.newest, head.carried)

    @staticmethod
    def carry(connection: sqlite3.Connection) -> None:
        """The generation moves on: note how far each inbox has come."""
        connection.execute(
            "UPDATE inbox_user SET carried = "
            + CARRY.format(
                "max(newest, coalesce((SELECT max(offset) FROM inbox WHERE inbox.user = inbox_user.user), 0))"
            )
        )

    def unread(
        self, connection: sqlite3.Connection, now: int, user_id: str, offset: int, epoch: str
    ) -> tuple[Publication, bool] | None:
        """Return a message, and whether a device took it; None where it is not kept, or was read."""
        page = self.read(connection, now, user_id, offset - 1, 1)
        if base_of(page.epoch) != base_of(epoch) or not page.messages:
            return None
        message = page.messages[0]
        return None if message.offset != offset or message.read_at is not None else (message, offset <= page.acked)

    def acknowledge(self, connection: sqlite3.Connection, now: int, user_id: str, offset: int, epoch: str) -> int:
        """As `interfaces.IInbox.acknowledge`."""
        head = self._head(connection, now, user_id)
        self._check(now, user_id, head, offset, epoch)
        if head is None:
            return 0
        if offset > head.acked:
            head.acked = offset
            self._changed[user_id] = head
        return head.acked

    def clear(self, connection: sqlite3.Connection, now: int, user_id: str) -> tuple[int, InboxChange | None]:
        """As `interfaces.IInbox.clear`; also return what is told of it."""
        head = self._head(connection, now, user_id)
        if head is None:
            return 0, None
        self._flush_rows(connection)
        connection.execute("DELETE FROM inbox WHERE user = ?", (head.user,))
        count = len(head.kept)
        head.empty()
        head.lost = []
        self._changed[user_id] = head
        told = InboxChange(Unread(), self._epochs.full(head.base), up_to=head.newest, deleted=True)
        return count, told if count else None

    def _flush_rows(self, connection: sqlite3.Connection) -> None:
        if self._rows:
            write_rows(connection, "INSERT INTO inbox (user, offset, kind, expires_at, collapse_key, body)", self._rows)
            self._rows.clear()
        if self._removed:
            # A pair of columns IN a list would scan the whole table; the join looks up each pair.
            write_rows(
                connection,
                "DELETE FROM inbox WHERE id IN (SELECT inbox.id FROM (",
                self._removed,
                ") CROSS JOIN inbox ON inbox.user = column1 AND inbox.offset = column2)",
            )
            self._removed.clear()

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write what the batch changed."""
        if len(self._absent) > ABSENT:
            self._absent.clear()
        self._flush_rows(connection)
        if self._changed:
            write_rows(
                connection,
                "INSERT INTO inbox_user (user, user_id, epoch, newest, acked, lost, touched_at)",
                [
                    (
                        head.user,
                        head.user_id,
                        head.base,
                        head.newest,
                        head.acked,
                        msgspec.json.encode(head.lost),
                        head.touched_at,
                    )
                    for head in self._changed.values()
                ],
                "ON CONFLICT (user) DO UPDATE SET newest = excluded.newest, acked = excluded.acked,"
                " lost = excluded.lost, touched_at = excluded.touched_at",
            )
            self._changed.clear()
        while len(self._heads) > _HEADS:
            del self._heads[next(iter(self._heads))]

    def sweep(self, connection: sqlite3.Connection, now: int, limit: int) -> int:
        """Remove some of what is past its age, and some heads of inboxes long empty; return how many."""
        self._flush_rows(connection)
        # The rows stand in the order of time, so what is past the inbox' own age is found at the front.
        user_ids = [
            user_id
            for (user_id,) in connection.execute(
                "SELECT user_id FROM inbox_user WHERE user IN (SELECT user FROM"
                " (SELECT user, expires_at FROM inbox ORDER BY id LIMIT :limit) WHERE expires_at <= :now UNION ALL"
                f" SELECT * FROM (SELECT user FROM inbox WHERE kind & {_OWN_TTL} AND expires_at <= :now LIMIT :limit)"
                ")",
                {"now": now, "limit": limit},
            ).fetchall()
        ]
        removed = 0
        for user_id in user_ids:
            if removed >= limit:
                break
            self.fetch(connection, now, (user_id,))
            removed += self._expire(connection, now, self._heads[user_id])
        # The count of what was lost unread is not forgotten: its reader does not know it yet.
        idle = [
            user_id
            for (user_id,) in connection.execute(
                "SELECT user_id FROM inbox_user AS of WHERE touched_at <= ? AND lost = X'5B5D' AND NOT EXISTS"
                " (SELECT 1 FROM inbox WHERE inbox.user = of.user) LIMIT ?",
                (now - max(POSITION_TTL, self._rules.ttl), limit),
            ).fetchall()
            if user_id not in self._changed
        ]
        for user_id in idle:
            self._heads.pop(user_id, None)
            connection.execute("DELETE FROM inbox_user WHERE user_id = ?", (user_id,))
        return max(removed, len(idle))
