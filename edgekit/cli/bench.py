"""``edgekit bench``: time model files beside each other.

Timing is the work of ``edgekit.pipeline.bench``; here measured and predicted times become a table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgekit.cli.command import command
from edgekit.cli.options import EXISTING_FILE, provider_option, target_option
from edgekit.ui import Output, Result, Table

if TYPE_CHECKING:
    from edgekit.pipeline.bench import BenchResult, BenchRow
    from edgekit.types import Target

Placement = dict[str, tuple[str, ...]] | None
"""Kernels by the provider that ran them; None where there is only the CPU."""


@command
@click.argument("models", metavar="MODEL...", type=EXISTING_FILE, nargs=-1, required=True)
@click.option("--baseline", type=EXISTING_FILE, help="Model that the others are compared with; the first if not given.")
@target_option
@click.option(
    "--threads", type=click.IntRange(1, 1024), help="Threads of the runtime; those of the target if not given."
)
@provider_option
@click.option(
    "--min-seconds",
    type=click.FloatRange(0.01, 3600),
    default=1.0,
    show_default=True,
    help="Time each model for at least this long.",
)
def bench(
    ui: Output,
    models: tuple[Path, ...],
    baseline: Path | None,
    target: str,
    threads: int | None,
    provider: str | None,
    min_seconds: float,
) -> Result:
    """Time each MODEL on a target, all of them interleaved in one process.

    Measured times stand beside those that the model files predicted for themselves. A ratio is the time relative to
    the baseline's, with the interval that encloses it with a probability of 96 %. With a provider other than the CPU,
    the placement says how many nodes of a model each of the two runs.
    """
    from edgekit import targets
    from edgekit.pipeline.bench import bench as measure
    from edgekit.profile.reach import with_provider

    device = with_provider(targets.find(target), provider)
    with ui.progress() as progress:
        found = measure(
            models, baseline=baseline, target=device, threads=threads, min_seconds=min_seconds, progress=progress
        )
    placements = {row.path: _placement(row, device) for row in found.rows}
    notes = (*_left_to_cpu(placements), *(f"tainted: {reason}" for reason in found.tainted))
    data = {"target": device.name, "bench": found, "placement": placements}
    return Result(data=data, text=(_table(found, placements),), notes=notes)


def _placement(row: BenchRow, device: Target) -> Placement:
    asked = device.runtimes[row.runtime].provider
    if asked == "cpu":
        return None
    named = [kernel.partition(":") for kernel in row.kernels]
    return {place: tuple(name for found, _, name in named if found == place) for place in (asked, "cpu")}


def _left_to_cpu(placements: Mapping[str, Placement]) -> Iterator[str]:
    for path, placement in placements.items():
        if placement and placement["cpu"]:
            yield f"{path}: the CPU runs {', '.join(dict.fromkeys(placement['cpu']))}"


def _table(found: BenchResult, placements: Mapping[str, Placement]) -> Table:
    columns = ("model", "runtime", "format", "median us", "p90 us", "predicted us", "ratio", "ratio 96 %", "bytes")
    # Where the CPU is the only provider, there is nothing to tell.
    is_placed = any(placements.values())
    placed: tuple[str, ...] = ("placement",) if is_placed else ()
    rows = tuple((*_row(row), *((_counts(placements[row.path]),) if is_placed else ())) for row in found.rows)
    return Table((*columns, *placed), rows, right=frozenset(columns[3:]))


def _counts(placement: Placement) -> str:
    if placement is None:
        return "cpu"
    return ", ".join(f"{provider} {len(kernels)}" for provider, kernels in placement.items())


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
