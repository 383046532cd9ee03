"""``edgekit profile``: measure the units of a network on a target.

Which units there are and how they are timed is the work of ``edgekit.pipeline``; here options become its arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.command import command
from edgekit.cli.options import INPUT_SHAPE, NUMBER_FORMAT, OUTPUT_FILE, RUNTIME, model_option, target_option
from edgekit.ui import Block, Output, Result, Table

if TYPE_CHECKING:
    from edgekit.nn.structure import Structure
    from edgekit.pipeline.profiling import Profiled
    from edgekit.types import NumberFormat, RuntimeName, Target


@command
@model_option(required=True)
@click.option(
    "--input", "input_shape", type=INPUT_SHAPE, required=True, help="Shape of one input, such as 1x28x28 or 784."
)
@click.option("--classes", type=click.IntRange(2, 10_000), default=10, show_default=True, help="Outputs of the model.")
@target_option
@click.option(
    "--runtime",
    "runtimes",
    type=RUNTIME,
    multiple=True,
    default=["onnx"],
    show_default=True,
    help="What runs the model; may be given twice.",
)
@click.option(
    "--format",
    "formats",
    type=NUMBER_FORMAT,
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="Number format; may be given twice.",
)
@click.option(
    "--group-size", type=click.IntRange(1, 65536), help="Channels that are dropped together; found if not given."
)
@click.option(
    "--output", type=OUTPUT_FILE, help="The profile; in ./profiles, named by device and version, if not given."
)
@click.option("--force", is_flag=True, help="Measure again what the profile holds already.")
def profile(
    ui: Output,
    model: str,
    input_shape: tuple[int, ...],
    classes: int,
    target: str,
    runtimes: tuple[RuntimeName, ...],
    formats: tuple[NumberFormat, ...],
    group_size: int | None,
    output: Path | None,
    force: bool,
) -> Result:
    """Measure how long each part of a network takes on a target.

    All widths are measured that training may choose from. What the profile holds already is not measured again, and
    Ctrl-C loses nothing that was measured.
    """
    if output and len(set(runtimes)) > 1:
        raise click.UsageError("--output holds one runtime's profile: give one --runtime, or leave it out")
    from edgekit import targets
    from edgekit.nn.structure import analyse
    from edgekit.pipeline.models import make_network

    device = targets.find(target)
    structure = analyse(make_network(model, input_shape, classes, seed=0).spec, group_size)
    ui.resume = "the same command goes on: what was measured is kept"
    options = {"target": device, "formats": tuple(dict.fromkeys(formats)), "path": output, "force": force}
    found = [_measure(ui, structure, runtime, options) for runtime in dict.fromkeys(runtimes)]
    return Result(
        data={"profiles": [_data(device, profiled) for profiled in found]},
        text=tuple(block for profiled in found for block in _text(profiled)),
    )


def _measure(ui: Output, structure: Structure, runtime: RuntimeName, options: dict[str, Any]) -> Profiled:
    from edgekit.pipeline.profiling import profile_network
    from edgekit.profile import open_stopwatch

    with ui.progress() as progress, open_stopwatch(options["target"], runtime) as stopwatch:
        return profile_network(structure, stopwatch=stopwatch, progress=progress, **options)


def _data(device: Target, profiled: Profiled) -> dict[str, object]:
    profile = profiled.profile
    return {
        "path": profiled.path,
        "target": device.name,
        "runtime": profile.runtime,
        "runtime_version": profile.runtime_version,
        "machine": profile.machine,
        "unit_count": len(profile.units),
        "measured_count": profiled.measured_count,
        "overhead_us": profile.overhead_us,
        "corrections": profile.corrections,
        "tainted": profile.tainted,
    }


def _text(profiled: Profiled) -> tuple[Block, ...]:
    profile = profiled.profile
    head = f"{profiled.path}: {profiled.measured_count} units measured, {len(profile.units)} in all"
    rows = tuple(
        (name, str(found.network_count), f"{found.median_error:.1%}", f"{found.max_error:.1%}")
        for name, found in profile.corrections.items()
    )
    columns = ("format", "whole networks", "median error", "largest error")
    table = (Table(columns, rows, right=frozenset(columns[1:])),) if rows else ()
    return (head, *table, *(f"tainted: {reason}" for reason in profile.tainted))
