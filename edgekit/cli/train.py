"""``edgekit train``: a network that fits a latency budget, from data and a measured device.

Options become `TrainSettings`, which knows what is allowed; the work is that of ``edgekit.pipeline``.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.command import command
from edgekit.cli.options import (
    EXISTING_FILE,
    IMAGE_SIZE,
    NUMBERS,
    OTHER_SETTINGS,
    RUN_NAME,
    RUNS_FOLDER,
    SETTING,
    complete_data,
    format_option,
    given_by_user,
    model_option,
    runtime_option,
    target_option,
)
from edgekit.ui import Output, Problem, Result, Table

if TYPE_CHECKING:
    from edgekit.pipeline.settings import TrainSettings
    from edgekit.types import ModelPoint, Progress, ProgressCallback, RunResult

METHODS = click.Choice(["drop", "dense"])
LATENCY_SOURCES = click.Choice(["measured", "macs"])
SCOPES = click.Choice(["shared", "layer", "unit"])
ESTIMATORS = click.Choice(["hard-concrete", "straight-through", "arm", "reinforce"])
_TIMING_NOISE = 0.05
_NAMED_SKIPPED = 3
AUGMENTATIONS = click.Choice(["auto", "none", "shift", "flip", "shift+flip"])


@command
@model_option(required=False)
@click.option(
    "--data",
    shell_complete=complete_data,
    help="Images: a folder of class folders, an IDX folder, a .npz file, or a name.",
)
@target_option
@runtime_option
@format_option
@click.option("--budget", default="50%", show_default=True, help="Latency to fit in: 1.2ms, 800us, or 60% of dense.")
@click.option("--method", type=METHODS, default="drop", show_default=True, help="Learn what to drop, or drop nothing.")
@click.option(
    "--name", type=RUN_NAME, help="Name of the run in ./runs; made from model, runtime and format if not given."
)
@click.option("--resume", is_flag=True, help="Go on with the run of this name; its settings are known.")
@click.option(
    "--epochs",
    type=float,
    default=10.0,
    show_default=True,
    help="Passes over the data that each network is trained for in total.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything random.")
@click.option("--batch-size", type=int, default=128, show_default=True, help="Images per step.")
@click.option("--learning-rate", type=float, default=0.1, show_default=True, help="At its peak.")
@click.option("--limit", type=int, help="Use at most this many images.")
@click.option("--image-size", type=IMAGE_SIZE, help="Resize every image to this.")
@click.option("--augmentation", type=AUGMENTATIONS, default="auto", show_default=True, help="Of training images.")
@click.option("--scope", type=SCOPES, default="unit", show_default=True, help="What shares one drop probability.")
@click.option(
    "--estimator",
    type=ESTIMATORS,
    default="hard-concrete",
    show_default=True,
    help="How gradients of drop probabilities are estimated.",
)
@click.option(
    "--lambda-sweep",
    "penalty_sweep",
    type=NUMBERS,
    help="Train once per penalty weight, each per millisecond: 5,20,80. A search shows its own as lambda.",
)
@click.option(
    "--coefficient-low",
    type=float,
    default=0.0,
    show_default=True,
    help="Weight of a dropped unit's time in the penalty; its output is 0.",
)
@click.option("--coefficient-high", type=float, default=1.0, show_default=True, help="Output factor of a kept unit.")
@click.option("--group-size", type=int, help="Channels that are dropped together; found if not given.")
@click.option(
    "--latency-source",
    type=LATENCY_SOURCES,
    default="measured",
    show_default=True,
    help="What the penalty counts; macs is for comparison.",
)
@click.option("--profile", type=EXISTING_FILE, help="Measured times; found or made if not given.")
@click.option("--dense-from", metavar="RUN", help="Take the dense network of this run: same model, data and seed.")
@click.option("--threads", type=int, default=1, show_default=True, help="Threads of training.")
@click.option("--set", "others", type=SETTING, multiple=True, help="Any other setting, such as search-share=0.3.")
def train(
    ui: Output, name: str | None, resume: bool, others: tuple[tuple[str, str], ...], model: str | None, **_values: Any
) -> Result:
    """Train a network that fits a latency budget on a target.

    The target is profiled first where times are missing. The result is a directory in ./runs: killed at any moment,
    it goes on with --resume.
    """
    if resume and name is None:
        raise click.UsageError("--resume needs the --name of the run")
    context = click.get_current_context()
    given = {key: context.params[key] for key in given_by_user(context) - {"name", "resume", "others"}} | dict(others)
    directory = RUNS_FOLDER / (name or free_name(given))
    settings = resumed_settings(directory, given) if resume else new_settings(given)
    ui.resume = f"edgekit train --resume --name {directory.name}"
    from edgekit.pipeline.training_run import train_run

    with ui.progress() as progress:
        told = _announcing(progress, ui, f"going on with {directory}") if resume else progress
        result = train_run(settings, directory, resume=resume, progress=told)
    return describe(result, directory)


def _announcing(progress: ProgressCallback, ui: Output, text: str) -> ProgressCallback:
    """``progress``, before whose first report ``text`` is told: by then the run has not refused to go on."""
    is_told = False

    def report(now: Progress) -> None:
        nonlocal is_told
        if not is_told:
            is_told = True
            ui.message(text)
        progress(now)

    return report


def new_settings(given: dict[str, Any]) -> TrainSettings:
    """Settings from what was given; the rest are `TrainSettings`' defaults. A usage error names its option."""
    for required in ("model", "data"):
        if required not in given:
            raise click.UsageError(f"Missing option '--{required}'")
    return _convert(given)


