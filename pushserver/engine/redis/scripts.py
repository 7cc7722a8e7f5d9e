"""The engine's Lua scripts, each made of the parts that it builds on and its own text."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Final

#: What each script builds on, in order. ``epoch`` checks the generation, ``write`` the fence and the key of
#: the write, ``webhook`` the lease.
_PARTS: Final[dict[str, tuple[str, ...]]] = {
    "attach": ("clock",),
    "publish": ("clock", "epoch", "events", "write"),
    "history": ("clock", "epoch"),
    "history_clear": ("clock", "epoch"),
    "positions": ("clock", "epoch"),
    "locate": ("clock", "epoch"),
    "append": ("clock", "epoch", "events", "write", "inbox"),
    "inbox_read": ("clock", "epoch", "inbox"),
    "inbox_list": ("clock", "epoch", "inbox"),
    "inbox_change": ("clock", "epoch", "inbox"),
    "inbox_announce": ("clock", "epoch", "inbox"),
    "acknowledge": ("clock", "epoch", "inbox"),
    "clear": ("clock", "epoch", "inbox"),
    "quarantine": ("clock", "epoch", "inbox"),
    "task_create": ("clock", "epoch", "events", "write"),
    "task_replace": ("clock", "epoch", "events", "write", "inbox", "outputs"),
    "task_restart": ("clock", "epoch", "events", "write", "inbox", "outputs"),
    "output_append": ("clock", "epoch", "events", "write", "outputs"),
    "output_read": ("clock", "epoch", "outputs"),
    "outputs_kept": ("clock", "epoch"),
    "tasks_of": ("clock", "epoch"),
    "tasks_idle": ("clock", "epoch"),
    "tasks_stale": ("clock", "epoch"),
    "revoke_token": ("clock",),
    "revoke_user": ("clock",),
    "revoked": ("clock",),
    "heartbeat": ("clock",),
    "expire": ("clock", "leave"),
    "nodes": ("clock",),
    "settings": (),
    "presence_begin": ("going",),
    "presence_describe": (),
    "presence_end": ("leave",),
    "presence_going": ("going",),
    "presence_lingers": ("going",),
    "presence_compare": ("leave",),
    "presence_sweep": ("leave",),
    "lease": (),
    "ingest_begin": (),
    "ingest_end": (),
    "events_append": ("clock", "events"),
    "events_trim": ("clock", "events"),
    "events_read": (),
    "unread_due": ("clock", "epoch", "inbox"),
    "unread_tell": ("clock", "epoch", "events", "inbox"),
    "webhook_begin": ("clock", "webhook"),
    "webhook_cursor": ("webhook",),
    "webhook_gone": ("webhook",),
    "webhook_hold": ("webhook",),
    "webhook_keep": ("webhook",),
    "webhook_release": ("webhook", "dead_events"),
    "webhook_dead": ("webhook", "dead_events"),
    "webhook_retried": ("webhook",),
    "webhook_revive": ("webhook", "dead_events"),
    "dead": (),
    "dead_retry": (),
}


class Script:
    """A script's text, and the digest under which Redis knows it."""

    __slots__ = ("digest", "name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.digest = sha1(text.encode()).hexdigest()


def load() -> dict[str, Script]:
    """Return all scripts by name."""
    place = files(__package__) / "lua"
    return {
        name: Script(name, "\n".join((place / f"{part}.lua").read_text("utf-8") for part in (*parts, name)))
        for name, parts in _PARTS.items()
    }
