"""What goes on, as it goes on: ``listen`` prints messages, ``top`` shows the busiest channels in place."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text
from twisted.python.failure import Failure

from pushserver.client.messages import Push
from pushserver.pushctl.calls import Unreachable, call, stream
from pushserver.pushctl.place import ServerPlace
from pushserver.pushctl.show import cell, compact, moment, table

#: Seconds until a stream that broke is opened again, and the close code from which on it is not.
RETURN: Final = 1.0
RETURN_BELOW: Final = 3500


def line_of(push: Push, as_json: bool) -> str:
    """One message on one line."""
    if as_json:
        return compact(push)
    sender = f" {push.sender}:" if push.sender is not None else ""
    return f"{moment(push.timestamp)} {cell(push.channel)} {push.type}{sender} {cell(compact(push.data))}"


def listen(place: ServerPlace, channels: tuple[str, ...], count: int | None) -> None:
    """Follow the channels until interrupted, or until ``count`` messages have come: with an API key, in no presence,
    or as the user of a token."""
    if place.names_token or not place.has_api_key:
        _listen_as_user(place, channels, count)
        return
    try:
        _listen_by_key(place, channels, count)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Whoever read this has had enough.
        sys.stdout = None  # type: ignore[assignment]


def _listen_by_key(place: ServerPlace, channels: tuple[str, ...], count: int | None) -> None:
    left = count
    for push in received(place, channels, "what came meanwhile is not shown"):
        print(line_of(push, place.as_json), flush=True)
        left = None if left is None else left - 1
        if left == 0:
            return


def received(place: ServerPlace, channels: tuple[str, ...], meanwhile: str) -> Iterator[Push]:
    """Yield the messages of channels without end, over as many streams as it takes.

    ``meanwhile`` is said of what came between two streams. Raises `Unreachable` where there is no first one, and
    `click.ClickException` where the server says that none will do.
    """
    begun = False
    while True:
        try:
            for text in stream(place, channels):
                begun = True
                push = msgspec.json.decode(text, type=Push)
                if push.type == "closed" and push.data["code"] >= RETURN_BELOW:
                    raise click.ClickException(f"closed by the server: {push.data['reason']}")
                if push.type == "unsubscribed":
                    raise click.ClickException(f"{push.channel}: {push.data['reason']}")
                if not push.channel:
                    continue
                yield push
            problem = f"{place.url} has ended the stream"
        except Unreachable as lost:
            if not begun:
                raise
            problem = lost.message
        click.echo(f"warning: {problem}; {meanwhile}", err=True)
        time.sleep(RETURN)


def _listen_as_user(place: ServerPlace, channels: tuple[str, ...], count: int | None) -> None:
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

    def show(push: Push) -> None:
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
            reading = service.subscribe(name, show)
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


#: What ``top`` asks of one list, and what it shows of connections.
WORST: Final = "operators/connections"
CONNECTION_HEADINGS: Final = ("connection", "user", "node", "queued", "errors")
#: Rows of what is printed for programs.
ROWS: Final = 40


def view(
    stats: dict[str, Any],
    channels: dict[str, Any],
    nodes: list[dict[str, Any]],
    connections: list[dict[str, Any]],
) -> Group:
    """What ``top`` shows of one moment."""
    total = stats.get("total", {})
    rates = total.get("rates", {}) if isinstance(total, dict) else {}
    head = Text.assemble(
        ("connections ", "dim"),
        (cell(sum(n["connections"] for n in nodes)), "bold"),
        ("   nodes ", "dim"),
        (str(len(nodes)), "bold"),
        ("   channels ", "dim"),
        (cell(channels["total"]), "bold"),
        ("   in/s ", "dim"),
        (cell(float(_number(rates, "messagesIn"))), "bold"),
        ("   out/s ", "dim"),
        (cell(float(_number(rates, "messagesOut"))), "bold"),
        ("   left out ", "dim"),
        (cell(_number(total, "messages", "leftOut")), "bold"),
    )
    rows = ((c["channel"], c["connections"], c["users"]) for c in channels["channels"])
    listed = table(("channel", "connections", "users"), rows)
    per_node = table(
        ("node", "state", "since", "connections"),
        ((n["node"], n.get("state"), moment(n["startedAt"]), n["connections"]) for n in nodes),
    )
    worst = table(
        CONNECTION_HEADINGS,
        ((c["connectionId"], c["userId"], c["node"], c["queued"], c["errors"]) for c in connections),
    )
    parts: list[Any] = [head, Text(), per_node, Text(), listed]  # Any: rich takes whatever it can show
    return Group(*parts, *((Text(), worst) if connections else ()))


def _ask(place: ServerPlace, rows: int) -> dict[str, Any]:
    """Return what there is to see now: ``stats``, ``channels``, ``nodes`` and ``connections``, the busiest alone."""
    half = str(max(3, rows // 2))
    queued = call(place, "GET", WORST, sort="queued", limit=half)["connections"]
    failing = call(place, "GET", WORST, sort="errors", limit=half)["connections"]
    troubled = {c["connectionId"]: c for c in (*queued, *failing) if c["queued"] or c["errors"]}
    return {
        "stats": call(place, "GET", "stats"),
        "channels": call(place, "GET", "operators/channels", limit=half),
        "nodes": call(place, "GET", "nodes")["nodes"],
        "connections": list(troubled.values())[: int(half)],
    }


def _look(place: ServerPlace, rows: int) -> Group:
    return view(**_ask(place, rows))


def _print_looks(place: ServerPlace, interval: float, once: bool) -> None:
    try:
        while True:
            print(compact(_ask(place, ROWS)), flush=True)
            if once:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Whoever read this has had enough.
        sys.stdout = None  # type: ignore[assignment]


def top(place: ServerPlace, interval: float, once: bool) -> None:
    """Look again and again, and show it in the same place; with ``--json`` each look is a line."""
    if place.as_json:
        _print_looks(place, interval, once)
        return
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
