"""What every command shares: how it is declared, the options --json and --debug, and its name in the output.

Options of single commands are in their own files, the types of option values in ``options``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from edgekit.ui import Output, Result

CommandFunction = Callable[..., Result]
"""Takes the `Output` first, then the values of its arguments and options by name."""


class Command(click.Command):
    """A command that tells the `Output` its name before its options are read, so that an error in them carries it."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Click's own, after the name is told."""
        tell_name(info_name, parent)
        return super().make_context(info_name, args, parent, **extra)


class CommandGroup(click.Group):
    """A command that only has sub-commands, named likewise."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Click's own, after the name is told."""
        tell_name(info_name, parent)
        return super().make_context(info_name, args, parent, **extra)


def command(function: CommandFunction) -> Command:
    """Make a command of a function that returns a `Result`; its name and help are those of the function."""
    made = click.command(cls=Command)(click.pass_obj(function))
    made.params.extend(common_options())
    return made


def command_group(function: Callable[[], None]) -> CommandGroup:
    """Make a command that only has sub-commands; its name and help are those of the function."""
    made = click.group(cls=CommandGroup, no_args_is_help=False)(function)
    made.params.extend(common_options())
    return made


class FileGroup(CommandGroup):
    """A command with sub-commands that does work of its own without one, and for which a word that names none of them
    is a file for the sub-command ``file``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's own, with ``file`` put before what is no sub-command."""
        return super().resolve_command(ctx, args if args[0] in self.commands else ["file", *args])


def file_group(function: CommandFunction) -> FileGroup:
    """Make a `FileGroup` of a function that returns a `Result`: what it does without a sub-command."""

    @functools.wraps(function)
    def work_alone(context: click.Context, **values: Any) -> Result | None:
        return None if context.invoked_subcommand else function(context.obj, **values)

    made = click.group(cls=FileGroup, invoke_without_command=True, no_args_is_help=False)(
        click.pass_context(work_alone)
    )
    made.params.extend(common_options())
    return made


def common_options() -> list[click.Parameter]:
    """--json and --debug: declared for ``--help``; their values are read by ``main``, before click starts."""
    as_json = "Print one JSON object on standard output, also on failure."
    return [
        click.Option(["--json"], is_flag=True, expose_value=False, help=as_json),
        click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error."),
    ]


def tell_name(info_name: str | None, parent: click.Context | None) -> None:
    """Name the running command to the `Output`, as in ``target list``: without the program's own name."""
    output = parent.find_object(Output) if parent else None
    if parent and output:
        output.command = f"{parent.command_path} {info_name}".partition(" ")[2]
