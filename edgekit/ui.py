"""The only place that prints: results on standard output, as text or as one JSON envelope; messages on standard error.

Commands hand in a frozen `Result` and write nothing themselves; no file is read here, and rich is imported only when
something is drawn on a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, TextIO

import click

from edgekit.errors import BudgetError, EdgekitError

if TYPE_CHECKING:
    from edgekit.types import Progress, ProgressCallback

ENVELOPE_VERSION = 1
INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells count it."""

_LINE_INTERVAL_SECONDS = 10.0


@dataclass(frozen=True)
class Table:
    """Rows of text under column titles; the columns named in ``right`` are aligned to the right."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[str] = frozenset()


Block = str | Table


@dataclass(frozen=True)
class Problem:
    """One entry of the envelope's ``errors``."""

    code: str
    message: str
    hint: str | None = None


@dataclass(frozen=True)
class Result:
    """What a command found: ``data`` for programs, ``text`` for people, ``notes`` for standard error.

    A command that did its work and found something wrong returns ``problems`` and the ``exit_code`` for them.
    """

    data: Mapping[str, object] = field(default_factory=dict)
    text: tuple[Block, ...] = ()
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    exit_code: int = 0


@dataclass(frozen=True)
class Failure:
    """A command that an exception ended: the problem, its exit code, and what is known about it."""

    problem: Problem
    exit_code: int
    data: Mapping[str, object] = field(default_factory=dict)


class Output:
    """Where one command writes to. ``command`` is its name in the envelope; ``resume`` the line that continues the
    work after Ctrl-C, set by commands that can be continued."""

    def __init__(self, *, as_json: bool, debug: bool) -> None:
        self.as_json = as_json
        self.debug = debug
        self.command = "edgekit"
        self.resume: str | None = None
        self._stdout = sys.stdout
        self._stderr = sys.stderr

    @property
    def data_stream(self) -> TextIO:
        """Standard output, for a command that streams its data as text; not to be used with ``as_json``."""
        return self._stdout

    def message(self, text: str) -> None:
        """One line for people, on standard error."""
        print(text, file=self._stderr, flush=True)

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback]:
        """A callback for stages: bars on a terminal, else a line per stage and every ten seconds."""
        if _draws(self._stderr):
            with _bars(self._stderr) as report:
                yield report
        else:
            yield _ProgressLines(self.message)

    def finish(self, result: Result) -> int:
        """Print what a command returned; the exit code of the process."""
        if self.as_json:
            self._print_envelope(result.data, result.problems)
        else:
            for block in result.text:
                self._print_block(block)
        self._stdout.flush()
        for note in result.notes:
            self.message(note)
        self._print_problems(result.problems)
        return result.exit_code

    def fail(self, error: BaseException) -> int:
        """Print what ended a command; the exit code of the process."""
        failure = describe_failure(error, self.command, self.resume)
        if self.debug:
            import traceback

            traceback.print_exception(error, file=self._stderr)
        if self.as_json:
            self._print_envelope(failure.data, (failure.problem,))
        self._print_problems((failure.problem,))
        return failure.exit_code

    def _print_envelope(self, data: Mapping[str, object], problems: tuple[Problem, ...]) -> None:
        import json

        envelope = {
            "edgekit": ENVELOPE_VERSION,
            "command": self.command,
            "status": "error" if problems else "ok",
            "data": data,
            "errors": [asdict(problem) for problem in problems],
        }
        print(json.dumps(envelope, allow_nan=False, default=_builtin), file=self._stdout, flush=True)

    def _print_block(self, block: Block) -> None:
        if isinstance(block, str):
            print(block, file=self._stdout)
        elif _draws(self._stdout):
            _draw_table(block, self._stdout)
        else:
            self._stdout.writelines(f"{line}\n" for line in plain_table(block))

    def _print_problems(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self.message(f"{self._coloured('error:', 'red')} {problem.message}")
            if problem.hint:
                self.message(f"{self._coloured('hint:', 'cyan')} {problem.hint}")

    def _coloured(self, text: str, colour: str) -> str:
        if not _draws(self._stderr) or os.environ.get("NO_COLOR"):
            return text
        return click.style(text, fg=colour, bold=True)


def describe_failure(error: BaseException, command: str, resume: str | None = None) -> Failure:
    """The problem and exit code for any exception; ``resume`` is the hint given when it is an interruption."""
    if isinstance(error, BudgetError):
        data = {"smallest_us": error.smallest_us}
        return Failure(Problem(error.code, error.message, error.hint), error.exit_code, data)
    if isinstance(error, EdgekitError):
        return Failure(Problem(error.code, error.message, error.hint), error.exit_code)
    if isinstance(error, click.ClickException):
        hint = f"{command} --help" if command == "edgekit" else f"edgekit {command} --help"
        return Failure(Problem("usage", _one_line(error.format_message()), hint), 2)
    if isinstance(error, click.Abort | KeyboardInterrupt):
        return Failure(Problem("interrupted", "interrupted", resume or "run the same command again"), INTERRUPTED)
    if isinstance(error, OSError):
        return Failure(Problem("system", _system_message(error)), 1)
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return Failure(Problem("internal", message, "this is a defect of edgekit; --debug shows where it happened"), 1)


def plain_table(table: Table) -> Iterator[str]:
    """The lines of a table without any drawing: columns two spaces apart, never wrapped."""
    rows = (table.columns, *table.rows)
    widths = [max(len(row[index]) for row in rows) for index in range(len(table.columns))]
    for row in rows:
        cells = (
            cell.rjust(width) if column in table.right else cell.ljust(width)
            for cell, width, column in zip(row, widths, table.columns, strict=True)
        )
        yield "  ".join(cells).rstrip()


class _ProgressLines:
    """Progress where no bar can be drawn: each new stage and its end at once, a running one every ten seconds."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._stage = ""
        self._written_at = 0.0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        is_end = progress.total > 0 and progress.done >= progress.total
        if progress.stage == self._stage and not is_end and now - self._written_at < _LINE_INTERVAL_SECONDS:
            return
        self._stage, self._written_at = progress.stage, now
        share = f"{progress.done / progress.total:.0%}" if progress.total else f"{progress.done:g}"
        values = "".join(f"  {name} {value}" for name, value in progress.values.items())
        self._write(f"{progress.stage} {share}{values}")


@contextmanager
def _bars(stream: TextIO) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskID, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    tasks: dict[str, TaskID] = {}
    with Bars(*columns, TextColumn("{task.fields[values]}", markup=False), console=Console(file=stream)) as bars:

        def report(progress: Progress) -> None:
            task = tasks.get(progress.stage)
            if task is None:
                task = tasks[progress.stage] = bars.add_task(progress.stage, values="")
            values = "  ".join(f"{name} {value}" for name, value in progress.values.items())
            bars.update(task, completed=progress.done, total=progress.total or None, values=values)

        yield report


def _draw_table(table: Table, stream: TextIO) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as Drawing
    from rich.text import Text

    drawing = Drawing(box=SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        drawing.add_column(column, justify="right" if column in table.right else "left", overflow="fold")
    for row in table.rows:
        drawing.add_row(*(Text(cell) for cell in row))
    Console(file=stream).print(drawing)


def _draws(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _builtin(value: object) -> Any:
    """What `json` does not know: the structs of edgekit.types, and paths."""
    if isinstance(value, PurePath):
        return str(value)
    import msgspec

    return msgspec.to_builtins(value)


def _one_line(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _system_message(error: OSError) -> str:
    """The operating system's words, with the file they are about."""
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason
