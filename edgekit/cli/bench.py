"""``edgekit bench``: time model files beside each other.

Timing is the work of ``edgekit.pipeline.bench``; here measured and predicted times become a table.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.command import command
from edgekit.cli.options import EXISTING_FILE, target_option
from edgekit.ui import Output, Result, Table

if TYPE_CHECKING:
    from edgekit.pipeline.bench import BenchResult, BenchRow


@command
@click.argument("models", metavar="MODEL...", type=EXISTING_FILE, nargs=-1, required=True)
@click.option("--baseline", type=EXISTING_FILE, help="Model that the others are compared with; the first if not given.")
@target_option
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the runtime; those of the target if not given."
)
@click.option(
    "--min-seconds",
    type=click.FloatRange(0.01, 3600),
    default=1.0,
    show_default=True,
    help="Time each model for at least this long.",
)
def bench(
    ui: Output, models: tuple[Path, ...], baseline: Path | None, target: str, threads: int | None, min_seconds: float
) -> Result:
    """Time each MODEL on a target, all of them interleaved in one process.

    Measured times stand beside those that the model files predicted for themselves. A ratio is the time relative to
    the baseline's, with the interval that encloses it with a probability of 96 %.
    """
    from edgekit import targets
    from edgekit.pipeline.bench import bench as measure

    device = targets.find(target)
    with ui.progress() as progress:
        found = measure(
            models, baseline=baseline, target=device, threads=threads, min_seconds=min_seconds, progress=progress
        )
    notes = tuple(f"tainted: {reason}" for reason in found.tainted)
    return Result(data={"target": device.name, "bench": found}, text=(_table(found),), notes=notes)


def _table(found: BenchResult) -> Table:
    columns = ("model", "runtime", "format", "median us", "p90 us", "predicted us", "ratio", "ratio 96 %", "bytes")
    return Table(columns, tuple(_row(row) for row in found.rows), right=frozenset(columns[3:]))


def _row(row: BenchRow) -> tuple[str, ...]:
    return (
        row.path,
        row.runtime,
        row.number_format or "-",
        f"{row.measured.median_us:.1f}",
        f"{row.measured.p90_us:.1f}",
        "-" if row.predicted_us is None else f"{row.predicted_us:.1f}",
        f"{row.ratio:.3f}",
        f"{row.ratio_low:.3f}-{row.ratio_high:.3f}",
        str(row.size_bytes),
    )
