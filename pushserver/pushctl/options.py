"""The options that every command takes: which server, and how to answer.

    pushctl --url A task --json get ID --url B      = pushctl --url B --json task get ID

They stand before a verb or behind it, and the later one counts. No verb names them: being a `PlaceCommand` brings them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Final

import click
import msgspec

from pushserver.pushctl.place import ServerPlace

#: Where the contexts of one call keep what was said so far.
_SAID: Final = f"{__name__}.said"


class Common(click.Option):
    """Behind a verb it is taken and completed; the help and the environment have it once, for ``pushctl`` itself."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        return super().get_help_record(ctx) if ctx.parent is None else None

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        # A variable of the verb's own (PUSHCTL_STATS_URL) would beat what the command line says before the verb.
        return super().resolve_envvar_value(ctx) if ctx.parent is None else None


#: Their names are those of `ServerPlace`'s arguments; None is what was not said.
COMMON: Final = (
    Common(["--url"], metavar="URL", help="The server, as in http://127.0.0.1:8080. [env: PUSHCTL_URL]"),
    Common(["--api-key"], metavar="KEY", help="A key of its HTTP API. [env: PUSHCTL_API_KEY]"),
    Common(["--token"], metavar="TOKEN", help="A token to listen with. [env: PUSHCTL_TOKEN]"),
    Common(
        ["--config"], metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="The server's configuration."
    ),
    Common(
        ["--state-dir"],
        metavar="DIR",
        help="Its state directory; a server in development mode leaves keys there.",
    ),
    Common(["--json", "as_json"], is_flag=True, default=None, help="Answer with JSON, for programs."),
)


class PlaceCommand(click.Command):
    """A command that takes the common options too; its `ServerPlace` is made of those before it and its own."""

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        return [*COMMON, *super().get_params(ctx)]

    def invoke(self, ctx: click.Context) -> Any:
        said = ctx.meta.setdefault(_SAID, {})
        for option in COMMON:
            value = ctx.params.pop(str(option.name))
            if value is not None:
                said[option.name] = value
        ctx.obj = ServerPlace(**said)
        return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_epilog(ctx, formatter)
        if ctx.parent is not None:
            names = ", ".join(option.opts[0] for option in COMMON)
            formatter.write_paragraph()
            formatter.write_text(f"Also: {names}; see {ctx.find_root().info_name} --help.")


class CommandGroup(PlaceCommand, click.Group):
    """A group whose verbs, and groups of verbs, are such commands. With ``--json`` mistakes are JSON too."""

    def main(self, args: Sequence[str] | None = None, standalone_mode: bool = True, **named: Any) -> Any:  # type: ignore[override]
        said = sys.argv[1:] if args is None else list(args)
        if not standalone_mode or "--json" not in said:
            return super().main(args, standalone_mode=standalone_mode, **named)
        try:
            status = super().main(args, standalone_mode=False, **named)
        except click.ClickException as problem:
            code = getattr(problem, "code", "") or ("USAGE" if isinstance(problem, click.UsageError) else "FAILED")
            message = getattr(problem, "said", "") or problem.format_message()
            click.echo(msgspec.json.encode({"error": {"code": code, "message": message}}), err=True)
            status = problem.exit_code
        except click.Abort:
            status = 1
        sys.exit(status if isinstance(status, int) else 0)

    command_class = PlaceCommand
    group_class = type


class InboxGroup(CommandGroup):
    """A group of which something else than a command's name is what its ``list`` takes."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            args = ["list", *args]
        return super().resolve_command(ctx, args)
