"""edgekit for people with their own training loop: profile, predict and measure a module, attach gates, shrink, export.

The thin joints between a user's ``torch.nn.Module`` and the stages; no method, time or file format is decided here.
"""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from edgekit import __version__, codec, targets
from edgekit.errors import BadInputError, BudgetError, UnsupportedModelError, UsageError
from edgekit.export.check import relative_difference
from edgekit.export.exporter import export_network
from edgekit.nn.cut import Choice, cut_network, cut_spec
from edgekit.nn.estimators import make_estimator
from edgekit.nn.gates import GateOptions, Gates, Scope
from edgekit.nn.latency import KeptCounts, LatencyModel
from edgekit.nn.modules import eval_mode
from edgekit.nn.network import Network, clone
from edgekit.nn.structure import analyse
from edgekit.nn.trace import trace
from edgekit.pipeline.drop_run import likely_kept
from edgekit.pipeline.profiling import profile_network
from edgekit.pipeline.settings import parse_budget
from edgekit.pipeline.timing import time_networks
from edgekit.pipeline.training_run import weights_hash
from edgekit.profile import PriceTable, check_runtime, open_stopwatch
from edgekit.runtimes import SUFFIXES, of_suffix
from edgekit.train.attached import AttachedGates, weight_of
from edgekit.train.drop import DropStage
from edgekit.train.pricing import choice_from_counts, measured_latency
from edgekit.train.selection import check_reachable, learned_values, select, uniform_choices
from edgekit.types import (
    ExportedModel,
    Method,
    ModelInfo,
    NumberFormat,
    Prediction,
    Preprocessing,
    Profile,
    ProgressCallback,
    RuntimeName,
    Shape,
    Timing,
    ignore_progress,
)

__all__ = [
    "AttachedGates",
    "attach",
    "export_model",
    "measure",
    "predict",
    "profile_model",
    "read_profile",
    "shrink",
]

PathwiseEstimator = Literal["hard-concrete", "straight-through"]

_PATHWISE = ("hard-concrete", "straight-through")
_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
_TRACE_LIMIT = 1e-4
_PROBE_SAMPLES = 2
_ROUNDING = 1e-9


