"""What every step of a training run needs, made once: data, network, prices, runtime, budget and the run's directory.

Steps live in ``drop_run`` and ``training_run``; here are their inputs, and the short cuts to train, time and store.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from edgekit import targets
from edgekit.codec import read_profile, replace_profile
from edgekit.data import Dataset, load, printable
from edgekit.errors import BadInputError, DataError
from edgekit.nn.latency import LatencyModel
from edgekit.nn.network import Network
from edgekit.nn.structure import Structure, analyse
from edgekit.pipeline.models import build_network, find_model
from edgekit.pipeline.profiling import profile_network
from edgekit.pipeline.run_directory import RunDirectory
from edgekit.pipeline.settings import TrainSettings, parse_budget
from edgekit.pipeline.timing import time_networks
from edgekit.profile import PriceTable, Stopwatch, check_runtime, open_stopwatch
from edgekit.runtimes import Runtime
from edgekit.train.batches import Augmentation, Split, make_split
from edgekit.train.loop import GateStage, Recipe, StageOptions, evaluate, fit, hardware_precision
from edgekit.train.pricing import group_sizes, mac_latency, measured_latency
from edgekit.train.selection import check_reachable
from edgekit.types import NetworkSpec, Profile, Progress, ProgressCallback, Target, Timing

DATA, PRECISION = "data", "precision"
"""Stages that hold what a run was begun with, beside its settings."""


@dataclass(frozen=True)
class Workspace:
    """The inputs of a run. ``latency`` predicts what the device takes (scaled to the dense network's measured time);
    ``steering`` is what search and selection are driven by: the same, or MACs for comparison."""

    settings: TrainSettings
    run: RunDirectory
    dataset: Dataset
    train: Split
    validation: Split
    test: Split
    initial: Network
    structure: Structure
    target: Target
    stopwatch: Stopwatch
    prices: PriceTable
    latency: LatencyModel
    steering: LatencyModel
    baseline_us: float
    budget_us: float
    precision: str
    progress: ProgressCallback

    @property
    def runtime(self) -> Runtime:
        """What writes the models, and runs them on the target."""
        return self.stopwatch.runtime

    def recipe(self, start: float, stop: float, *, distil: bool = False) -> Recipe:
        """The part of the run's schedule from ``start`` to ``stop`` (0 to 1), with a teacher's term if ``distil``."""
        settings = self.settings
        return Recipe(
            epochs=settings.epochs,
            start=start,
            stop=stop,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            augmentation=augmentation_for(settings, self.dataset),
            distillation=settings.distillation if distil else 0.0,
            precision=self.precision,
        )

    def train_stage(
        self,
        stage: str,
        network: Network,
        recipe: Recipe,
        teacher: Network | None = None,
        gates: GateStage | None = None,
    ) -> dict[str, Any]:
        """Train ``network`` as the stage ``stage``, or take its stored result; returns the stage's facts: accuracy and
        loss on the validation split, and what the gates show."""
        done = self.run.finished(stage)
        if done is not None:
            network.load_state_dict({n: t for n, t in self.run.tensors(stage).items() if not n.startswith("gates:")})
            # The layout that training leaves behind: convolutions of one-channel images round otherwise in another.
            network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            if gates is not None:
                gates.restore(_gate_tensors(self.run.tensors(stage)), done["gates"])
            return done
        options = StageOptions(
            name=stage,
            seed=self.settings.seed,
            checkpoints=self.run.checkpoints(stage),
            checkpoint_seconds=self.settings.checkpoint_seconds,
            progress=self.progress,
            metrics=self.run.append_metrics,
        )
        started = time.monotonic()
        fit(network, self.train, recipe, options, teacher, gates)
        facts: dict[str, Any] = {"accuracy": evaluate(network, self.validation, self.precision)}
        facts["seconds"] = time.monotonic() - started
        tensors = dict(network.state_dict())
        if gates is not None:
            gate_tensors, facts["gates"] = gates.state()
            tensors |= {f"gates:{name}": value for name, value in gate_tensors.items()}
        self.run.finish(stage, facts, tensors)
        return facts

    def predicted_us(self, spec: NetworkSpec) -> float:
        """Time of a network as the profile has it, whatever was measured since."""
        return self.prices.network(spec.in_format(self.settings.number_format)).latency_us

    def prediction_error(self) -> float | None:
        """Largest relative error that was found when the profile was made, if it was looked for."""
        dense = self.structure.spec.in_format(self.settings.number_format)
        error = self.prices.correction(dense, group_sizes(self.structure)).max_error
        return error if math.isfinite(error) else None

    def time(self, networks: Sequence[Network], min_seconds: float = 0.5) -> list[Timing]:
        """Times of networks on the target, beside each other."""
        return time_networks(networks, self.stopwatch, self.settings.number_format, min_seconds=min_seconds)


def augmentation_for(settings: TrainSettings, dataset: Dataset) -> Augmentation:
    """The augmentation asked for; ``auto`` mirrors the pictures that are known to bear it and shifts all others: in a
    mirror, digits, letters and signs become something else."""
    if settings.augmentation != "auto":
        return settings.augmentation
    return "flip" if dataset.name == "fashion-mnist" else "shift"


def prepare(settings: TrainSettings, run: RunDirectory, progress: ProgressCallback) -> Workspace:
    """Read the data, build, profile and time the network, and see that the budget can be met: before any training.

    What is told without reading the data (model, target, profile) comes first: reading them can take minutes.
    """
    target = targets.find(settings.target)
    check_runtime(target, settings.runtime, [settings.number_format])
    source = find_model(settings.model, settings.seed)
    _check_profile_files(settings, run)
    dataset = _read_data(settings, run, progress)
    initial = build_network(source, dataset.input_shape, dataset.class_count).eval()
    structure = analyse(initial.spec, settings.group_size)
    stopwatch = open_stopwatch(target, settings.runtime)
    prices = _prices(settings, run, structure, target, stopwatch, progress)
    baseline_us, budget_us = _budget(settings, run, initial, stopwatch)
    latency = measured_latency(structure, prices, settings.number_format)
    latency = latency.scaled_to(baseline_us, latency.latency_us(latency.full()))
    steering = mac_latency(structure, baseline_us) if settings.latency_source == "macs" else latency
    if settings.method == "drop":
        check_reachable(latency, budget_us)
        check_reachable(steering, budget_us)
    return Workspace(
        settings=settings,
        run=run,
        dataset=dataset,
        train=make_split(dataset, dataset.train),
        validation=make_split(dataset, dataset.validation),
        test=make_split(dataset, dataset.test),
        initial=initial,
        structure=structure,
        target=target,
        stopwatch=stopwatch,
        prices=prices,
        latency=latency,
        steering=steering,
        baseline_us=baseline_us,
        budget_us=budget_us,
        precision=_precision(run),
        progress=progress,
    )


def _read_data(settings: TrainSettings, run: RunDirectory, progress: ProgressCallback) -> Dataset:
    progress(Progress(stage="read data", done=0, total=1))
    dataset = load(settings.data, seed=settings.seed, image_size=settings.image_size, limit=settings.limit)
    check_data(run, dataset)
    counts = {name: str(count) for name, count in dataset.counts().items()}
    progress(Progress(stage="read data", done=1, total=1, values=counts))
    return dataset


def check_data(run: RunDirectory, dataset: Dataset) -> None:
    """Note what data the run is about, or raise DataError if it was begun with other: samples that the network was
    trained on could be among those that it is tested on."""
    found = dataset.fingerprint()
    stored = run.finished(DATA)
    if stored is None:
        skipped = [{"path": printable(file.path), "reason": file.reason} for file in dataset.skipped]
        run.finish(DATA, {"fingerprint": found, "counts": dataset.counts(), "skipped": skipped})
    elif stored["fingerprint"] != found:
        raise DataError(
            f"{dataset.name}: the data changed since the run {run.path} was begun",
            "put them back as they were, or begin a new run",
        )


def _precision(run: RunDirectory) -> str:
    """What the run was begun with: on another processor it goes on with the same arithmetic."""
    stored = run.finished(PRECISION)
    if stored is None:
        stored = {"precision": hardware_precision()}
        run.finish(PRECISION, stored)
    return str(stored["precision"])


def read_run_profile(run: RunDirectory) -> Profile:
    """The profile that a run decides by. Raises BadInputError if it is unreadable."""
    try:
        return read_profile(run.profile_path)
    except BadInputError as error:
        hint = (
            f"delete {run.profile_path}, then `edgekit train --resume --name {run.name}`: what is trained stays, and "
            "what is still to be chosen follows the profile in ./profiles"
        )
        raise BadInputError(error.message, hint) from error


def _check_profile_files(settings: TrainSettings, run: RunDirectory) -> None:
    if run.profile_path.exists():
        read_run_profile(run)
    elif settings.profile and Path(settings.profile).exists():
        read_profile(Path(settings.profile))


def _prices(
    settings: TrainSettings,
    run: RunDirectory,
    structure: Structure,
    target: Target,
    stopwatch: Stopwatch,
    progress: ProgressCallback,
) -> PriceTable:
    if run.profile_path.exists():
        return PriceTable(read_run_profile(run))
    profiled = profile_network(
        structure,
        target=target,
        stopwatch=stopwatch,
        formats=(settings.number_format,),
        path=Path(settings.profile) if settings.profile else None,
        progress=progress,
    )
    replace_profile(run.profile_path, profiled.profile)
    return PriceTable(profiled.profile)


def _budget(settings: TrainSettings, run: RunDirectory, dense: Network, stopwatch: Stopwatch) -> tuple[float, float]:
    facts = run.finished("baseline")
    if facts is None:
        (timing,) = time_networks([dense], stopwatch, settings.number_format, min_seconds=1.0)
        facts = {"timing": msgspec.to_builtins(timing)}
        run.finish("baseline", facts)
    baseline_us = float(facts["timing"]["median_us"])
    return baseline_us, parse_budget(settings.budget).resolve(baseline_us)


def _gate_tensors(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("gates:"): value for name, value in tensors.items() if name.startswith("gates:")}
