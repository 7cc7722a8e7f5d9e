"""The commands of ``pushctl``."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Final

import click
import msgspec

from pushserver import __version__
from pushserver.config.checks import load
from pushserver.core import durations, errors, output
from pushserver.core.task import Status
from pushserver.pushctl.calls import call, task_path
from pushserver.pushctl.options import CommandGroup, InboxGroup
from pushserver.pushctl.output import print_output
from pushserver.pushctl.place import ServerPlace
from pushserver.pushctl.show import Presenter, arranged, cell, compact, moment
from pushserver.pushctl.store import backup, compact_store, new_epoch, quarantine, restore

pass_place = click.make_pass_decorator(ServerPlace)


class Duration(click.ParamType[int]):
    """``90s``, ``10m``, ``1h``, ``7d``; becomes ms. ``shortest`` is in ms."""

    name = "duration"

    def __init__(self, shortest: int = 1) -> None:
        self._shortest = shortest

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            milliseconds = durations.parse(str(value))
        except ValueError:
            milliseconds = -1
        if milliseconds < self._shortest:
            self.fail(f"{value!r} is not a duration such as 90s, 10m, 1h or 7d", param, ctx)
        return milliseconds


class Json(click.ParamType[Any]):
    """A JSON value; ``-`` reads it from standard input."""

    name = "json"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        text = sys.stdin.read() if value == "-" else value
        try:
            return msgspec.json.decode(text)
        except (ValueError, RecursionError):
            self.fail(f"{text[:60]!r} is not JSON; a text needs quotes inside the shell's", param, ctx)


@click.group(cls=CommandGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="pushctl")
def pushctl() -> None:
    """Talk to a push server from the command line.

    Beside a server in development mode nothing need be named: its address and keys are read from its state directory.
    The options below may stand behind a command too.

    Exit status: 0 done, 1 refused, 2 wrong usage, 3 no server there.
    """


# -- without a server -------------------------------------------------------------------------------------------------


@pushctl.command()
@click.option("--user", required=True, metavar="ID", help="Who the token is for.")
@click.option("--expires", type=Duration(), default="1h", show_default=True, help="How long it holds.")
@click.option("--permission", "permissions", multiple=True, metavar="P", help="As in subscribe:news:*; repeatable.")
@click.option("--channel", "channels", multiple=True, metavar="GLOB", help="Short for subscribe: of it; repeatable.")
@click.option("--jti", default="", metavar="ID", help="Its own id, so that it can be revoked alone.")
@pass_place
def token(
    place: ServerPlace, user: str, expires: int, permissions: tuple[str, ...], channels: tuple[str, ...], jti: str
) -> None:
    """Make a token, signed with the server's own secret."""
    try:
        made = place.issue(user, expires, permissions, channels, jti)
    except (errors.Invalid, ValueError) as problem:
        raise click.ClickException(str(problem)) from None
    Presenter(place).line({"token": made}, made)


@pushctl.command("check-config")
@click.argument("file", type=click.Path(dir_okay=False))
@pass_place
def check_config(place: ServerPlace, file: str) -> None:
    """Say whether a configuration FILE, with the environment, is one that the server would start with."""
    try:
        load(file, os.environ)
    except errors.ConfigError as mistake:
        raise click.ClickException(str(mistake)) from None
    Presenter(place).line({"file": file, "ok": True}, f"{file}: ok")


@pushctl.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what makes SHELL complete pushctl's commands; for bash: eval "$(pushctl completion bash)"."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(pushctl, {}, "pushctl", "_PUSHCTL_COMPLETE").source())


# -- messages ---------------------------------------------------------------------------------------------------------


def _taken(answer: dict[str, Any]) -> str:
    position = f" at {answer['offset']}" if "offset" in answer else ""
    return f"{answer['messageId']}{position}{' (repeated)' if answer.get('duplicate') else ''}"


