"""What every step of a training run needs, made once: data, network, prices, runtime, budget and the run's directory.

Steps live in ``drop_run`` and ``training_run``; here are their inputs, and the short cuts to train, time and store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from edgekit import targets
from edgekit.codec import read_profile, replace_profile
from edgekit.data import Dataset, load
from edgekit.nn.latency import LatencyModel
from edgekit.nn.network import Network
from edgekit.nn.structure import Structure, analyse
from edgekit.pipeline.models import make_network
from edgekit.pipeline.profiling import profile_network
from edgekit.pipeline.run_directory import RunDirectory
from edgekit.pipeline.settings import TrainSettings, parse_budget
from edgekit.pipeline.timing import time_networks
from edgekit.profile import PriceTable, Stopwatch, check_runtime, open_stopwatch
from edgekit.runtimes import Runtime
from edgekit.train.batches import Augmentation, Split, make_split
from edgekit.train.loop import GateStage, Recipe, StageOptions, evaluate, fit, hardware_precision
from edgekit.train.pricing import mac_latency, measured_latency
from edgekit.train.selection import check_reachable
from edgekit.types import NetworkSpec, Progress, ProgressCallback, Target, Timing


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
        fit(network, self.train, recipe, options, teacher, gates)
        facts: dict[str, Any] = {"accuracy": evaluate(network, self.validation, self.precision)}
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
        error = self.prices.correction(self.settings.number_format).max_error
        return error if math.isfinite(error) else None

    def time(self, networks: Sequence[Network], min_seconds: float = 0.5) -> list[Timing]:
        """Times of networks on the target, beside each other."""
        return time_networks(networks, self.stopwatch, self.settings.number_format, min_seconds=min_seconds)


def augmentation_for(settings: TrainSettings, dataset: Dataset) -> Augmentation:
    """The augmentation asked for; ``auto`` mirrors pictures, but not digits, which mirroring turns into other signs."""
    if settings.augmentation != "auto":
        return settings.augmentation
    return "none" if "mnist" in dataset.name and "fashion" not in dataset.name else "flip"


def prepare(settings: TrainSettings, run: RunDirectory, progress: ProgressCallback) -> Workspace:
    """Read the data, build, profile and time the network, and see that the budget can be met: before any training."""
    progress(Progress(stage="read data", done=0, total=1))
    dataset = load(settings.data, seed=settings.seed, image_size=settings.image_size, limit=settings.limit)
    counts = {"images": str(len(dataset.labels)), "skipped": str(dataset.skipped_count)}
    progress(Progress(stage="read data", done=1, total=1, values=counts))
    initial = make_network(settings.model, dataset.input_shape, dataset.class_count, settings.seed).eval()
    structure = analyse(initial.spec, settings.group_size)
    target = targets.find(settings.target)
    check_runtime(target, settings.runtime, [settings.number_format])
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
        precision=hardware_precision(),
        progress=progress,
    )


def _prices(
    settings: TrainSettings,
    run: RunDirectory,
    structure: Structure,
    target: Target,
    stopwatch: Stopwatch,
    progress: ProgressCallback,
) -> PriceTable:
    if run.profile_path.exists():
        return PriceTable(read_profile(run.profile_path))
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
