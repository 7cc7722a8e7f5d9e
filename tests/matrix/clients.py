"""The clients' half of the matrix: whatever happens to a client, it shows each message once, and nobody else's.

All clients meet a fault together, each with a user of its own and a bystander of whom nothing may be shown. Before,
under and after the fault everybody is sent notices, the ends of tasks, and messages on a channel with history.
"""

from __future__ import annotations

import math
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from tests.matrix import environment
from tests.matrix.nodes import Nodes
from tests.matrix.players import Browsers, Pages, Player, Shown, asleep, node_program, python_program

KINDS = ("notice", "end", "news")
CLIENTS: Mapping[str, Callable[[Browsers], Player]] = {
    "Chromium": lambda browsers: Pages(browsers["chromium"], shared=False),
    "Chromium, shared": lambda browsers: Pages(browsers["chromium"], shared=True),
    "Firefox": lambda browsers: Pages(browsers["firefox"], shared=False),
    "Firefox, shared": lambda browsers: Pages(browsers["firefox"], shared=True),
    "Node 20": lambda _: node_program(environment.node(20)),
    "Node 24": lambda _: node_program(environment.node(24)),
    "asyncio": lambda _: python_program(sys.executable, "asyncio"),
    "Twisted": lambda _: python_program(sys.executable, "twisted"),
}
FAULTS = (
    "cut", "node killed", "Redis restarted", "token expired", "other user", "WebSocket stays dead", "hidden",
    "asleep 10 min", "clock + 1 h", "clock - 1 h", "page reloaded",
)  # fmt: skip
OTHER, DEAD = "other user", "WebSocket stays dead"
PYTHON = ("asyncio", "Twisted")
#: Seconds until all that is due must be shown; a client with its own waits tries a silent WebSocket three times.
_PATIENCE = 75.0
#: Seconds until all clients are connected at the beginning of a row.
_START = 90.0
_PATIENCE_WHERE_DEAD = 120.0
#: Seconds of tokens: of those that outlive a row, and of those that end or are renewed in it.
_LONG = 3_600.0
_SHORT = 16.0
_EXPIRES = 7.0


class Outcome(NamedTuple):
    fault: str
    client: str
    #: messages due to all its tabs, and what became of them
    due: int
    missing: int
    twice: int
    wrong: int
    #: until every tab showed something that was sent after the fault; infinite where one never did
    seconds: float

    @property
    def holds(self) -> bool:
        return math.isfinite(self.seconds) and self.missing + self.twice + self.wrong == 0


def why_empty(fault: str, client: str) -> str:
    """Return why there is no such cell, or nothing."""
    if client.startswith(("Chromium", "Firefox")):
        return ""
    return {"hidden": "no tab", "page reloaded": "no page"}.get(fault, "")


def cells(faults: tuple[str, ...] = FAULTS) -> list[tuple[str, list[str]]]:
    """Return each fault with the clients that can meet it."""
    return [(fault, [client for client in CLIENTS if not why_empty(fault, client)]) for fault in faults]


@dataclass(frozen=True)
class Books:
    """What was sent to one client's user and to the bystander, and what its tabs may therefore show."""

    fault: str
    client: str
    user: str
    bystander: str
    #: numbers, from 1 on, of the messages of each kind: the last before the fault, under it, and of all
    before: int
    under: int
    last: int
    #: since then, seconds since 1970, the client can be back; and the last message that was sent before
    over_at: float
    missed: int

    def due(self) -> set[tuple[str, str, int]]:
        """What each tab must show: kind, addressee, number."""
        every = range(1, self.last + 1)
        if self.fault != OTHER or not self.under:
            return {(kind, self.user, number) for kind in KINDS for number in every}
        # What was kept for the other user comes whole; a channel is read from when it was subscribed.
        return (
            {(kind, self.user, number) for kind in KINDS for number in range(1, self.before + 1)}
            | {(kind, self.bystander, number) for kind in ("notice", "end") for number in every}
            | {("news", self.bystander, number) for number in range(self.under + 1, self.last + 1)}
        )

    def judge(self, tabs: list[list[Shown]]) -> Outcome:
        due = self.due()
        missing = twice = wrong = 0
        backs: list[float] = []
        for tab in tabs:
            counts = Counter((kind, to, number) for kind, to, number, _, _ in tab)
            missing += len(due - counts.keys())
            twice += sum(count - 1 for count in counts.values())
            wrong += sum(self._is_wrong(tab, place) for place in range(len(tab)))
            returned = [each.at for each in tab if self._shows_return(each)]
            backs.append(min(returned) / 1000 - self.over_at if returned else math.inf)
        return Outcome(self.fault, self.client, len(due) * len(tabs), missing, twice, wrong, max(0.0, *backs))

    def missing(self, tabs: list[list[Shown]]) -> str:
        """Return what each tab did not show, for who looks for the cause."""
        lacking = [sorted(self.due() - {(kind, to, number) for kind, to, number, _, _ in tab}) for tab in tabs]
        return f"{self.fault}, {self.client}, before {self.before}, under {self.under}: {lacking}"

    def _shows_return(self, shown: Shown) -> bool:
        """Return whether it could not have been shown before the client was back."""
        return shown.to != self.user if self.fault == OTHER else shown.number > self.missed

    def _is_wrong(self, tab: list[Shown], place: int) -> bool:
        """Return whether this was shown to somebody else: not whom it is for, or who was gone by then."""
        shown = tab[place]
        if shown.to != shown.user or shown.to not in (self.user, self.bystander):
            return True
        if self.fault != OTHER:
            return shown.to != self.user
        left = any(earlier.to != self.user for earlier in tab[:place])
        # A Python program goes on as its user until its token function is asked.
        late = self.client not in PYTHON and shown.at > self.over_at * 1000
        return shown.to == self.user and (left or late)