@pushctl.command()
@click.argument("channel")
@click.argument("data", type=Json())
@click.option("--type", "kind", default="message", show_default=True, metavar="TYPE")
@click.option("--message-id", metavar="ID", help="A repeat of the same id within five minutes happens once.")
@pass_place
def publish(place: ServerPlace, channel: str, data: Any, kind: str, message_id: str | None) -> None:
    """Publish DATA (JSON, or - to read it) to a CHANNEL."""
    body = {"channel": channel, "data": data, "type": kind}
    if message_id is not None:
        body["messageId"] = message_id
    answer = call(place, "POST", "publish", body)
    Presenter(place).line(answer, f"published {_taken(answer)}")


@pushctl.command()
@click.argument("user")
@click.argument("data", type=Json())
@click.option("--type", "kind", default="user_notification", show_default=True, metavar="TYPE")
@click.option("--ttl", type=Duration(), help="How long it may wait, at most.")
@click.option("--collapse-key", metavar="KEY", help="Replaces an unread message with the same key.")
@click.option("--message-id", metavar="ID")
@pass_place
def notify(
    place: ServerPlace,
    user: str,
    data: Any,
    kind: str,
    ttl: int | None,
    collapse_key: str | None,
    message_id: str | None,
) -> None:
    """Put DATA (JSON, or - to read it) into a USER's inbox: it waits there while the user is away."""
    body = {"userId": user, "data": data, "type": kind, "ttl": ttl, "collapseKey": collapse_key}
    body["messageId"] = message_id
    answer = call(place, "POST", "notify", {name: value for name, value in body.items() if value is not None})
    (result,) = answer["results"]
    Presenter(place).line(result, f"kept {_taken(result)}, handed to {result['delivered']} connections here")


@pushctl.command()
@click.argument("channels", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1), help="End after so many messages.")
@pass_place
def listen(place: ServerPlace, channels: tuple[str, ...], count: int | None) -> None:
    """Print the messages of CHANNELS as they come, one a line, until interrupted."""
    from pushserver.pushctl.live import listen as follow

    follow(place, channels, count)


@pushctl.command()
@click.argument("channel")
@click.option("--limit", type=click.IntRange(0, 1000), default=20, show_default=True)
@pass_place
def history(place: ServerPlace, channel: str, limit: int) -> None:
    """Show what a CHANNEL keeps, the newest first."""
    answer = call(place, "GET", "history", channel=channel, limit=str(limit), reverse="true")
    rows = (
        (m["offset"], moment(m["timestamp"]), m["type"], m.get("from"), compact(m["data"])) for m in answer["messages"]
    )
    Presenter(place).rows(answer, ("offset", "time", "type", "from", "data"), rows, "nothing is kept")


@pushctl.group(cls=InboxGroup)
def inbox() -> None:
    """Show a user's inbox: inbox USER is short for inbox list USER. Mark its messages as read, or delete them."""


def _unread(answer: dict[str, Any]) -> str:
    return "unread: " + ", ".join(f"{count} {kind}" for kind, count in answer["unread"].items())


def _chosen(place: ServerPlace, user: str, offsets: tuple[int, ...], up_to: int | None) -> dict[str, Any]:
    """Return what names messages of an inbox, in its present epoch."""
    if bool(offsets) == (up_to is not None):
        raise click.UsageError("name messages by their offsets, or give --up-to")
    chosen = {"offsets": list(offsets)} if offsets else {"upTo": up_to}
    return {"userId": user, "epoch": call(place, "GET", "inbox", userId=user, limit="1")["epoch"], **chosen}


@inbox.command("list")
@click.argument("user")
@click.option("--limit", type=click.IntRange(1, 200), help="Only so many, the newest first.")
@click.option("--unread", is_flag=True, help="Only what was not read.")
@pass_place
def list_inbox(place: ServerPlace, user: str, limit: int | None, unread: bool) -> None:
    """Show what a USER's inbox keeps, and what of it was read."""
    most = None if limit is None else str(limit)
    answer = call(place, "GET", "inbox", userId=user, limit=most, unread="true" if unread else None)
    rows = (
        (
            m["offset"],
            "read" if m["readAt"] is not None else "",
            moment(m["timestamp"]),
            m["type"],
            compact(m["data"]),
        )
        for m in answer["messages"]
    )
    presenter = Presenter(place)
    presenter.rows(answer, ("offset", "", "time", "type", "data"), rows, "the inbox is empty")
    if answer["messages"] and not place.as_json:
        click.echo(_unread(answer))


