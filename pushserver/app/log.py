"""The log: one line for each event, as text or as JSON, from a level on, with nothing raw from outside in it.

    2026-11-25T10:00:00+0000 [web#warn] a sign-in failed [event=sign_in_failed code=TOKEN_EXPIRED userId=42]

Events of ours carry ``event`` and, where they apply, the fields of `FIELDS`. Characters that could move a cursor, end a
line or ring a bell are escaped here, once for whatever is logged: only a traceback has lines of its own.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec
from twisted.application.service import IServiceCollection, Service
from twisted.logger import ILogObserver, LogEvent, LogLevel, formatEvent, formatTime
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile
from zope.interface import implementer

from pushserver.config.sections import LogSection

#: What an event may say beside its text, in this order.
FIELDS: Final = ("connectionId", "userId", "address", "code", "reason", "origin", "node", "key", "worker")
#: ``event`` of a line that nobody gave a name.
UNNAMED: Final = "log"

#: Bytes that a pipe takes at once without waiting, once it says that it takes any (POSIX: PIPE_BUF).
_PIPE_BUF: Final = select.PIPE_BUF


class _Settings:
    """What holds for the whole process, and can change while it runs."""

    json = False
    level = LogLevel.info


_settings = _Settings()


def configure(section: LogSection) -> None:
    """Write from now on as the section says: its format, and its level and what is more important."""
    _settings.json = section.format == "json"
    _settings.level = LogLevel.levelWithName(section.level)


def wanted(event: LogEvent) -> bool:
    """Return whether an event is important enough to be written."""
    level = event.get("log_level", LogLevel.info)
    return bool(level >= _settings.level)


def escape(text: str) -> str:
    """Return a text that stays on its line and does nothing to a terminal."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _escape_lines(text: str) -> str:
    return "\n".join(map(escape, text.expandtabs(4).splitlines()))


def message(event: LogEvent) -> tuple[str, str]:
    """Return the text of an event, on one line, and its traceback, "" where there is none. It never raises."""
    try:
        text = escape(formatEvent(event).strip("\n"))
    except Exception:
        text = "(an event that cannot be shown)"
    traceback = event.get("traceback", "")
    if "log_failure" in event:
        try:
            traceback = event["log_failure"].getTraceback()
        except Exception:
            traceback = "(a traceback that cannot be made)"
    return text, _escape_lines(traceback)


def fields(event: LogEvent) -> dict[str, object]:
    """Return what an event says beside its text: ``event``, and those of `FIELDS` that it has."""
    found: dict[str, object] = {"event": event["event"]} if "event" in event else {}
    for name in FIELDS:
        value = event.get(name)
        if value is not None and value != "":
            found[name] = value if isinstance(value, int | float) else escape(str(value))
    return found


def as_text(event: LogEvent) -> str:
    """Return an event as Twisted writes it, and its fields behind the text."""
    text, traceback = message(event)
    system = event.get("log_system")
    if system is None:
        level = event.get("log_level", LogLevel.info).name
        system = f"{event.get('log_namespace', '-')}#{level}"
    # Of a worker's line the system says whose it is.
    said = {name: value for name, value in fields(event).items() if name != "worker"}
    if "event" in said:
        text += f" [{' '.join(f'{name}={value}' for name, value in said.items())}]"
    if traceback:
        text += "\n\t" + traceback.replace("\n", "\n\t")
    return f"{formatTime(event.get('log_time'))} [{escape(str(system))}] {text}\n"


def as_json(event: LogEvent) -> str:
    """Return an event as one JSON object on one line."""
    text, traceback = message(event)
    at = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    line: dict[str, Any] = {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": event.get("log_level", LogLevel.info).name,
        "logger": escape(str(event.get("logger", event.get("log_namespace", "-")))),
        "event": UNNAMED,
        **fields(event),
        "message": text,
    }
    if traceback:
        line["traceback"] = traceback
    return msgspec.json.encode(line).decode() + "\n"