def mark_of(fault: str, seed: int) -> str:
    """Return what stands in the names of a row's users alone: what others were sent stays on the server."""
    return f"{seed}-{FAULTS.index(fault)}"


def play(nodes: Nodes, browsers: Browsers, fault: str, clients: list[str], seed: int) -> list[Outcome]:
    """One fault, met by all of these clients."""
    with ExitStack() as stack:
        stack.callback(nodes.restore)
        players: dict[str, Player] = {}
        for client in clients:
            players[client] = CLIENTS[client](browsers)
            stack.callback(players[client].end)
        return Row(nodes, fault, players, seed).play()


class Row:
    """One fault, and the clients that meet it: each a user's, with a bystander who is sent as much."""

    def __init__(self, nodes: Nodes, fault: str, players: Mapping[str, Player], seed: int) -> None:
        self._nodes = nodes
        self._fault = fault
        self._players = players
        self._chance = random.Random(f"{fault} {seed}")
        self._users = {client: f"u{place}-{mark_of(fault, seed)}" for place, client in enumerate(players)}
        #: numbers of the messages that were sent, to everybody alike: the last of all, and before and under the fault
        self._last = self._last_before = self._last_under = 0
        #: since then, seconds since 1970, a client can be back; and the last message that was sent before
        self._over_at, self._last_missed = 0.0, 0

    def play(self) -> list[Outcome]:
        for client, player in self._players.items():
            user = self._users[client]
            player.begin(self._nodes, user, self._nodes.token(user, self._lifetime(client)))
        if not self._until(self._all_ready_with_tokens_that_last, _START):
            raise RuntimeError(f"{self._fault}: not everybody is connected within {_START:.0f} s")
        self._send()
        self._last_before = self._last
        self._until(self._all_shown, _PATIENCE)
        with self._under():
            self._send()
        self._last_under = self._last
        self._send()
        if self._until(self._all_shown, _PATIENCE_WHERE_DEAD if self._fault == DEAD else _PATIENCE):
            # A barrier: what comes twice, or to the wrong one, has come before these.
            self._send()
            self._until(self._all_shown, _PATIENCE)
        outcomes: list[Outcome] = []
        for client, player in self._players.items():
            shown, books = player.shown(), self._books(client)
            outcomes.append(books.judge(shown))
            if outcomes[-1].missing:
                sys.stdout.write(books.missing(shown) + "\n")
        return outcomes

    def _lifetime(self, client: str) -> float:
        if self._fault == "token expired":
            return _EXPIRES
        # A Python program is another user's when its token function is asked and says so.
        renewed = self._fault.startswith("clock") or (self._fault == OTHER and client in PYTHON)
        return _SHORT if renewed else _LONG

    # The faults

    @contextmanager
    def _under(self) -> Iterator[None]:
        """What is sent inside is sent under the fault; at the end it is over, or what caused it is."""
        nodes, players = self._nodes, self._players
        pause = self._chance.uniform(1.0, 2.5)
        match self._fault:
            case "cut":
                nodes.line.cut()
                yield
                time.sleep(pause)
                nodes.line.mend()
                self._fault_ended()
            case "node killed":
                nodes.kill_first()
                self._fault_ended()
                yield
            case "Redis restarted":
                nodes.kill_redis()
                with ThreadPoolExecutor(1) as beside:
                    # What is sent meanwhile is answered when it is back.
                    back = beside.submit(self._revive_redis, pause)
                    yield
                back.result()
            case "token expired":
                time.sleep(_EXPIRES)
                yield
                time.sleep(pause)
                for client, player in players.items():
                    player.give(nodes.token(self._users[client], _LONG))
                self._fault_ended()
            case "other user":
                for client, player in players.items():
                    player.become(nodes.token(self._bystander(client), _LONG))
                self._fault_ended()
                yield
                self._until(self._all_ready, _PATIENCE)
            case "WebSocket stays dead":
                nodes.line.deaden()
                self._fault_ended()
                yield
                self._heal_for_those_without_stream()
            case "hidden":
                for page in self._pages():
                    page.hide()
                nodes.line.forget()
                self._fault_ended()
                yield
            case "asleep 10 min":
                falls = time.time() + 5.0
                for player in players.values():
                    player.set_clock(falls, 600.0, slept=True)
                with asleep(players.values()):
                    if time.time() > falls:
                        raise RuntimeError("the machine is too busy: its clock went on before it slept")
                    nodes.line.forget()
                    yield
                    time.sleep(max(pause, falls - time.time() + 0.5))
                self._fault_ended()
            case "clock + 1 h" | "clock - 1 h":
                for client, player in players.items():
                    player.set_clock(time.time(), 3_600.0 if "+" in self._fault else -3_600.0)
                    player.give(nodes.token(self._users[client], _LONG))
                time.sleep(_SHORT)
                yield
                self._fault_ended()
            case "page reloaded":
                self._fault_ended()
                with ThreadPoolExecutor(len(players)) as beside:
                    reloads = [beside.submit(page.reload) for page in self._pages()]
                    yield
                for reload in reloads:
                    reload.result()

    def _fault_ended(self) -> None:
        """From now on every client can be back."""
        self._over_at, self._last_missed = time.time(), self._last

    def _revive_redis(self, pause: float) -> None:
        time.sleep(pause)
        self._nodes.revive_redis()
        self._fault_ended()

    def _heal_for_those_without_stream(self) -> None:
        """Python's clients have WebSockets alone: theirs work again when the others have found their stream."""
        others = [client for client in self._players if client not in PYTHON]
        self._until(lambda: self._have_shown(others), _PATIENCE_WHERE_DEAD)
        self._nodes.line.mend()

    def _pages(self) -> list[Pages]:
        return [player for player in self._players.values() if isinstance(player, Pages)]

    # What is sent, and what is shown of it

    def _bystander(self, client: str) -> str:
        return f"other-{self._users[client]}"

    def _send(self) -> None:
        """Send everybody some of each kind; it is all answered when this returns."""
        first = self._last + 1
        self._last += self._chance.randint(2, 4)
        users = [user for client in self._players for user in (self._users[client], self._bystander(client))]
        with ThreadPoolExecutor(4) as beside:
            for number in range(first, self._last + 1):
                for done in [beside.submit(self._send_one, user, number) for user in users]:
                    done.result()

    def _send_one(self, user: str, number: int) -> None:
        data, mark = {"to": user, "n": number}, f"{user}-{number}"
        calls = (
            ("notify", {"userId": user, "data": data, "messageId": f"notice-{mark}"}),
            ("publish", {"channel": f"news:{user}", "data": data, "messageId": f"news-{mark}"}),
            ("tasks", {"taskId": mark, "userId": user, "messageId": f"task-{mark}"}),
            (f"tasks/{mark}/complete", {"result": data}),
        )
        for path, body in calls:
            answer = self._nodes.api("POST", f"/api/{path}", body)
            # The end of a task whose first answer was lost has come already.
            if answer.status not in (200, 201) and not (answer.status == 409 and path.endswith("complete")):
                raise RuntimeError(f"{path}: {answer}")

    def _books(self, client: str) -> Books:
        user, bystander = self._users[client], self._bystander(client)
        sent = (self._last_before, self._last_under, self._last)
        return Books(self._fault, client, user, bystander, *sent, self._over_at, self._last_missed)

    def _all_ready_with_tokens_that_last(self) -> bool:
        """Whoever begins slowly on a busy machine does not begin with a token that has ended meanwhile."""
        waiting = [client for client, player in self._players.items() if not player.is_ready()]
        for client in waiting:
            self._players[client].give(self._nodes.token(self._users[client], self._lifetime(client)))
        return not waiting

    def _all_ready(self) -> bool:
        return all(player.is_ready() for player in self._players.values())

    def _have_shown(self, clients: Iterable[str]) -> bool:
        return all(
            self._books(client).due() <= {(kind, to, number) for kind, to, number, _, _ in tab}
            for client in clients
            for tab in self._players[client].shown()
        )

    def _all_shown(self) -> bool:
        return self._have_shown(self._players)

    def _until(self, holds: Callable[[], bool], patience: float) -> bool:
        end = time.monotonic() + patience
        while not holds():
            if time.monotonic() > end:
                return False
            time.sleep(0.1)
        return True
