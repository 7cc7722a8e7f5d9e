"""The engine's Lua scripts, each made of the parts that it builds on and its own text."""

from __future__ import annotations

import re
from hashlib import sha1
from importlib.resources import files
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .connection import Reply

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
    "output_append": ("clock", "epoch", "events", "outputs"),
    "output_read": ("clock", "epoch", "outputs"),
    "outputs_kept": ("clock", "epoch"),
    "outputs_sweep": ("clock", "epoch", "outputs"),
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
    "unread_notify": ("clock", "epoch", "events", "inbox"),
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

#: Scripts that carry out several calls at once, and what each of these builds on beside.
_CALLS: Final[dict[str, tuple[str, ...]]] = {"output_append": ("write",)}

#: What each script may reply, or answer to each of its calls: a word, and behind it the kinds of what follows, of which
#: i is a number, b text, and n nothing. Beside these any may say `_REFUSALS`, as far as it builds on what does.
_REPLIES: Final[dict[str, str]] = {
    "attach": "[^:]+:bbiib|format:bb",
    "publish": "ok:(ib)?|absent:",
    "history": "ok:biibi(i[bn])*",
    "history_clear": "ok:",
    "positions": "ok:(bi)*",
    "locate": "ok:b",
    "append": "ok:ibb",
    "inbox_read": "ok:ibiiiibiiii(ibb)*",
    "inbox_list": "ok:ibbiiii(ibb)*",
    "inbox_change": "ok:iiiib|conflict:|invalid:",
    "inbox_announce": "ok:",
    "acknowledge": "ok:i|conflict:|invalid:",
    "clear": "ok:i",
    "quarantine": "ok:i",
    "task_create": "ok:|exists:|version:",
    "task_replace": "ok:([ib]b(i(bb)*)?)?|unknown:|version:|ended:|kind:b|many:",
    "task_restart": "ok:|unknown:|version:",
    "output_append": "ok:ibiii|unknown:|attempt:i|repeat:ibi|ended:|kind:b|many:|begin:|(fenced|gap):ii",
    "output_read": "ok:bbiiiiiib|unknown:",
    "outputs_kept": "ok:i",
    "outputs_sweep": "ok:i",
    "tasks_of": "ok:(bb)*",
    "tasks_idle": "ok:i*",
    "tasks_stale": "ok:i(bb)*",
    "revoke_token": "ok:",
    "revoke_user": "ok:",
    "revoked": "ok:i*",
    "heartbeat": "ok:ibbib*|gone:b",
    "expire": "ok:bib*",
    "nodes": "ok:(bbbibb)*",
    "settings": "ok:(bbb)*",
    "presence_begin": "ok:ii|gone:",
    "presence_describe": "ok:",
    "presence_end": "ok:i",
    "presence_going": "ok:i",
    "presence_lingers": "ok:i",
    "presence_compare": "ok:iii(bbb)*|gone:",
    "presence_sweep": "ok:i(bb[bn])*",
    "lease": "ok:i",
    "ingest_begin": "ok:i|fence:",
    "ingest_end": "ok:|fence:",
    "events_append": "ok:",
    "events_trim": "ok:iiibi",
    "events_read": "ok:ib(bb)*",
    "unread_due": "ok:i(bib[bn])*",
    "unread_notify": "ok:",
    "webhook_begin": "ok:bbi(bb)*",
    "webhook_cursor": "ok:",
    "webhook_gone": "ok:",
    "webhook_hold": "ok:",
    "webhook_keep": "ok:",
    "webhook_release": "ok:i",
    "webhook_dead": "ok:",
    "webhook_retried": "ok:(bb)*",
    "webhook_revive": "ok:",
    "dead": "ok:(bb)*",
    "dead_retry": "ok:i",
}
#: What the parts of scripts reply in their place.
_REFUSALS: Final[dict[str, str]] = {"epoch": "generation:", "write": "fence:|duplicate:bi", "webhook": "fence:"}


class _Kinds(dict[type, str]):
    def __missing__(self, kind: type) -> str:
        return "?"


_KINDS: Final = _Kinds({int: "i", bytes: "b", str: "b", type(None): "n"})

_unpack: Final = msgspec.msgpack.Decoder(list[int | str]).decode


class Script:
    """A script's text, and the digest under which Redis knows it."""

    __slots__ = ("_answers", "_checks", "_replies", "digest", "name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text
        self.digest = sha1(text.encode()).hexdigest()
        parts, of_calls = _PARTS[name], _CALLS.get(name)
        self._checks = "epoch" in parts
        self._replies = _shapes("ok:b*" if of_calls else _REPLIES[name], parts)
        self._answers = _shapes(f"{_REPLIES[name]}|failed:b", of_calls or ())

    def may_reply(self, reply: Reply) -> bool:
        """Return whether a reply has one of the shapes of this script's."""
        if type(reply) is not list or not reply or type(reply[0]) is not bytes:
            return False
        return self._fits(self._replies, reply[0].decode("latin-1"), reply)

    def answer(self, packed: bytes) -> list[int | str] | None:
        """Return what a script that carries out several calls answers to one of them, or None where that has none of
        its shapes."""
        try:
            answer = _unpack(packed)
        except msgspec.MsgspecError:
            return None
        if not answer or not isinstance(answer[0], str):
            return None
        return answer if self._fits(self._answers, answer[0], answer) else None

    def _fits(self, shapes: re.Pattern[str], head: str, reply: Sequence[Reply]) -> bool:
        word, *more = head.split(" ")
        # Who checks the generation says how many writes the data knows of, and which keys it noticed.
        if self._checks and word == "ok":
            if not (more and more[0].isdecimal() and all(more)):
                return False
        elif more:
            return False
        kinds = "".join(map(_KINDS.__getitem__, map(type, reply[1:])))
        return shapes.fullmatch(f"{word}:{kinds}") is not None


def _shapes(own: str, parts: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join((own, *(_REFUSALS[part] for part in parts if part in _REFUSALS))))


def _text(name: str) -> str:
    """Return the text of a script."""
    place = files(__package__) / "lua"

    def read(*names: str) -> str:
        return "\n".join((place / f"{each}.lua").read_text("utf-8") for each in names)

    if name not in _CALLS:
        return read(*_PARTS[name], name)
    # In the function its own KEYS and ARGV stand before those of the script.
    body = f"local function carry_out(KEYS, ARGV)\n{read(*_CALLS[name], name)}\nend"
    return "\n".join((read(*_PARTS[name]), body, read("calls")))


def load() -> dict[str, Script]:
    """Return all scripts by name."""
    return {name: Script(name, _text(name)) for name in _PARTS}
