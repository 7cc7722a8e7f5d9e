"""The commands of ``pushctl`` that are about the data itself: copies, and epochs that move on."""

from __future__ import annotations

from pathlib import Path

import click

from pushserver.core.errors import ConfigError
from pushserver.pushctl.calls import call
from pushserver.pushctl.options import PlaceCommand
from pushserver.pushctl.place import ServerPlace
from pushserver.pushctl.show import Presenter, moment

pass_place = click.make_pass_decorator(ServerPlace)


def _embedded(place: ServerPlace, what: str) -> Path:
    """Return the state directory of a server with the embedded engine."""
    if place.engine != "embedded":
        raise click.ClickException(f"the data is in Redis: {what} its dump or append-only file (docs/backup.md)")
    return place.state_dir


@click.command(cls=PlaceCommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@pass_place
def backup(place: ServerPlace, file: Path) -> None:
    """Copy the embedded engine's data into FILE, also while the server runs."""
    from pushserver.engine.embedded import copies

    try:
        size = copies.back_up(_embedded(place, "copy"), file)
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from None
    Presenter(place).line({"file": str(file), "bytes": size}, f"{file}: {size} bytes")


@click.command(cls=PlaceCommand)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--again", is_flag=True, help="Also where this copy was restored here already.")
@pass_place
def restore(place: ServerPlace, file: Path, again: bool) -> None:
    """Put the copy in FILE in the place of the embedded engine's data. The server must not run.

    What was there stays beside it as pushserver.db.before. Clients are told what they may have lost.
    """
    from pushserver.engine.embedded import copies

    directory = _embedded(place, "put back")
    try:
        copies.restore(directory, file, again)
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from None
    said = {"file": str(file), "restored": str(directory / copies.FILE), "before": str(directory / copies.BEFORE)}
    Presenter(place).line(said, f"restored from {file}; what was there is {directory / copies.BEFORE}")


@click.command("compact", cls=PlaceCommand)
@pass_place
def compact_store(place: ServerPlace) -> None:
    """Make the embedded engine's file as small as what it holds. The server must not run."""
    from pushserver.engine.embedded import copies

    try:
        before, after = copies.compact(_embedded(place, "compact"))
    except ConfigError as problem:
        raise click.ClickException(str(problem)) from None
    Presenter(place).line({"before": before, "after": after}, f"{before} bytes became {after}")


@click.command("new-epoch", cls=PlaceCommand)
@pass_place
def new_epoch(place: ServerPlace) -> None:
    """Let every position move on: after the copy of a whole machine or state directory was put back.

    Clients are then told what they may have lost, as after any data that went back. Works beside a running server, and,
    with the embedded engine, where none runs.
    """
    from pushserver.engine.embedded import copies

    if place.engine == "embedded" and not place.is_named and (place.state_dir / copies.FILE).exists():
        try:
            copies.move_epochs(place.state_dir)
        except copies.StoreInUse:
            pass  # The server that has it is asked.
        except ConfigError as problem:
            raise click.ClickException(str(problem)) from None
        else:
            Presenter(place).line({"moved": False}, "every position moves on when the server starts")
            return
    Presenter(place).line(call(place, "POST", "new-epoch"), "every position has moved on")


@click.command(cls=PlaceCommand)
@pass_place
def quarantine(place: ServerPlace) -> None:
    """Show what the server could not read and has taken out of use, the newest first; --json has what it held."""
    answer = call(place, "GET", "quarantine")
    rows = ((moment(row["at"]), row["kind"], row["name"], row.get("offset"), row["reason"]) for row in answer["rows"])
    Presenter(place).rows(answer, ("time", "kind", "name", "offset", "why"), rows, "everything could be read")