@inbox.command("read")
@click.argument("user")
@click.argument("offsets", nargs=-1, type=click.IntRange(1))
@click.option("--up-to", type=click.IntRange(1), metavar="OFFSET", help="All up to this one.")
@click.option("--unread", is_flag=True, help="Mark them as unread.")
@pass_place
def mark_read(place: ServerPlace, user: str, offsets: tuple[int, ...], up_to: int | None, unread: bool) -> None:
    """Mark messages of a USER's inbox as read on all devices, by their OFFSETS."""
    body = _chosen(place, user, offsets, up_to) | ({"read": False} if unread else {})
    answer = call(place, "POST", "inbox/read", body)
    Presenter(place).line(answer, _unread(answer))


@inbox.command("delete")
@click.argument("user")
@click.argument("offsets", nargs=-1, type=click.IntRange(1))
@click.option("--up-to", type=click.IntRange(1), metavar="OFFSET", help="All up to this one.")
@pass_place
def delete_from_inbox(place: ServerPlace, user: str, offsets: tuple[int, ...], up_to: int | None) -> None:
    """Delete messages of a USER's inbox on all devices, by their OFFSETS."""
    answer = call(place, "POST", "inbox/delete", _chosen(place, user, offsets, up_to))
    Presenter(place).line(answer, f"deleted {answer['deleted']}; {_unread(answer)}")


# -- tasks ------------------------------------------------------------------------------------------------------------


@pushctl.group()
def task() -> None:
    """Create tasks, tell their progress, end them."""


def _show_task(place: ServerPlace, state: dict[str, Any]) -> None:
    percentage = f"{cell(state['percentage'])} %"
    said = state.get("error") or state.get("message") or ""
    Presenter(place).line(state, f"{state['taskId']}  {state['status']}  {percentage}  {cell(said)}".rstrip())


@task.command("create")
@click.argument("user")
@click.option("--id", "task_id", metavar="ID")
@click.option("--title")
@pass_place
def create_task(place: ServerPlace, user: str, task_id: str | None, title: str | None) -> None:
    """A new task of a USER."""
    body = {"userId": user, "taskId": task_id, "title": title}
    _show_task(place, call(place, "POST", "tasks", {name: value for name, value in body.items() if value is not None}))


@task.command("progress")
@click.argument("task_id", metavar="ID")
@click.argument("percentage", type=float, required=False)
@click.option("--step", type=click.IntRange(0))
@click.option("--of", "total", type=click.IntRange(1))
@click.option("--message")
@click.option("--force", is_flag=True, help="Also where it is less than before.")
@pass_place
def report(
    place: ServerPlace,
    task_id: str,
    percentage: float | None,
    step: int | None,
    total: int | None,
    message: str | None,
    force: bool,
) -> None:
    """How far a task has come: PERCENTAGE, or --step of --of."""
    body = {"percentage": percentage, "currentStep": step, "totalSteps": total, "message": message}
    body["force"] = force or None
    said = {name: value for name, value in body.items() if value is not None}
    _show_task(place, call(place, "POST", task_path(task_id, "progress"), said))


@task.command("status")
@click.argument("task_id", metavar="ID")
@click.argument("status", type=click.Choice([status.value for status in Status]))
@click.option("--message")
@pass_place
def set_status(place: ServerPlace, task_id: str, status: str, message: str | None) -> None:
    """A task's new STATUS; a final one ends it."""
    body = {"status": status} if message is None else {"status": status, "message": message}
    _show_task(place, call(place, "POST", task_path(task_id, "status"), body))