def profile_model(
    model: nn.Module,
    input_shape: Shape,
    *,
    target: str = "cpu",
    runtime: RuntimeName = "onnx",
    number_format: NumberFormat = "fp32",
    path: str | Path | None = None,
    group_size: int | None = None,
    method: Method | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Profile:
    """Times of everything that ``model`` can be cut to, on ``target``; what the file ``path`` lacks is measured.

    ``input_shape`` is (channels, height, width) or (features,), without the batch. ``path`` is
    profiles/TARGET-RUNTIME-VERSION-CPU.json if not given. ``group_size``: channels that are dropped together; 8 or 16
    by width if not given. Raises UnsupportedModelError where the model cannot be traced, UsageError for a target that
    cannot be measured here.
    """
    structure, device = analyse(_network(model, input_shape).spec, group_size), targets.find(target)
    with open_stopwatch(device, runtime) as stopwatch:
        profiled = profile_network(
            structure,
            target=device,
            stopwatch=stopwatch,
            formats=(number_format,),
            path=None if path is None else Path(path),
            method=method,
            progress=progress,
        )
    return profiled.profile


def read_profile(path: str | Path) -> Profile:
    """The profile in a file. Raises BadInputError naming the file, the JSON path and what is allowed."""
    return codec.read_profile(Path(path))


def predict(
    model: nn.Module, profile: Profile, input_shape: Shape | None = None, *, number_format: NumberFormat = "fp32"
) -> Prediction:
    """Latency of ``model`` by ``profile``, with the error to expect; nothing is run.

    ``input_shape`` may be left out for what `shrink` returned. Raises BadInputError naming the layer that the profile
    has no time for.
    """
    with _hint("edgekit.profile_model(model, input_shape, path=...) measures what is missing"):
        return PriceTable(profile).network(_network(model, input_shape).spec.in_format(number_format))


def measure(
    model: nn.Module,
    input_shape: Shape | None = None,
    *,
    target: str = "cpu",
    runtime: RuntimeName = "onnx",
    number_format: NumberFormat = "fp32",
    min_seconds: float = 1.0,
    progress: ProgressCallback = ignore_progress,
) -> Timing:
    """Time of one sample through the whole ``model``, written for ``runtime`` and run on ``target``.

    ``input_shape`` may be left out for what `shrink` returned. Raises DeviceError for a target that cannot be reached,
    UsageError for a runtime or number format that it does not have.
    """
    device = targets.find(target)
    check_runtime(device, runtime, [number_format])
    network = _network(model, input_shape)
    with open_stopwatch(device, runtime) as stopwatch:
        (timing,) = time_networks([network], stopwatch, number_format, min_seconds=min_seconds, progress=progress)
    return timing


def attach(
    model: nn.Module,
    profile: Profile,
    input_shape: Shape | None = None,
    *,
    budget: str | None = None,
    penalty_per_ms: float | None = None,
    steps: int | None = None,
    number_format: NumberFormat = "fp32",
    scope: Scope = "unit",
    estimator: PathwiseEstimator = "hard-concrete",
    coefficients: tuple[float, float] = (0.0, 1.0),
    learning_rate: float = 0.1,
    group_size: int | None = None,
    seed: int = 0,
) -> AttachedGates:
    """Put gates on what can be dropped of ``model``: its forward in training mode draws them from now on.

    Either ``budget`` ("1.2ms", or "50%" of the time that ``profile`` predicts for the whole model), reached by dual
    ascent over ``steps`` calls of `AttachedGates.step`; or ``penalty_per_ms``, a fixed weight of a millisecond in the
    loss. ``coefficients`` are the low and high drop coefficient; ``learning_rate`` is that of the gates' own Adam.
    Method: patent CN110533172A.

    Raises UnsupportedModelError naming the operator that cannot be traced, or when nothing can be dropped; BudgetError
    when no choice of the gates fits; BadInputError when ``profile`` lacks a time; UsageError for settings that
    contradict each other.
    """
    _check_settings(model, budget, penalty_per_ms, steps, estimator)
    network = _network(model, input_shape)
    structure = analyse(network.spec, group_size)
    prices = PriceTable(profile)
    with _hint("edgekit.profile_model(model, input_shape, path=...) measures what is missing"):
        latency = measured_latency(structure, prices, number_format)
    learned = Gates(structure, latency, make_estimator(estimator), GateOptions(scope, *coefficients))
    if not learned.unit_count:
        raise UnsupportedModelError(
            f"nothing of {network.spec.name!r} can be dropped: no residual block, and no layer with several groups of "
            f"channels before the output",
            "give a smaller group_size, here and to profile_model",
        )
    budget_us = None if budget is None else _budget_us(budget, latency)
    stage = DropStage(learned, weight_of(learned, budget_us, penalty_per_ms), seed, "attach", learning_rate)
    _warn_of_dropout(model)
    return AttachedGates(model, network, stage, prices, number_format, budget_us, steps or 1)


def shrink(model: nn.Module, gates: AttachedGates, *, budget: str | None = None) -> Network:
    """The smaller network that the gates have learned: dense, no masks, weights inherited, parameters of its own.

    Chosen by a knapsack on the learned probabilities so that the predicted time is within ``budget`` (that of `attach`
    if not given); without any, units more likely dropped than kept go. The result is an ordinary module to be trained
    on in the same loop; ``gates.choice`` tells what was kept, and ``model`` stays as it is. Raises BudgetError when
    nothing fits, UsageError when ``gates`` are not those of ``model``.
    """
    if gates.model is not model:
        raise UsageError("these gates are attached to another model", "pass the model that was given to edgekit.attach")
    if gates.steps_done == 0:
        warnings.warn("gates.step() was never called: the gates have learned nothing yet", stacklevel=2)
    latency = gates.learned.latency
    budget_us = gates.budget_us if budget is None else _budget_us(budget, latency)
    if budget_us is None:
        gates.choice = _choice(gates, likely_kept(gates.learned))
    else:
        gates.choice = _choice_within(gates, budget_us)
    gain = gates.learned.options.high
    small = cut_network(gates.network, gates.structure, gates.choice, gain=gain)
    return small.to(next(model.parameters()).device).train(model.training)


def export_model(
    model: nn.Module,
    path: str | Path,
    *,
    test_images: Tensor,
    test_labels: Tensor,
    calibration_images: Tensor | None = None,
    number_format: NumberFormat = "fp32",
    class_names: tuple[str, ...] | None = None,
    preprocessing: Preprocessing | None = None,
    profile: Profile | None = None,
    timing: Timing | None = None,
    progress: ProgressCallback = ignore_progress,
) -> ExportedModel:
    """Write ``model`` for the runtime of the suffix (.onnx, .tflite), after the file ran there and agreed with torch.

    ``test_images`` (N, *input shape) are normalised as in training, ``test_labels`` (N,) class indices. int8 takes its
    ranges from ``calibration_images``, some hundreds of training images. ``class_names`` and ``preprocessing`` are what
    ``edgekit run`` needs: the class indices, and images scaled to [0, 1], if not given. ``profile`` and ``timing``
    (from `measure`) put the predicted and the measured time into the file. Raises ExportMismatchError for a file that
    disagrees, UnsupportedModelError for a layer that the runtime does not execute.
    """
    path = Path(path)
    runtime = of_suffix(path)
    if runtime is None:
        allowed = " and ".join(SUFFIXES.values())
        raise UsageError(f"{path}: the suffix {path.suffix!r} is no model's; allowed are {allowed}")
    if number_format == "int8" and calibration_images is None:
        raise UsageError("int8 needs calibration_images", "give some hundreds of training images, normalised")
    network = clone(_network(model, tuple(test_images.shape[1:]))).cpu()
    predicted_us = None if profile is None else predict(network, profile, number_format=number_format).latency_us
    info = ModelInfo(
        edgekit_version=__version__,
        network=network.spec.name,
        number_format=number_format,
        source_hash=weights_hash(network),
        target="" if profile is None else profile.target,
        runtime=runtime,
        predicted_us=predicted_us,
        measured_us=None if timing is None else timing.median_us,
        preprocessing=preprocessing or _plain_preprocessing(network.spec.input_shape),
        labels=class_names or tuple(str(index) for index in range(network.spec.output.unit.output_shape[0])),
    )
    return export_network(
        network,
        runtime_name=runtime,
        number_format=number_format,
        calibration_images=(test_images[:0] if calibration_images is None else calibration_images).cpu(),
        test_images=test_images.cpu(),
        test_labels=test_labels.cpu(),
        info=info,
        path=path,
        progress=progress,
    )


def _network(model: nn.Module, input_shape: Shape | None) -> Network:
    """``model`` as a network on its own parameters, after it was seen to compute the same."""
    attached = getattr(model.__dict__.get("forward"), "__self__", None)
    if isinstance(attached, AttachedGates):
        return attached.network
    if isinstance(model, Network):
        return Network(model.spec, model.layer_modules)
    if input_shape is None:
        raise UsageError(
            f"the input shape of {type(model).__name__} is not known",
            "give input_shape=(channels, height, width) or (features,), without the batch",
        )
    traced = trace(model, input_shape)
    network = Network(traced.spec, traced.modules)
    _check_same(model, network)
    return network


@torch.no_grad()
def _check_same(model: nn.Module, network: Network) -> None:
    shape = (_PROBE_SAMPLES, *network.spec.input_shape)
    parameter = next(model.parameters(), torch.empty(0))
    batch = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(parameter.device, parameter.dtype)
    with eval_mode(model):
        expected, found = (part(batch).float().numpy(force=True) for part in (model, network))
    difference = relative_difference(found, expected)
    if not difference <= _TRACE_LIMIT:
        raise UnsupportedModelError(
            f"the traced {network.spec.name} differs from the module by {difference:.1e} of the largest output; "
            f"allowed are {_TRACE_LIMIT:.0e}",
            "forward must compute the same from the same input in eval mode: no random numbers, no counters, no NaN",
        )


@contextlib.contextmanager
def _hint(hint: str) -> Iterator[None]:
    """Errors of the stages tell users of the command line what to do; here the same in Python."""
    try:
        yield
    except (BadInputError, BudgetError) as error:
        error.hint = hint
        raise


def _check_settings(
    model: nn.Module, budget: str | None, penalty_per_ms: float | None, steps: int | None, estimator: str
) -> None:
    if isinstance(getattr(model.__dict__.get("forward"), "__self__", None), AttachedGates):
        raise UsageError("the model has gates already", "call gates.detach() first")
    if (budget is None) == (penalty_per_ms is None):
        raise UsageError(
            "attach needs a budget or penalty_per_ms, and not both", 'for example budget="50%", steps=2000'
        )
    if budget is not None and (steps is None or steps < 1):
        raise UsageError(
            f"a budget needs steps, at least 1; it is {steps}", "give the number of gates.step() calls to come"
        )
    if penalty_per_ms is not None and not 0 <= penalty_per_ms < math.inf:
        raise UsageError(f"penalty_per_ms is {penalty_per_ms}; allowed are finite numbers of at least 0")
    if estimator not in _PATHWISE:
        raise UsageError(
            f"estimator is {estimator!r}; in a loop of your own, allowed are {' and '.join(_PATHWISE)}",
            "score-function estimators evaluate the loss themselves: use edgekit train --estimator for those",
        )


def _budget_us(budget: str, latency: LatencyModel) -> float:
    budget_us = parse_budget(budget).resolve(latency.latency_us(latency.full()))
    with _hint("raise the budget, or give attach and profile_model a smaller group_size"):
        check_reachable(latency, budget_us)
    return budget_us


def _warn_of_dropout(model: nn.Module) -> None:
    active = [name for name, part in model.named_modules() if isinstance(part, _DROPOUTS) and part.p > 0]
    if active:
        warnings.warn(
            f"while gates are attached, dropout is left out in training: {', '.join(active)}. The gates drop units "
            f"themselves; set p=0 to silence this",
            stacklevel=3,
        )


def _choice(gates: AttachedGates, kept: KeptCounts) -> Choice:
    order = [list(ranks) for ranks in learned_values(gates.learned).order]
    return choice_from_counts(gates.structure, kept, order)


def _choice_within(gates: AttachedGates, budget_us: float) -> Choice:
    """The choice of greatest value whose network is predicted within the budget.

    A dropped block may leave an activation behind that the latency model does not price: the knapsack is then packed
    again with that much less.
    """
    latency, values = gates.learned.latency, learned_values(gates.learned)
    limit_us = budget_us
    while True:
        narrow = uniform_choices(latency, limit_us)
        with _hint("raise the budget, or give attach and profile_model a smaller group_size"):
            kept = select(latency, values, limit_us, [] if narrow is None else [narrow])
        choice = _choice(gates, kept)
        spec = cut_spec(gates.structure, choice).in_format(gates.number_format)
        excess_us = gates.prices.network(spec).latency_us - budget_us
        if excess_us <= _ROUNDING * budget_us:
            return choice
        limit_us = latency.latency_us(kept) - excess_us


def _plain_preprocessing(input_shape: Shape) -> Preprocessing:
    channels = input_shape[0]
    return Preprocessing(input_shape=input_shape, mean=(0.0,) * channels, std=(1.0,) * channels)
