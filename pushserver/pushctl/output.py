"""What a task writes, as it is kept, or as it goes on. Nothing of it can move a terminal's cursor."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import msgspec

from pushserver.client.messages import OutputChunk
from pushserver.client.outputs import OUTPUTS, OutputFeed, ReadOutputChannel
from pushserver.pushctl.calls import call, task_path
from pushserver.pushctl.live import received
from pushserver.pushctl.place import ServerPlace
from pushserver.pushctl.show import as_json, cell, compact


def harmless(text: str) -> str:
    """Text for a terminal: its lines and tabs are kept, what else controls one is shown as a dot."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "\n".join("\t".join(map(cell, line.split("\t"))) for line in lines)


def print_output(place: ServerPlace, task_id: str, name: str, follow: bool) -> None:
    """Print what a task has written to an output; with ``follow``, until that is closed."""
    chunks = _followed(place, task_id, name) if follow else _kept(place, task_id, name)
    try:
        for chunk in chunks:
            _print(place, chunk)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Whoever read this has had enough.
        sys.stdout = None  # type: ignore[assignment]


def _kept(place: ServerPlace, task_id: str, name: str) -> Iterator[OutputChunk]:
    at: dict[str, str] = {}
    more = True
    while more:
        page = call(place, "GET", task_path(task_id, "output"), name=name, **at)
        at = {"offset": str(page["offset"]), "epoch": page["epoch"]}
        more = page["more"]
        yield msgspec.convert(page, OutputChunk)


def _followed(place: ServerPlace, task_id: str, name: str) -> Iterator[OutputChunk]:
    channel = f"{OUTPUTS}{name}/{task_id}"
    # A stream tells it from the beginning whenever it is opened: what was printed is a repeat.
    feed = OutputFeed(ReadOutputChannel(channel), None)
    for push in received(place, (channel,), "it goes on from there"):
        chunk = push.output
        if chunk is None or not feed.take_live(chunk):
            continue
        new = feed.queue.popleft().output
        assert new is not None
        yield new
        if new.closed:
            return


def _print(place: ServerPlace, chunk: OutputChunk) -> None:
    if chunk.reset:
        click.echo("warning: the task began anew", err=True)
    if chunk.trimmed:
        click.echo(f"warning: what lay before {chunk.start} is gone", err=True)
    if place.as_json:
        as_json(chunk)
        return
    text = chunk.text + "".join(f"{compact(item)}\n" for item in chunk.items)
    print(harmless(text) if sys.stdout.isatty() else text, end="", flush=True)
