"""``edgekit train``: a network that fits a latency budget, from data and a measured device.

Options become `TrainSettings` here; the work is that of ``edgekit.train``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from edgekit.cli.command import command
from edgekit.cli.options import (
    BUDGET,
    IMAGE_SIZE,
    NUMBERS,
    RUNS_FOLDER,
    Budget,
    format_option,
    model_option,
    runtime_option,
    target_option,
    threads_option,
)
from edgekit.ui import Output, Result, Table

if TYPE_CHECKING:
    from edgekit.types import ModelPoint, RunResult


@command
@model_option
@click.option("--data", required=True, help="Images: a folder of class folders, an IDX folder, a .npz file, or a name.")
@target_option
@runtime_option
@format_option
@threads_option
@click.option("--budget", type=BUDGET, help="Latency to fit in: 1.2ms, 800us, or 60% of the dense network.")
@click.option(
    "--method",
    type=click.Choice(["drop", "dense"]),
    default="drop",
    show_default=True,
    help="Learn what to drop, or train the network as it is.",
)
@click.option("--name", help="Name of the run; made from the settings if not given.")
@click.option("--resume", is_flag=True, help="Go on with the run of this name where it was interrupted.")
@click.option("--epochs", type=click.IntRange(1, 100_000), default=10, show_default=True, help="Passes over the data.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Of everything random.")
@click.option("--batch-size", type=click.IntRange(2, 65536), default=128, show_default=True, help="Images per step.")
@click.option(
    "--learning-rate", type=click.FloatRange(0, 100, min_open=True), default=0.1, show_default=True, help="At its peak."
)
@click.option("--limit", type=click.IntRange(1), help="Use at most this many images.")
@click.option("--image-size", type=IMAGE_SIZE, help="Resize every image to this.")
@click.option(
    "--scope",
    type=click.Choice(["shared", "layer", "unit"]),
    default="shared",
    show_default=True,
    help="What shares one drop probability.",
)
@click.option(
    "--estimator",
    type=click.Choice(["hard-concrete", "straight-through", "arm", "reinforce"]),
    default="hard-concrete",
    show_default=True,
    help="How the gradient of a drop probability is estimated.",
)
@click.option("--lambda-sweep", type=NUMBERS, help="Also train with these penalty weights per millisecond: 0.01,0.1,1.")
@click.option("--coefficient-low", type=float, default=0.0, show_default=True, help="Output factor of a dropped unit.")
@click.option("--coefficient-high", type=float, default=1.0, show_default=True, help="Output factor of a kept unit.")
def train(output: Output, *, name: str | None, budget: Budget | None, method: str, **values: Any) -> Result:
    """Train a network that fits a latency budget on a target.

    The target is profiled first where units are missing. The result is a directory in ./runs: killed at any moment,
    it goes on with --resume.
    """
    if method == "drop" and budget is None:
        raise click.UsageError("--method drop needs --budget, such as 1.2ms, 800us or 60%")
    from edgekit.train.session import train_run

    settings = make_settings(name, budget, method, values)
    output.resume = f"edgekit train --resume --name {settings.name} with the same options goes on"
    with output.progress() as progress:
        result = train_run(settings, progress)
    return describe(result)
