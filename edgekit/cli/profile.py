"""``edgekit profile``: measure the units of a network on a target, or look at what was measured.

Which units there are and how they are timed is the work of ``edgekit.pipeline``; here options become its arguments.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.command import command, file_group
from edgekit.cli.options import (
    EXISTING_FILE,
    INPUT_SHAPE,
    NUMBER_FORMAT,
    OUTPUT_FILE,
    RUNTIME,
    model_option,
    provider_option,
    target_option,
)
from edgekit.ui import Block, Output, Problem, Result, Table

if TYPE_CHECKING:
    from edgekit.nn.structure import Structure
    from edgekit.pipeline.profiling import Profiled
    from edgekit.profile.compare import UnitChange, UnitRow
    from edgekit.profile.files import FileRow
    from edgekit.types import NumberFormat, RuntimeName, Target


@file_group
@model_option(required=False)
@click.option("--input", "input_shape", type=INPUT_SHAPE, help="Shape of one input, such as 1x28x28 or 784.")
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
@provider_option
@click.option(
    "--group-size", type=click.IntRange(1, 65536), help="Channels that are dropped together; found if not given."
)
@click.option(
    "--output", type=OUTPUT_FILE, help="The profile; in ./profiles, named by device and version, if not given."
)
@click.option("--force", is_flag=True, help="Measure again what the profile holds already.")
@click.option(
    "--check", is_flag=True, help="Only time a sample of what the profile holds, and tell whether it drifted."
)
def profile(
    ui: Output,
    model: str | None,
    input_shape: tuple[int, ...] | None,
    classes: int,
    target: str,
    runtimes: tuple[RuntimeName, ...],
    formats: tuple[NumberFormat, ...],
    provider: str | None,
    group_size: int | None,
    output: Path | None,
    force: bool,
    check: bool,
) -> Result:
    """Measure how long each part of a network takes on a target.

    All widths are measured that training may choose from. What the profile holds already is not measured again, and
    Ctrl-C loses nothing that was measured. With a model's FILE (.onnx or .tflite) in place of a command: how long each
    operator of that file takes, beside the whole.
    """
    if output and len(set(runtimes)) > 1:
        raise click.UsageError("--output holds one runtime's profile: give one --runtime, or leave it out")
    from edgekit import targets

    if check:
        return _check(ui, targets.find(target), tuple(dict.fromkeys(runtimes)), provider, output)
    if model is None or input_shape is None:
        raise click.UsageError("--model and --input are needed, or the FILE of a model")
    from edgekit.nn.structure import analyse
    from edgekit.pipeline.models import make_network

    device = targets.find(target)
    structure = analyse(make_network(model, input_shape, classes, seed=0).spec, group_size)
    ui.resume = "the same command goes on: what was measured is kept"
    options = {"formats": tuple(dict.fromkeys(formats)), "path": output, "force": force}
    found = [_measure(ui, structure, device, runtime, provider, options) for runtime in dict.fromkeys(runtimes)]
    return Result(
        data={"profiles": [_data(profiled) for profiled in found]},
        text=tuple(block for profiled in found for block in _text(profiled)),
    )


def _measure(
    ui: Output,
    structure: Structure,
    device: Target,
    runtime: RuntimeName,
    provider: str | None,
    options: dict[str, Any],
) -> Profiled:
    from edgekit.pipeline.profiling import profile_network
    from edgekit.profile import open_stopwatch

    with ui.progress() as progress, open_stopwatch(device, runtime, provider=provider) as stopwatch:
        target = _named_with_provider(device, runtime, provider)
        return profile_network(structure, target=target, stopwatch=stopwatch, progress=progress, **options)


def _named_with_provider(device: Target, runtime: RuntimeName, provider: str | None) -> Target:
    """The target by a name that tells the provider where it is not that of its file: times of the two share no
    profile."""
    import msgspec

    if provider is None or provider == device.runtimes[runtime].provider:
        return device
    return msgspec.structs.replace(device, name=f"{device.name}-{provider}")


def _data(profiled: Profiled) -> dict[str, object]:
    profile = profiled.profile
    return {
        "path": profiled.path,
        "target": profile.target,
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
        (
            found.network,
            found.number_format,
            str(found.correction.network_count),
            f"{found.correction.median_error:.1%}",
            f"{found.correction.max_error:.1%}",
        )
        for found in profile.corrections
    )
    columns = ("network", "format", "whole networks", "median error", "largest error")
    table = (Table(columns, rows, right=frozenset(columns[2:])),) if rows else ()
    return (head, *table, *(f"tainted: {reason}" for reason in profile.tainted))


def _check(
    ui: Output, device: Target, runtimes: tuple[RuntimeName, ...], provider: str | None, path: Path | None
) -> Result:
    from edgekit.pipeline.profiling import check_profile, default_profile_path
    from edgekit.profile import open_stopwatch

    found = []
    for runtime in runtimes:
        with ui.progress() as progress, open_stopwatch(device, runtime, provider=provider) as stopwatch:
            target = _named_with_provider(device, runtime, provider)
            held = path or default_profile_path(target, stopwatch)
            found.append(check_profile(held, target, stopwatch, progress=progress))
    notes = tuple(f"tainted: {reason}" for result in found for reason in result.tainted)
    problems = tuple(
        Problem("profile", result.sentence, "measure it again: edgekit profile --force")
        for result in found
        if result.verdict != "ok"
    )
    text = tuple(result.sentence for result in found if result.verdict == "ok")
    return Result({"checks": found}, text, notes=notes, problems=problems, exit_code=1 if problems else 0)


@profile.add_command
@command
@click.argument("path", metavar="PROFILE", type=EXISTING_FILE)
@click.option("--limit", type=click.IntRange(1, 100_000), default=30, show_default=True, help="Rows to print.")
def show(_ui: Output, path: Path, limit: int) -> Result:
    """Show what PROFILE holds: every unit, the slowest first."""
    from edgekit.codec import read_profile
    from edgekit.profile.compare import unit_rows

    held = read_profile(path)
    rows = unit_rows(held)
    columns = ("unit", "format", "us", "p10", "p90", "cold us", "share")
    table = Table(columns, tuple(_unit(row) for row in rows[:limit]), right=frozenset(columns[2:]))
    head = f"{held.target}, {held.runtime_version}, {held.threads} thread(s), {held.machine.cpu}, {held.date}"
    rest = (f"and {len(rows) - limit} faster ones: --limit",) if len(rows) > limit else ()
    tainted = tuple(f"tainted: {reason}" for reason in held.tainted)
    return Result({"profile": held.target, "units": rows}, (head, table, *rest), notes=tainted)


def _unit(row: UnitRow) -> tuple[str, ...]:
    cold = "-" if row.cold_us is None else f"{row.cold_us:.1f}"
    name = f"{row.unit} (yardstick)" if row.is_yardstick else row.unit
    times = (f"{row.us:.2f}", f"{row.p10_us:.2f}", f"{row.p90_us:.2f}")
    return (name, row.number_format, *times, cold, f"{row.share:.1%}")


@profile.add_command
@command
@click.argument("old", type=EXISTING_FILE)
@click.argument("new", type=EXISTING_FILE)
@click.option("--limit", type=click.IntRange(1, 100_000), default=30, show_default=True, help="Rows to print.")
def diff(_ui: Output, old: Path, new: Path, limit: int) -> Result:
    """Tell what changed from the profile OLD to the profile NEW."""
    from edgekit.codec import read_profile
    from edgekit.profile.compare import diff as compare

    found = compare(read_profile(old), read_profile(new))
    columns = ("unit", "old us", "new us", "ratio", "beyond noise")
    table = Table(columns, tuple(_change(change) for change in found.changes[:limit]), right=frozenset(columns[1:4]))
    facts = tuple(f"{field.name}: {field.old} -> {field.new}" for field in found.fields)
    ratio = "-" if found.median_ratio is None else f"{found.median_ratio:.3f}"
    counts = f"{len(found.changes)} units in both, {len(found.only_old)} only old, {len(found.only_new)} only new"
    notes = tuple(f"not of the same thing: {reason}" for reason in found.source)
    return Result({"diff": found}, (*facts, f"{counts}; median ratio {ratio}", table), notes=notes)


def _change(change: UnitChange) -> tuple[str, ...]:
    ratio = "-" if change.ratio is None else f"{change.ratio:.3f}"
    return (change.unit, f"{change.old_us:.2f}", f"{change.new_us:.2f}", ratio, "yes" if change.is_beyond_noise else "")


@profile.add_command
@command
@click.argument("path", metavar="PROFILE", type=EXISTING_FILE)
@click.option("--output", type=OUTPUT_FILE, help="The page; beside PROFILE, ending in .html, if not given.")
def plot(_ui: Output, path: Path, output: Path | None) -> Result:
    """Draw time over channels for every kind of layer in PROFILE: one page that opens without a network."""
    from edgekit.codec import read_profile
    from edgekit.report.profile_plot import write_profile_plot

    written = write_profile_plot(read_profile(path), output or path.with_suffix(".html"))
    return Result({"page": written}, (str(written),))


@profile.add_command
@command
@click.argument("path", metavar="FILE", type=EXISTING_FILE)
@click.option(
    "--input", "inputs", multiple=True, help="NAME:SHAPE, NAME=VALUE or both, where the file leaves an input open."
)
@click.option("--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads of the runtime.")
@click.option("--seconds", type=click.FloatRange(0.1, 3600), default=3.0, show_default=True, help="To spend on timing.")
def file(ui: Output, path: Path, inputs: tuple[str, ...], threads: int, seconds: float) -> Result:
    """Measure how long each operator of a model's FILE takes on this machine, beside the whole."""
    from edgekit.profile.files import parse_input, profile_file

    given = [parse_input(text) for text in inputs]
    with ui.progress() as progress:
        found = profile_file(path, threads=threads, inputs=given, seconds=seconds, progress=progress)
    columns = ("operator", "output", "count", "us", "hot us", "total us", "share", "kernels")
    table = Table(columns, tuple(_operator(row) for row in found.rows), right=frozenset(columns[2:7]))
    sums = (
        f"sum {found.sum_us:.1f} us ({found.ratio:.2f} of the whole), warm in the caches {found.hot_sum_us:.1f} us "
        f"({found.hot_ratio:.2f}), overhead of a run {found.overhead_us:.1f} us",
        f"whole {found.whole.median_us:.1f} us; {found.runtime_version}, {found.threads} thread(s)",
        "kernels: " + ", ".join(f"{count} {name}" for name, count in found.kernels.items()),
    )
    apart = tuple(f"not timed: {item.operator} {item.name}: {item.reason}" for item in found.not_separable)
    tainted = tuple(f"tainted: {reason}" for reason in found.tainted)
    return Result({"file": found}, (table, *sums), notes=(*found.notes, *apart, *tainted))


def _operator(row: FileRow) -> tuple[str, ...]:
    output = "x".join(map(str, row.outputs[0].shape)) if row.outputs else "-"
    times = (f"{row.latency_us:.2f}", f"{row.hot_us:.2f}", f"{row.total_us:.1f}", f"{row.share:.1%}")
    return (row.operator, output, str(row.count), *times, ", ".join(dict.fromkeys(row.kernels)))
