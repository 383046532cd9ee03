"""The entry point of ``edgekit``: finds the command, runs it, turns whatever happens into output and an exit code.

Only click is imported here, so that ``edgekit --help`` stays quick; what a command needs it imports when it runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from difflib import get_close_matches
from importlib import import_module

import click

import edgekit
from edgekit.cli.command import common_options
from edgekit.ui import Output, Result

COMMANDS = {
    "target": "List, show, check and set up target devices.",
    "profile": "Measure how long each part of a network takes on a target.",
    "train": "Train a network that fits a latency budget on a target.",
    "export": "Write the model that RUN chose as a file for a runtime.",
    "bench": "Time each MODEL on a target, all of them interleaved in one process.",
    "run": "Classify every image of INPUT... with the exported MODEL, on this machine or another target.",
    "report": "Write one HTML page about each RUN, a run's name or directory.",
    "doctor": "Check what works on this machine.",
}
"""In the order in which a user meets them: the name, which is also that of its file and of the object in it, and the
first line of its help, so that listing the commands imports none of them."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Click's own; an unknown name is told with the nearest ones."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-") and not ctx.resilient_parsing:
            near = get_close_matches(name, COMMANDS, n=2)
            advice = f"did you mean {' or '.join(near)}?" if near else f"the commands are {', '.join(COMMANDS)}"
            ctx.fail(f"there is no command {name!r}; {advice}")
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"edgekit.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LazyGroup,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(edgekit.__version__, prog_name="edgekit", message="%(prog)s %(version)s")
def group() -> None:
    """Make neural networks fit a latency budget on a device that was measured.

    The way through: target, profile, train, export, bench, run, report. Every command takes --json.
    Exit codes: 0 ok, 1 failed, 2 usage, 3 bad data or model, 4 device or link, 5 trust, 130 interrupted.
    """


group.params.extend(common_options())


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line ``args`` (those of the process by default) and return the exit code."""
    words = list(sys.argv[1:] if args is None else args) or ["--help"]
    flags = words[: words.index("--")] if "--" in words else words
    # Read here and not by click: an error in the options must be told in the form that was asked for.
    output = Output(as_json="--json" in flags, debug="--debug" in flags)
    _write_any_file_name()
    try:
        return _run(words, output)
    except BrokenPipeError:
        return _close_broken_pipe()
    except Exception as error:
        return output.fail(error)
    except KeyboardInterrupt as error:
        return output.fail(error)


def _run(words: list[str], output: Output) -> int:
    if not output.as_json:
        return _finish(_invoke(words, output), output)
    # One JSON object is all that standard output may hold, whatever a library prints.
    with redirect_stdout(sys.stderr):
        value = _invoke(words, output)
    return _finish(value, output)


def _invoke(words: list[str], output: Output) -> object:
    return group.main(words, prog_name="edgekit", standalone_mode=False, obj=output)


def _finish(value: object, output: Output) -> int:
    """``value`` is a Result, or the exit code with which click answered ``--help`` and ``--version`` itself."""
    if isinstance(value, Result):
        return output.finish(value)
    return output.finish(Result(exit_code=value if isinstance(value, int) else 0))


def _write_any_file_name() -> None:
    """File names are bytes: those that are no UTF-8 must not end a command when they are printed."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="surrogateescape")


def _close_broken_pipe() -> int:
    """The reader went away (``edgekit run ... | head``): keep the interpreter from complaining about it on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
