"""``edgekit run``: classify images with an exported model.

Reading, preprocessing and running is the work of ``edgekit.run``; here outcomes go to where they were asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from edgekit.cli.command import command
from edgekit.cli.options import EXISTING_FILE, OUTPUT_FILE, complete_path, provider_option, target_option
from edgekit.files import unfinished, write_gradually
from edgekit.ui import Output, Problem, Result

if TYPE_CHECKING:
    from edgekit.run import Outcome, Summary
    from edgekit.types import ProgressCallback


@command
@click.argument("model", type=EXISTING_FILE)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True, shell_complete=complete_path)
@click.option(
    "--format",
    "text_format",
    type=click.Choice(["csv", "jsonl"]),
    default="csv",
    show_default=True,
    help="A table, or one JSON object per line.",
)
@click.option(
    "--top", type=click.IntRange(1, 10_000), default=1, show_default=True, help="How many classes to give per image."
)
@target_option
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the runtime; those of the target if not given."
)
@provider_option
@click.option("--output", type=OUTPUT_FILE, help="Write to this file, not to standard output.")
def run(
    ui: Output,
    model: Path,
    inputs: tuple[str, ...],
    text_format: str,
    top: int,
    target: str,
    threads: int | None,
    provider: str | None,
    output: Path | None,
) -> Result:
    """Classify every image of INPUT... with the exported MODEL, on this machine or another target.

    An INPUT is an image, a folder (with all folders below it), a pattern, an IDX or .npz file, or - for one path per
    line on standard input. What cannot be read becomes a line with the reason, and the exit code 3 in the end.
    """
    from edgekit import targets
    from edgekit.profile.reach import with_provider
    from edgekit.run import classify

    device = with_provider(targets.find(target), provider)
    with (
        _progress(ui, output) as progress,
        classify(model, inputs, threads=threads, top=top, target=device, progress=progress) as found,
    ):
        results = _deliver(ui, found, text_format, top, output)
        summary = found.summary()
    data = {"results": results, "summary": summary, "output": output}
    problems = _problems(summary)
    return Result(data, notes=(_summary_line(summary),), problems=problems, exit_code=3 if problems else 0)


def _deliver(
    ui: Output, outcomes: Iterable[Outcome], text_format: str, top: int, output: Path | None
) -> list[Outcome] | None:
    """Write each outcome as it comes in; with --json and no file, collect them instead."""
    if output is None and ui.as_json:
        return list(outcomes)
    with _text_stream(ui, output) as stream:
        _write(outcomes, stream, text_format, top)
    return None


def _write(outcomes: Iterable[Outcome], stream: TextIO, text_format: str, top: int) -> None:
    from edgekit.run import write_csv, write_json_lines

    if text_format == "csv":
        write_csv(outcomes, stream, top=top)
    else:
        write_json_lines(outcomes, stream)


@contextmanager
def _text_stream(ui: Output, output: Path | None) -> Iterator[TextIO]:
    if output is None:
        yield ui.data_stream
        return
    with write_gradually(output) as stream:
        try:
            yield stream
        except BaseException:
            if unfinished(output).exists():
                ui.message(f"{unfinished(output)} holds the results until here; {output} is as it was")
            raise


@contextmanager
def _progress(ui: Output, output: Path | None) -> Iterator[ProgressCallback]:
    """No bar between results that scroll by on the same terminal."""
    from edgekit.types import ignore_progress

    scrolls = output is None and not ui.as_json and ui.data_stream.isatty()
    with nullcontext(ignore_progress) if scrolls else ui.progress() as progress:
        yield progress


def _problems(summary: Summary) -> tuple[Problem, ...]:
    if not summary.failed_count:
        return ()
    total = summary.classified_count + summary.failed_count
    message = f"{summary.failed_count} of {total} inputs could not be classified"
    return (Problem("bad_data", message, "the results name each of them and the reason"),)


def _summary_line(summary: Summary) -> str:
    speed = f"{summary.classified_count} images, {summary.images_per_second:.0f} a second"
    if summary.median_us is None:
        return speed
    return f"{speed}; the model took {summary.median_us:.0f} us (median), {summary.p90_us:.0f} us (90th percentile)"
