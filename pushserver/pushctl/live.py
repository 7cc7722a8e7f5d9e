"""What goes on, as it goes on: ``listen`` prints messages, ``top`` shows the busiest channels in place."""

from __future__ import annotations

import sys
import time
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from twisted.python.failure import Failure

from pushserver.client.messages import Push
from pushserver.pushctl.calls import Unreachable, call
from pushserver.pushctl.place import ServerPlace
from pushserver.pushctl.show import cell, compact, moment, table


def line_of(push: Push, as_json: bool) -> str:
    """One message on one line."""
    if as_json:
        return compact(push)
    sender = f" {push.sender}:" if push.sender is not None else ""
    return f"{moment(push.timestamp)} {cell(push.channel)} {push.type}{sender} {cell(compact(push.data))}"


def listen(place: ServerPlace, channels: tuple[str, ...], count: int | None) -> None:
    """Follows the channels until interrupted, or until ``count`` messages have come."""
    from twisted.internet import reactor

    from pushserver.client.tx import ClientService

    # Directly, as all calls of the API go.
    service = ClientService(place.websocket_url, token=place.token, reactor=reactor, proxy=None)
    problem: list[str] = []
    left = [count]
    ending = [False]

    def stop(said: str | None = None) -> None:
        if not ending[0]:
            ending[0] = True
            if said is not None:
                problem.append(said)
            reactor.stop()  # type: ignore[attr-defined]

    def hear(push: Push) -> None:
        if left[0] == 0:
            return
        try:
            print(line_of(push, place.as_json), flush=True)
        except BrokenPipeError:
            # Whoever read this has had enough.
            sys.stdout = None  # type: ignore[assignment]
            stop()
            return
        if left[0] is not None:
            left[0] -= 1
            if left[0] == 0:
                stop()

    def ended(failure: Failure) -> None:
        # A subscription that was refused, or a connection that will not come back.
        stop(failure.getErrorMessage())

    def begin() -> None:
        for name in channels:
            reading = service.subscribe(name, hear)
            reading.ready().addErrback(ended)
            reading.done.addErrback(ended)
        service.when_connected().addErrback(ended)
        service.startService()

    reactor.callWhenRunning(begin)  # type: ignore[attr-defined]
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)  # type: ignore[attr-defined]
    reactor.run()  # type: ignore[attr-defined]
    if problem:
        raise click.ClickException(problem[0])


def _number(figures: Any, *names: str) -> Any:
    for name in names:
        figures = figures.get(name, {}) if isinstance(figures, dict) else {}
    return figures if isinstance(figures, int | float) else 0


def view(stats: dict[str, Any], channels: list[dict[str, Any]], nodes: list[dict[str, Any]], rows: int) -> Group:
    """What ``top`` shows of one moment."""
    total = stats.get("total", {})
    rates = total.get("rates", {}) if isinstance(total, dict) else {}
    head = Text.assemble(
        ("connections ", "dim"),
        (cell(sum(n["connections"] for n in nodes)), "bold"),
        ("   nodes ", "dim"),
        (str(len(nodes)), "bold"),
        ("   channels ", "dim"),
        (str(len(channels)), "bold"),
        ("   in/s ", "dim"),
        (cell(float(_number(rates, "messagesIn"))), "bold"),
        ("   out/s ", "dim"),
        (cell(float(_number(rates, "messagesOut"))), "bold"),
    )
    busiest = sorted(channels, key=lambda c: (-c["connections"], c["channel"]))[:rows]
    listed = table(("channel", "connections", "users"), ((c["channel"], c["connections"], c["users"]) for c in busiest))
    per_node = table(
        ("node", "since", "connections"), ((n["node"], moment(n["startedAt"]), n["connections"]) for n in nodes)
    )
    return Group(head, Text(), per_node, Text(), listed)


def _look(place: ServerPlace, rows: int) -> Group:
    return view(
        call(place, "GET", "stats"),
        call(place, "GET", "channels")["channels"],
        call(place, "GET", "nodes")["nodes"],
        rows,
    )


def top(place: ServerPlace, interval: float, once: bool) -> None:
    """Looks again and again, and shows it in the same place."""
    console = Console(highlight=False)
    rows = max(3, console.height - 8)
    first = _look(place, rows)
    if once or not console.is_terminal:
        console.print(first)
        return
    with Live(first, console=console, screen=True, auto_refresh=False) as screen:
        try:
            while True:
                time.sleep(interval)
                try:
                    screen.update(_look(place, max(3, console.height - 8)), refresh=True)
                except Unreachable as problem:
                    screen.update(Text(problem.message), refresh=True)
        except KeyboardInterrupt:
            pass