@task.command("complete")
@click.argument("task_id", metavar="ID")
@click.argument("result", type=Json(), required=False)
@pass_place
def complete(place: ServerPlace, task_id: str, result: Any) -> None:
    """A task is done; RESULT is JSON."""
    body = {} if result is None else {"result": result}
    _show_task(place, call(place, "POST", task_path(task_id, "complete"), body))


@task.command("fail")
@click.argument("task_id", metavar="ID")
@click.argument("error")
@pass_place
def fail(place: ServerPlace, task_id: str, error: str) -> None:
    """A task has failed, and why."""
    _show_task(place, call(place, "POST", task_path(task_id, "fail"), {"error": error}))


@task.command("cancel")
@click.argument("task_id", metavar="ID")
@click.option("--message")
@pass_place
def cancel(place: ServerPlace, task_id: str, message: str | None) -> None:
    """A task is cancelled."""
    body = {} if message is None else {"message": message}
    _show_task(place, call(place, "POST", task_path(task_id, "cancel"), body))


@task.command("get")
@click.argument("task_id", metavar="ID")
@pass_place
def get_task(place: ServerPlace, task_id: str) -> None:
    """A task's state."""
    Presenter(place).facts(call(place, "GET", task_path(task_id)))


@task.command("output")
@click.argument("task_id", metavar="ID")
@click.option("--name", default=output.MAIN, metavar="NAME", help="Of its outputs this one.", show_default=True)
@click.option("--follow", is_flag=True, help="Go on until it is closed.")
@pass_place
def show_output(place: ServerPlace, task_id: str, name: str, follow: bool) -> None:
    """What a task has written."""
    print_output(place, task_id, name, follow)


@task.command("list")
@click.argument("user")
@pass_place
def list_tasks(place: ServerPlace, user: str) -> None:
    """A USER's tasks, the newest first."""
    answer = call(place, "GET", "tasks", userId=user)
    rows = (
        (t["taskId"], t["status"], t["percentage"], moment(t["updatedAt"]), t.get("title"), t.get("message"))
        for t in answer["tasks"]
    )
    Presenter(place).rows(answer, ("task", "status", "%", "updated", "title", "message"), rows, "no tasks")


# -- events -----------------------------------------------------------------------------------------------------------


@pushctl.group()
def events() -> None:
    """What the backend was told, and did not take."""


@events.command("dead")
@pass_place
def dead_events(place: ServerPlace) -> None:
    """Events that a webhook did not take in time, the oldest first."""
    answer = call(place, "GET", "events/dead")
    rows = (
        (e["webhook"], e["event"]["id"], e["event"]["type"], moment(e["event"]["timestamp"]), e["attempts"], e["error"])
        for e in answer["events"]
    )
    Presenter(place).rows(answer, ("webhook", "event", "type", "time", "attempts", "error"), rows, "no event is dead")


@events.command("retry")
@click.argument("webhook")
@click.argument("ids", nargs=-1)
@pass_place
def retry_events(place: ServerPlace, webhook: str, ids: tuple[str, ...]) -> None:
    """Send dead events of a WEBHOOK once more: those with these IDS, or all."""
    body: dict[str, Any] = {"webhook": webhook} | ({"ids": list(ids)} if ids else {})
    answer = call(place, "POST", "events/retry", body)
    Presenter(place).line(answer, f"{answer['retried']} events are sent once more")


# -- what goes on -----------------------------------------------------------------------------------------------------


@pushctl.command()
@pass_place
def stats(place: ServerPlace) -> None:
    """The figures of all nodes as one; with --json, of each node too."""
    figures = call(place, "GET", "stats")
    Presenter(place).facts(figures if place.as_json else figures.get("total", figures))


#: The headings of a table of connections.
CONNECTIONS: Final = ("connection", "user", "node", "address", "since", "last heard", "queued", "errors", "channels")


