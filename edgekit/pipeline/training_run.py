"""`edgekit train`: profile, train the dense network, fit it to the budget, export, time on the target, write it down.

Each step is in a file of its own; here is their order, and what is written down at the end.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Literal

import msgspec

from edgekit import __version__
from edgekit.codec import write_result
from edgekit.data import Dataset, printable
from edgekit.errors import BudgetError, EdgekitError, UsageError
from edgekit.export.exporter import PreparedModel, keep, prepare, with_info
from edgekit.files import sha256_bytes, sha256_file
from edgekit.nn.cut import cut_spec, keep_everything, kept_names
from edgekit.nn.gates import Gates, drop_probabilities
from edgekit.nn.network import Network, clone
from edgekit.pipeline.drop_run import Dense, Searched, Trained, run_sweep, run_to_budget
from edgekit.pipeline.run_directory import RunDirectory, open_run, read_settings
from edgekit.pipeline.settings import TrainSettings, parse_budget
from edgekit.pipeline.workspace import DATA, Workspace, read_run_profile
from edgekit.pipeline.workspace import prepare as prepare_workspace
from edgekit.profile.machine import taints
from edgekit.train.batches import spread
from edgekit.train.loop import evaluate
from edgekit.types import (
    BUDGET_TOLERANCE,
    LayerChoice,
    Machine,
    ModelInfo,
    ModelPoint,
    ProgressCallback,
    RunResult,
    SkippedFile,
    Timing,
    ignore_progress,
)

_PACKAGES = ("torch", "onnx", "onnxruntime", "ai-edge-litert", "numpy")
_TIMING_REPEATS, _MIN_TIMED_SECONDS = 3, 0.7
Role = Literal["dense", "swept", "chosen"]
CHOSEN = "chosen"
"""Stage that holds the chosen network, for later exports."""
CALIBRATION_IMAGES = 2048
_NAMED_SKIPPED = 100
AIM_BELOW = 0.98
MOST_REPEATS = 2
_DENSE_SETTINGS = (
    "model",
    "data",
    "epochs",
    "seed",
    "limit",
    "image_size",
    "batch_size",
    "learning_rate",
    "augmentation",
    "warmup_share",
)


@dataclass(frozen=True)
class _Finished:
    """A model to be exported and timed: the trained network, and the gates that it came from, if any."""

    trained: Trained
    searched: Searched | None


@dataclass(frozen=True)
class _Measured:
    """All models of a run, dense first, as files and timed beside each other; the index of the one that is chosen.

    ``miss`` is its time over the budget, both as shares of the dense network's: a machine that got slower since the
    budget was set misses nothing.
    """

    finished: list[_Finished]
    prepared: list[PreparedModel]
    timings: list[Timing]
    budget_us: float
    chosen: int
    miss: float


def train_run(
    settings: TrainSettings, path: Path, *, resume: bool = False, progress: ProgressCallback = ignore_progress
) -> RunResult:
    """Carry a run out in the directory ``path`` and return what is in its result.json.

    Raises BudgetError before any training when nothing the method can reach is within the budget, TrainingDivergedError
    when the loss stops being finite, and what reading data, model, target and profile raise.
    """
    with open_run(path, settings, resume) as run:
        clock = _Clock(run)
        work = _prepare_or_discard(settings, run, resume, progress)
        with work.stopwatch:
            measured = _fit_and_measure(work, _train_dense(work))
            result = _write(work, measured, clock.seconds())
        write_result(run.result_path, result)
        return result


def _prepare_or_discard(
    settings: TrainSettings, run: RunDirectory, resume: bool, progress: ProgressCallback
) -> Workspace:
    """The workspace; a new run whose data, model or budget turn out to be impossible leaves no directory behind."""
    try:
        return prepare_workspace(settings, run, progress)
    except EdgekitError:
        if not resume:
            run.discard()
        raise


def _fit_and_measure(work: Workspace, dense: Dense) -> _Measured:
    """Make the small network, export and time it; if its measured time misses the budget, aim lower and repeat the last
    step: choosing within the budget and fine-tuning (the gates are learned once)."""
    aim = 1.0
    best: _Measured | None = None
    for attempt in range(MOST_REPEATS + 1):
        try:
            measured = _measure(work, dense.final, _make_small(work, dense, aim, attempt), attempt)
        except BudgetError:
            if best is None:
                raise
            # Nothing fits the lower aim: what was made before is the nearest to the budget.
            break
        if best is None or measured.miss < best.miss:
            best = measured
        if work.settings.method == "dense" or work.settings.penalty_sweep or work.settings.latency_source == "macs":
            break
        if measured.miss <= BUDGET_TOLERANCE:
            break
        aim *= AIM_BELOW / measured.miss
    assert best is not None
    return best


def _train_dense(work: Workspace) -> Dense:
    """The dense network along the whole schedule, and as it was when the small ones leave it."""
    settings = work.settings
    dense = Dense(warm=clone(work.initial), final=clone(work.initial))
    if settings.dense_from is not None:
        other = dense_source(settings.dense_from, settings)
        if _fingerprint(other) != _fingerprint(work.run):
            raise UsageError(
                f"--dense-from {settings.dense_from} was trained on other data: they changed in between",
                "the dense network can only be shared by runs that would train the same one",
            )
        dense.warm.load_state_dict(other.tensors("warm-up"))
        dense.final.load_state_dict(other.tensors("dense"))
    else:
        work.train_stage("warm-up", dense.warm, work.recipe(0.0, settings.warmup_share))
        dense.final.load_state_dict(dense.warm.state_dict())
        work.train_stage("dense", dense.final, work.recipe(settings.warmup_share, 1.0))
    dense.warm.eval()
    dense.final.eval()
    return dense


def _fingerprint(run: RunDirectory) -> object:
    return (run.finished(DATA) or {}).get("fingerprint")


def dense_source(path: str, settings: TrainSettings) -> RunDirectory:
    """The run at ``path``, if it trained the dense network that this run would.

    Raises UsageError when that run had other data, model, seed or schedule, or has not trained it yet.
    """
    before = read_settings(Path(path))
    for name in _DENSE_SETTINGS:
        if getattr(before, name) != getattr(settings, name):
            raise UsageError(
                f"--dense-from {path} has {name} = {getattr(before, name)!r}, this run {getattr(settings, name)!r}",
                "the dense network can only be shared by runs that would train the same one",
            )
    other = RunDirectory(Path(path))
    if other.finished("dense") is None:
        raise UsageError(f"the run {path} has no trained dense network yet", "finish it first with --resume")
    return other


class _Clock:
    """Seconds of a run: those of this process, and those of the stages that earlier ones finished."""

    def __init__(self, run: RunDirectory) -> None:
        self._started = time.monotonic()
        self._earlier = run.training_seconds()

    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._started


def _make_small(work: Workspace, dense: Dense, aim: float, attempt: int) -> list[_Finished]:
    if work.settings.method == "dense":
        return []
    if work.settings.penalty_sweep:
        return [_Finished(trained, searched) for trained, searched in run_sweep(work, dense)]
    trained, searched = run_to_budget(work, dense, aim, suffix=f"-{attempt + 1}" if attempt else "")
    return [_Finished(trained, searched)]


def _measure(work: Workspace, dense: Network, small: Sequence[_Finished], attempt: int) -> _Measured:
    dense_trained = Trained("dense", dense, keep_everything(work.structure))
    finished = [_Finished(dense_trained, None), *small]
    prepared = [_prepare(work, item.trained) for item in finished]
    timings = _stored_timings(work, prepared, attempt)
    budget = parse_budget(work.settings.budget)
    # A share of the dense network's time means its time now: the machine may have changed its speed since the start.
    budget_us = work.budget_us if budget.share is None else budget.share * timings[0].median_us
    chosen = _choose(work, [timing.median_us for timing in timings], budget_us)
    miss = timings[chosen].median_us / timings[0].median_us / (work.budget_us / work.baseline_us)
    return _Measured(finished, prepared, timings, budget_us, chosen, miss)


def _stored_timings(work: Workspace, prepared: Sequence[PreparedModel], attempt: int) -> list[Timing]:
    """Timed once and stored: a resumed run must not decide on other times than the one that it continues."""
    stage = f"timing-{attempt}"
    stored = work.run.finished(stage)
    if stored is None:
        stored = {"timings": msgspec.to_builtins(_time(work, prepared))}
        work.run.finish(stage, stored)
    return msgspec.convert(stored["timings"], list[Timing])


def _write(work: Workspace, measured: _Measured, seconds: float) -> RunResult:
    rows = zip(measured.finished, measured.prepared, measured.timings, strict=True)
    points = [
        _keep_point(work, item, model, timing, index == measured.chosen)
        for index, (item, model, timing) in enumerate(rows)
    ]
    network = measured.finished[measured.chosen].trained.network
    work.run.finish(CHOSEN, {"spec": msgspec.to_builtins(network.spec)}, network.state_dict())
    return _result(work, points, measured.chosen, measured.budget_us, seconds)


def _prepare(work: Workspace, trained: Trained) -> PreparedModel:
    settings = work.settings
    info = ModelInfo(
        edgekit_version=__version__,
        network=work.initial.spec.name,
        number_format=settings.number_format,
        source_hash=weights_hash(trained.network),
        target=work.target.name,
        runtime=settings.runtime,
        profile_hash=sha256_file(work.run.profile_path),
        predicted_us=work.predicted_us(trained.network.spec),
        preprocessing=work.dataset.preprocessing,
        labels=work.dataset.class_names,
    )
    return prepare(
        trained.network,
        runtime_name=settings.runtime,
        number_format=settings.number_format,
        calibration_images=work.train.inputs(spread(len(work.train), CALIBRATION_IMAGES)),
        test_images=work.test,
        test_labels=work.test.labels,
        info=info,
        progress=work.progress,
    )


def _time(work: Workspace, prepared: Sequence[PreparedModel]) -> list[Timing]:
    """The very files that are kept, beside each other; of several timings the one with the median ratio of the last
    model to the dense one, since a single one of tens of microseconds can be off by a tenth on a busy machine."""
    models = [model.model for model in prepared]
    repeats = [
        work.stopwatch.measure_whole(models, min_seconds=_MIN_TIMED_SECONDS, progress=work.progress)
        for _ in range(_TIMING_REPEATS)
    ]
    return sorted(repeats, key=lambda timings: timings[-1].median_us / timings[0].median_us)[_TIMING_REPEATS // 2]


def _choose(work: Workspace, measured_us: Sequence[float], budget_us: float) -> int:
    """Index of the model whose measured time is nearest to the budget (or nearest below it); 0 is the dense one."""
    small = list(range(1, len(measured_us)))
    if work.settings.sweep_choice == "not-above" and work.settings.penalty_sweep:
        fitting = [index for index in small if measured_us[index] <= budget_us]
        if not fitting:
            smallest = min(measured_us[index] for index in small)
            raise BudgetError(
                f"no swept model was measured within {budget_us:.1f} us; the fastest took {smallest:.1f} us",
                smallest,
                "add larger values to --lambda-sweep",
            )
        small = fitting
    return min(small, key=lambda index: abs(measured_us[index] - budget_us), default=0)


def _keep_point(
    work: Workspace, item: _Finished, prepared: PreparedModel, timing: Timing, is_chosen: bool
) -> ModelPoint:
    trained = item.trained
    info = msgspec.structs.replace(prepared.info, measured_us=timing.median_us)
    name = "chosen" if is_chosen and trained.name != "dense" else trained.name
    path = work.run.models / f"{name.replace('=', '-')}-{info.number_format}{work.runtime.suffix}"
    exported = keep(with_info(prepared, info), path)
    spec = trained.network.spec
    role: Role = "dense" if trained.name == "dense" else "chosen" if is_chosen else "swept"
    return ModelPoint(
        name=trained.name,
        role=role,
        accuracy=exported.accuracy,
        predicted_us=work.predicted_us(spec),
        measured_us=timing.median_us,
        parameter_count=spec.parameter_count,
        mac_count=spec.mac_count,
        size_bytes=exported.size_bytes,
        file=str(path.relative_to(work.run.path)),
        penalty_weight=trained.penalty_per_ms,
        layers=_layer_choices(work, trained, item.searched.gates if item.searched else None),
    )


def _layer_choices(work: Workspace, trained: Trained, gates: Gates | None) -> tuple[LayerChoice, ...]:
    kept = kept_names(work.structure, trained.choice)
    small = {layer.name: layer.unit for layer in cut_spec(work.structure, trained.choice).layers}
    drop = drop_probabilities(gates) if gates is not None else {}
    choices = []
    for layer in work.structure.spec.layers:
        unit = small.get(layer.name)
        price = work.prices.unit_us
        wanted = work.settings.number_format
        choices.append(
            LayerChoice(
                name=layer.name,
                kind=layer.unit.kind,
                channels=layer.unit.output_shape[0],
                kept_channels=kept[layer.name],
                dense_us=price(layer.unit.in_format(wanted))[0],
                kept_us=price(unit.in_format(wanted))[0] if unit is not None and kept[layer.name] else 0.0,
                drop_probability=drop.get(layer.name),
            )
        )
    return tuple(choices)


def _result(work: Workspace, points: Sequence[ModelPoint], chosen: int, budget_us: float, seconds: float) -> RunResult:
    settings, dense, best = work.settings, points[0], points[chosen]
    machine = work.stopwatch.machine()
    return RunResult(
        name=work.run.name,
        method=settings.method,
        model=settings.model,
        data=settings.data,
        target=work.target.name,
        runtime=settings.runtime,
        number_format=settings.number_format,
        seed=settings.seed,
        epochs=settings.epochs,
        budget_us=budget_us,
        predicted_us=best.predicted_us,
        measured_us=best.measured_us or 0.0,
        baseline_measured_us=dense.measured_us or 0.0,
        prediction_error=work.prediction_error(),
        accuracy=best.accuracy,
        baseline_accuracy=dense.accuracy,
        points=tuple(points),
        machine=machine,
        tainted=_tainted(work, machine),
        settings={**msgspec.structs.asdict(settings), "precision": work.precision},
        data_counts=work.dataset.counts(),
        skipped=_first_skipped(work.dataset),
        versions=_versions(),
        seconds=seconds,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _first_skipped(dataset: Dataset) -> tuple[SkippedFile, ...]:
    return tuple(
        SkippedFile(path=printable(file.path), reason=file.reason) for file in dataset.skipped[:_NAMED_SKIPPED]
    )


def _tainted(work: Workspace, machine: Machine) -> tuple[str, ...]:
    """What the profile and the machine in the end say against the times of the run."""
    profile = tuple(f"the profile: {reason}" for reason in read_run_profile(work.run).tainted)
    return tuple(dict.fromkeys((*profile, *taints(machine), *work.stopwatch.tainted)))


def _versions() -> dict[str, str]:
    found = {"edgekit": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def weights_hash(network: Network) -> str:
    """Hash over all parameters and running statistics, in order."""
    state = network.state_dict()
    return sha256_bytes(b"".join(name.encode() + state[name].contiguous().numpy().tobytes() for name in sorted(state)))


__all__ = ["RunDirectory", "evaluate", "train_run", "weights_hash"]