@implementer(ILogObserver)
class Output:
    """Writes events to a file. What cannot be written is lost, and that is said once: a full disk stops nobody, and
    neither does a program that reads no more of a pipe."""

    def __init__(self, file: TextIO | LogFile) -> None:
        self._file = file
        self._pipe = _pipe_of(file)
        #: whether the last line in the pipe has no end
        self._cut = False
        #: lines that could not be written since the last one that could
        self.lost = 0

    def __call__(self, event: LogEvent) -> None:
        if not wanted(event):
            return
        line = as_json(event) if _settings.json else as_text(event)
        try:
            if self._pipe is None:
                self._file.write(line)
                self._file.flush()
            else:
                self._write_pipe(line.encode("utf-8", "replace"))
        except (OSError, ValueError) as problem:
            self.lost += 1
            if self.lost == 1:
                _complain(f"pushserver: the log cannot be written: {problem}\n")
            return
        if self.lost:
            lost, self.lost = self.lost, 0
            self({"log_time": event.get("log_time"), "log_level": LogLevel.warn, "log_namespace": __name__,
                  "log_format": "{lost} lines of the log were lost", "event": "log_lost", "lost": lost})  # fmt: skip

    def _write_pipe(self, octets: bytes) -> None:
        """Write as much as the pipe takes at once. Raises BlockingIOError where that is not all."""
        assert self._pipe is not None
        if self._cut:
            octets = b"\n" + octets
        poll = select.poll()
        poll.register(self._pipe, select.POLLOUT)
        for at in range(0, len(octets), _PIPE_BUF):
            if not poll.poll(0):
                self._cut = self._cut or at > 0
                raise BlockingIOError("nobody reads it")
            os.write(self._pipe, octets[at : at + _PIPE_BUF])
        self._cut = False

    def reopen(self) -> None:
        """Go on in a new file of the same name, where somebody has moved the old one away."""
        if isinstance(self._file, LogFile):
            self._file.reopen()

    def rotate(self) -> None:
        """Move the file away, and go on in a new one."""
        if isinstance(self._file, LogFile):
            self._file.rotate()


def _pipe_of(file: TextIO | LogFile) -> int | None:
    """Return the descriptor of a file that is a pipe, and None for any other."""
    if isinstance(file, LogFile):
        return None
    try:
        descriptor = file.fileno()
        return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
    except (OSError, ValueError):
        return None


def _complain(text: str) -> None:
    try:
        if sys.__stderr__ is not None:
            sys.__stderr__.write(text)
            sys.__stderr__.flush()
    except (OSError, ValueError):
        # Then nothing is left to say it with.
        pass


@implementer(ILogObserver)
class Forwarder:
    """Hands events over to the supervisor of a worker, which writes them.

    Args:
        send: called with level, logger, text, traceback, fields, and whether it is one of many alike
            (`pushserver.server.repeats`).
    """

    def __init__(self, send: Callable[[str, str, str, str, dict[str, object], bool], None]) -> None:
        self._send = send

    def __call__(self, event: LogEvent) -> None:
        if wanted(event):
            level = event.get("log_level", LogLevel.info).name
            repeats = bool(event.get("repeats"))
            self._send(level, str(event.get("log_namespace", "-")), *message(event), fields(event), repeats)


def output_of(
    options: Mapping[str, Any] | None,  # Any: options are texts, numbers and flags, as twistd has parsed them
) -> Output | None:
    """Return where ``twistd``'s own options say that the log goes; None where another of its loggers was asked for."""
    if options is None or options.get("logger") or options.get("syslog"):
        return None
    name, foreground = options.get("logfile") or "", options.get("nodaemon")
    if name == "-" or (foreground and not name):
        return Output(sys.stdout)
    return Output(LogFile.fromFullPath(name or "twistd.log"))


class LoggedService(Service):
    """The service on top of an application: the application's log goes where it says."""

    def __init__(self, output: Output | None) -> None:
        self._output = output

    def hang_up(self) -> None:
        """SIGHUP: read the configuration anew."""
        raise NotImplementedError

    def setServiceParent(self, parent: IServiceCollection) -> None:
        if self._output is not None and isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._output)
        super().setServiceParent(parent)