def _connection_rows(connections: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [
        (
            c["connectionId"],
            c["userId"],
            c["node"],
            c["address"],
            moment(c["connectedAt"]),
            moment(c.get("lastHeardAt")),
            c["queued"],
            c.get("errors", 0),
            len(c["channels"]),
        )
        for c in connections
    ]


@pushctl.command()
@click.option("--user", metavar="ID")
@click.option("--sort", type=click.Choice(CONNECTIONS), help="By this column: numbers the largest first.")
@click.option("--match", metavar="TEXT", help="Only rows in which it occurs.")
@pass_place
def connections(place: ServerPlace, user: str | None, sort: str | None, match: str | None) -> None:
    """Who is connected, on every node."""
    answer = call(place, "GET", "connections", userId=user)
    rows = arranged(CONNECTIONS, _connection_rows(answer["connections"]), sort, match)
    Presenter(place).rows(answer, CONNECTIONS, rows, "nobody is connected")


#: The headings of a table of what went wrong.
RECENT: Final = ("time", "times", "event", "code", "reason", "address", "node", "connection", "verified")


@pushctl.command()
@click.argument("user")
@pass_place
def explain(place: ServerPlace, user: str) -> None:
    """Say what keeps things from a USER, the likeliest cause first, and what all nodes know of them."""
    answer = call(place, "GET", "explain", userId=user)
    presenter = Presenter(place)
    if place.as_json:
        presenter.line(answer, "")
        return
    found = [(number, sentence) for number, sentence in enumerate(answer["findings"], start=1)]
    presenter.rows(answer, ("", "finding"), found, "nothing is wrong that can be seen from here")
    click.echo()
    presenter.rows(answer, CONNECTIONS, _connection_rows(answer["connections"]), "not connected")
    click.echo()
    recent = [
        (
            moment(e["at"]),
            e["times"],
            e["event"],
            e["code"],
            e["reason"],
            e["address"],
            e["node"],
            e["connectionId"],
            e["verified"],
        )
        for e in answer["recent"]
    ]
    presenter.rows(answer, RECENT, recent, "nothing went wrong within the last hour")
    click.echo()
    kept = answer["inbox"]
    if kept is not None:
        # A server of an earlier version says less, and counts as unread what no device took.
        taken = f", {kept['pending']} that no device took" if "pending" in kept else ""
        click.echo(f"inbox: {kept['unread']} unread{taken}, {kept['evicted']} fell out")
    else:
        click.echo("inbox: the engine did not answer in time")
    tasks = [(t["taskId"], t["status"], t["percentage"], moment(t["updatedAt"])) for t in answer["tasks"] or ()]
    none = "tasks: the engine did not answer in time" if answer["tasks"] is None else "no unfinished tasks"
    presenter.rows(answer, ("task", "status", "%", "updated"), tasks, none)


@pushctl.command()
@click.argument("pattern", required=False)
@click.option("--sort", type=click.Choice(["channel", "connections", "users"]), help="Numbers the largest first.")
@pass_place
def channels(place: ServerPlace, pattern: str | None, sort: str | None) -> None:
    """Which channels are followed; PATTERN may hold *."""
    answer = call(place, "GET", "channels", pattern=pattern)
    headings = ("channel", "connections", "users")
    rows = arranged(headings, [(c["channel"], c["connections"], c["users"]) for c in answer["channels"]], sort)
    Presenter(place).rows(answer, headings, rows, "no channel is followed")


@pushctl.command()
@click.argument("channel")
@pass_place
def presence(place: ServerPlace, channel: str) -> None:
    """Who is present in a CHANNEL."""
    answer = call(place, "GET", "presence", channel=channel)
    rows = ((u["userId"], u["connections"], u.get("info")) for u in answer["users"])
    Presenter(place).rows(answer, ("user", "connections", "info"), rows, "nobody is there")


@pushctl.command()
@pass_place
def nodes(place: ServerPlace) -> None:
    """The nodes: ok, draining, or silent since when."""
    answer = call(place, "GET", "nodes")
    rows = (
        (
            n["node"],
            n.get("state"),
            moment(n["startedAt"]),
            moment(n.get("lastHeardAt")),
            n["connections"],
            ", ".join(n.get("differs", ())),
        )
        for n in answer["nodes"]
    )
    Presenter(place).rows(answer, ("node", "state", "since", "last heard", "connections", "other settings"), rows)


@pushctl.command()
@click.option("--interval", type=click.FloatRange(0.2), default=2.0, show_default=True, help="Seconds.")
@click.option("--once", is_flag=True, help="Show it once, and end.")
@pass_place
def top(place: ServerPlace, interval: float, once: bool) -> None:
    """Connections, rates and the busiest channels, refreshed in place until interrupted."""
    from pushserver.pushctl.live import top as watch

    watch(place, interval, once)


# -- interventions ----------------------------------------------------------------------------------------------------


def _whose(user: str | None, connection: str | None) -> dict[str, str]:
    if (user is None) == (connection is None):
        raise click.UsageError("either --user or --connection")
    return {"userId": user} if user is not None else {"connectionId": str(connection)}


@pushctl.command()
@click.option("--user", metavar="ID")
@click.option("--connection", metavar="ID")
@click.option("--code", type=click.IntRange(3000, 4999), help="The close code; below 3500 clients come back.")
@click.option("--reason")
@pass_place
def disconnect(
    place: ServerPlace, user: str | None, connection: str | None, code: int | None, reason: str | None
) -> None:
    """Close connections, on every node."""
    body: dict[str, Any] = dict(_whose(user, connection))
    if code is not None:
        body["code"] = code
    if reason is not None:
        body["reason"] = reason
    answer = call(place, "POST", "disconnect", body)
    Presenter(place).line(answer, f"closed {answer['closed']}")


@pushctl.command()
@click.option("--user", metavar="ID", help="Every token of this user, issued up to now.")
@click.option("--jti", metavar="ID", help="One token, by its id.")
@pass_place
def revoke(place: ServerPlace, user: str | None, jti: str | None) -> None:
    """Block tokens, and close the connections that use them, on every node."""
    if (user is None) == (jti is None):
        raise click.UsageError("either --user or --jti")
    answer = call(place, "POST", "revoke", {"userId": user} if user is not None else {"jti": jti})
    Presenter(place).line(answer, f"revoked; closed {answer['closed']}")


@pushctl.command()
@pass_place
def reload(place: ServerPlace) -> None:
    """Read the server's configuration anew, on all its processes; a mistake changes nothing."""
    answer = call(place, "POST", "reload")
    lines = [f"changed: {', '.join(answer['changed']) or 'nothing'}"]
    if answer["restartNeeded"]:
        lines.append(f"another start is needed for: {', '.join(answer['restartNeeded'])}")
    Presenter(place).line(answer, "\n".join(lines))


@pushctl.command()
@click.option("--over", type=Duration(0), help="Spread over so long, such as 30s; else by how many there are.")
@click.option("--undo", is_flag=True, help="Take new connections again.")
@pass_place
def drain(place: ServerPlace, over: int | None, undo: bool) -> None:
    """Take no new connections on this server, and send away those that it has."""
    if undo:
        if over is not None:
            raise click.UsageError("either --over or --undo")
        Presenter(place).line(call(place, "DELETE", "drain"), "taking connections")
        return
    answer = call(place, "POST", "drain", {} if over is None else {"over": over})
    Presenter(place).line(answer, f"draining {answer['connections']} connections; /readyz says 503")


@pushctl.command("restart-workers")
@pass_place
def restart_workers(place: ServerPlace) -> None:
    """Replace the worker processes one by one, with the code that lies on the disk; wait until that is done."""
    state = call(place, "POST", "restart-workers")
    while state["running"]:
        time.sleep(0.5)
        state = call(place, "GET", "restart-workers")
    if state["problem"]:
        raise click.ClickException(f"{state['replaced']} of {state['workers']} workers replaced: {state['problem']}")
    Presenter(place).line(state, f"replaced {state['replaced']} workers")


for command in (backup, restore, compact_store, new_epoch, quarantine):
    pushctl.add_command(command)
