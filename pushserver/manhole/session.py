"""One session in a connection to the console: a terminal, one command, or a text from standard input."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, Protocol

from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.common import getNS
from twisted.conch.ssh.session import parseRequest_pty_req, parseRequest_window_change
from twisted.internet.defer import DeferredList
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from pushserver.manhole.interpreter import Interpreter, Quit
from pushserver.manhole.quiet import QuietLogger
from pushserver.manhole.terminal import Terminal
from pushserver.manhole.verbs import ConsoleVerbs, Rooms
from pushserver.manhole.waiting import WaitingLines

#: Bytes of a command.
MAX_COMMAND: Final = 65_536
#: Columns of what has no terminal.
NO_WIDTH: Final = 10_000

_EXTENDED_STDERR: Final = 1


class SessionHost(Protocol):
    """What a session asks of its console."""

    reactor: IReactorTime
    rooms: Rooms


class ConsoleSession(SSHChannel):
    """A terminal, or something to carry out. It is the `terminal.TerminalOwner` of the first."""

    name = b"session"
    conn: Any
    _log = QuietLogger()
    _own_log = Logger()

    def __init__(self, *args: Any, **named: Any) -> None:
        super().__init__(*args, **named)
        self._terminal: Terminal | None = None
        self._verbs: ConsoleVerbs | None = None
        self._size: tuple[int, int] | None = None
        self._ended = False
        #: what has come on standard input, where that is what is carried out
        self._input: bytearray | None = None
        #: what is watched, until the client has room for it
        self._lines = WaitingLines()
        self._flushing = False

    @property
    def _console(self) -> SessionHost:
        """The console that this is a session of."""
        console: SessionHost = self.conn.transport.factory
        return console

    # -- requests -----------------------------------------------------------------------------------------------------

    def request_pty_req(self, data: bytes) -> bool:
        _, (rows, columns, _, _), _ = parseRequest_pty_req(data)
        self._size = (columns, rows)
        return True

    def request_window_change(self, data: bytes) -> bool:
        rows, columns, _, _ = parseRequest_window_change(data)
        self._size = (columns, rows)
        if self._terminal is not None:
            self._terminal.resize(columns, rows)
        return True

    def request_env(self, data: bytes) -> bool:
        return False

    def request_subsystem(self, data: bytes) -> bool:
        return False

    def request_shell(self, data: bytes) -> bool:
        if self._size is not None:
            return self._begin(self._open_terminal)
        # Without a terminal what comes is carried out as a whole, at its end.
        self._input = bytearray()
        return self._begin(lambda: None)

    def request_exec(self, data: bytes) -> bool:
        command = getNS(data)[0]
        return self._begin(lambda: self._execute(command))

    def _begin(self, begin: Callable[[], None]) -> bool:
        if self._verbs is not None or self._ended:
            return False
        self._verbs = ConsoleVerbs(self._console.rooms, self._show, self.conn.transport.who)
        # The answer to the request goes first.
        self._console.reactor.callLater(0, begin)
        return True

    # -- a terminal ---------------------------------------------------------------------------------------------------

    def _open_terminal(self) -> None:
        if self._ended:
            return
        assert self._size is not None
        greeting = f"pushserver, node {self._console.rooms.cluster.node}. help() lists what can be said."
        self._terminal = Terminal(self.write, self._size, greeting, self._interpreter, self)

    def _interpreter(self, write: Callable[[str], None], width: Callable[[], int]) -> Interpreter:
        assert self._verbs is not None
        return Interpreter(self._verbs, write, width, self._size is not None, self.conn.transport.who)

    # -- a command, or a text ------------------------------------------------------------------------------------------

    def _execute(self, command: bytes) -> None:
        if self._ended:
            return
        if len(command) > MAX_COMMAND:
            self.writeExtended(_EXTENDED_STDERR, b"the command is too long\n")
            self.finish(1)
            return
        width = self._size[0] if self._size is not None else NO_WIDTH
        interpreter = self._interpreter(self._print, lambda: width)
        try:
            well, pending = interpreter.run(command.decode("utf-8", "replace"))
        except Quit as end:
            self.finish(end.status)
            return
        except Exception:
            self._own_log.failure("console: a command failed")
            self.finish(1)
            return

        def done(results: list[tuple[bool, bool]]) -> None:
            self._flush()
            self.finish(0 if well and all(fine for _, fine in results) else 1)

        DeferredList(pending).addCallback(done).addErrback(
            lambda failure: self._own_log.failure("console: a command's end failed", failure)
        )

    def _print(self, text: str) -> None:
        """Print what a command says, behind what was watched before it."""
        if not self._ended:
            octets = text.encode("utf-8", "replace")
            self.write(octets.replace(b"\n", b"\r\n") if self._size is not None else octets)

    # -- what is watched ----------------------------------------------------------------------------------------------

    def _show(self, line: str) -> None:
        """Take a line of what is watched. It costs nothing of what is watched: it only waits here."""
        if self._ended:
            return
        self._lines.add(line)
        if not self._flushing:
            self._flushing = True
            self._console.reactor.callLater(0, self._flush_later)

    def _flush_later(self) -> None:
        self._flushing = False
        if not self.buf and not self.extBuf:
            self._flush()

    def _flush(self) -> None:
        """Write what waits, as much as is in order: the client has taken all that was written before."""
        if self._ended or not self._lines:
            return
        text = self._lines.take()
        if self._terminal is not None:
            self._terminal.print(text)
        else:
            self._print(text)

    def startWriting(self) -> None:
        """The client has room again, first for what was written already."""
        super().startWriting()
        self._console.reactor.callLater(0, self._flush_later)

    # -- the channel's life -------------------------------------------------------------------------------------------

    def dataReceived(self, data: bytes) -> None:
        if self._ended:
            return
        if self._terminal is not None:
            self._terminal.receive(data)
        elif self._input is not None:
            # One more than is taken, so that it is seen that there is more.
            self._input += data[: MAX_COMMAND + 1 - len(self._input)]
        elif b"\x03" in data:
            self.stop_watching()

    def eofReceived(self) -> None:
        # The end of a command's input is not the end of its answer.
        if self._terminal is not None:
            self.finish(0)
        elif self._input is not None:
            command, self._input = bytes(self._input), None
            self._execute(command)

    def stop_watching(self) -> bool:
        watching = self._verbs is not None and self._verbs.watching
        if self._verbs is not None:
            self._verbs.end()
        return watching

    def finish(self, status: int) -> None:
        """End the session with an exit status."""
        if self._ended:
            return
        self._end()
        self.conn.sendRequest(self, b"exit-status", struct.pack(">L", status & 0xFF))
        self.conn.sendEOF(self)
        self.loseConnection()

    def closed(self) -> None:
        self._end()

    def _end(self) -> None:
        self._ended = True
        if self._verbs is not None:
            self._verbs.end()