def resumed_settings(directory: Path, given: dict[str, Any]) -> TrainSettings:
    """Settings of the run that was begun, with what was given over them: the run itself refuses what differs."""
    import msgspec

    from edgekit.pipeline.run_directory import read_settings

    if not directory.is_dir():
        raise click.UsageError(f"there is no run {directory} to resume")
    return _convert(msgspec.structs.asdict(read_settings(directory)) | given)


def _convert(values: dict[str, Any]) -> TrainSettings:
    import msgspec

    from edgekit.pipeline.settings import TrainSettings

    unknown = next((name for name in values if name not in TrainSettings.__struct_fields__), None)
    if unknown is not None:
        known = ", ".join(name.replace("_", "-") for name in OTHER_SETTINGS)
        raise click.UsageError(f"there is no setting {unknown!r} for --set; those without an option are {known}")
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}
    try:
        return msgspec.convert(plain, TrainSettings, strict=False)
    except msgspec.ValidationError as error:
        raise click.UsageError(_in_options(str(error))) from error


def _in_options(message: str) -> str:
    """msgspec names a value as ``$.batch_size``; users know it as ``--batch-size``."""
    text, _, path = message.partition(" - at `$.")
    name = path.rstrip("`")
    return f"--{name.replace('_', '-')}: {text}" if name else message


def free_name(given: dict[str, Any]) -> str:
    """A name for a new run from its model, runtime and format, with a number if there is such a run already."""
    parts = (str(given.get("model", "run")), given.get("runtime", "onnx"), given.get("number_format", "fp32"))
    name = re.sub(r"[^a-zA-Z0-9.]+", "-", "-".join(parts)).strip("-.")
    names = (name, *(f"{name}-{number}" for number in range(2, 10_000)))
    return next(free for free in names if not (RUNS_FOLDER / free).exists())


def describe(result: RunResult, directory: Path) -> Result:
    """What a run came to: the budget, the measured times, and every model of it."""
    columns = ("model", "role", "accuracy", "predicted us", "measured us", "budget us", "parameters", "bytes")
    dense_us = result.baseline_measured_us
    share = f", {result.measured_us / dense_us:.0%} of the dense network's {dense_us:.0f} us" if dense_us else ""
    summary = (
        f"{directory}: {result.measured_us:.0f} us measured{share}; budget {result.budget_us:.0f} us",
        f"accuracy {result.accuracy:.2%}; dense {result.baseline_accuracy:.2%}",
        *_counts(result),
    )
    table = Table(
        columns, tuple(_row(point, result.budget_us) for point in result.points), right=frozenset(columns[2:])
    )
    data = {"run": directory, **{name: getattr(result, name) for name in result.__struct_fields__}}
    notes = (*_skipped(result), *_doubts(result), *(f"tainted: {reason}" for reason in result.tainted))
    problems = _misses(result)
    return Result(data, text=(*summary, table), notes=notes, problems=problems, exit_code=1 if problems else 0)


def _counts(result: RunResult) -> tuple[str, ...]:
    counts = result.data_counts
    if not counts:
        return ()
    parts = ", ".join(f"{counts[name]} to {name}" for name in ("train", "validation", "test"))
    return (f"images: {parts.replace('validation', 'validate')}; {counts['skipped']} skipped",)


def _skipped(result: RunResult) -> tuple[str, ...]:
    """The first files of the data that were left out."""
    count = result.data_counts.get("skipped", 0)
    named = result.skipped[:_NAMED_SKIPPED]
    more = (f"and {count - len(named)} more: stages/data.json of the run lists all",) if count > len(named) else ()
    return (*(f"skipped {file.path}: {file.reason}" for file in named), *more)


def _misses(result: RunResult) -> tuple[Problem, ...]:
    """A budget that the chosen model does not keep; of a sweep, whose user looks at all of its models, none."""
    from edgekit.types import meets

    swept = any(point.role == "swept" for point in result.points)
    if result.method == "dense" or swept or meets(result.measured_us, result.budget_us):
        return ()
    over = result.measured_us / result.budget_us - 1
    message = f"the chosen model takes {result.measured_us:.0f} us, {over:.0%} more than the budget allows"
    return (Problem("budget", message, "the run is kept; train anew with a lower --budget, on a calm machine"),)


def _doubts(result: RunResult) -> tuple[str, ...]:
    """What a measured time says about the profile that chose by predicted ones."""
    allowed = (result.prediction_error or 0.0) + _TIMING_NOISE
    for point in result.points:
        if point.measured_us and abs(point.predicted_us / point.measured_us - 1) > allowed:
            return (
                f"{point.name}: predicted {point.predicted_us:.0f} us, measured {point.measured_us:.0f} us",
                "the profile is off by more than its own error: edgekit profile --force, on a calm machine",
            )
    return ()


def _row(point: ModelPoint, budget_us: float) -> tuple[str, ...]:
    measured = "-" if point.measured_us is None else f"{point.measured_us:.0f}"
    return (
        point.name,
        point.role,
        f"{point.accuracy:.2%}",
        f"{point.predicted_us:.0f}",
        measured,
        f"{budget_us:.0f}",
        str(point.parameter_count),
        str(point.size_bytes),
    )
