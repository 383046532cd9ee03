"""What a training run is asked for: one frozen struct, stored as given in the run directory and needed to resume it.

Nothing is computed here beyond turning a budget's text into a number.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from edgekit.errors import UsageError
from edgekit.nn.estimators import EstimatorName
from edgekit.nn.gates import Scope
from edgekit.train.batches import Augmentation
from edgekit.types import NumberFormat, RuntimeName

_US_PER_UNIT = {"us": 1.0, "ms": 1e3, "s": 1e6}
Positive = Annotated[float, msgspec.Meta(gt=0, le=1e6)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class TrainSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of one run.

    ``epochs`` is what every network of the run is trained for in total, the dense one and the small ones, each along
    one learning-rate schedule. A small one shares the first ``warmup_share`` of them with the dense network, learns its
    gates for the next ``search_share``, is compared with other candidates for ``trial_share`` in all, and is fine-tuned
    for the rest.

    ``dense_from``: a run with the same model, data and seed whose dense network is taken instead of training one.
    ``penalty_sweep``: lambdas per millisecond; if given, one model is trained for each and the one nearest to the
    budget is chosen, in place of the single run by dual ascent.
    ``checkpoint_seconds``: least time between two checkpoints; a killed run loses about that much.
    """

    model: str
    data: str
    target: str = "cpu"
    runtime: RuntimeName = "onnx"
    number_format: NumberFormat = "fp32"
    method: Literal["drop", "dense"] = "drop"
    budget: str = "50%"
    latency_source: Literal["measured", "macs"] = "measured"
    epochs: Positive = 10.0
    warmup_share: Share = 0.15
    search_share: Share = 0.15
    trial_share: Share = 0.05
    batch_size: Annotated[int, msgspec.Meta(ge=2, le=1_000_000)] = 128
    learning_rate: Positive = 0.1
    gate_learning_rate: Positive = 0.05
    distillation: Share = 0.5
    augmentation: Augmentation | Literal["auto"] = "auto"
    scope: Scope = "unit"
    estimator: EstimatorName = "hard-concrete"
    coefficient_low: Annotated[float, msgspec.Meta(ge=0, le=1e3)] = 0.0
    coefficient_high: Annotated[float, msgspec.Meta(gt=0, le=1e3)] = 1.0
    penalty_sweep: tuple[Positive, ...] = ()
    sweep_choice: Literal["nearest", "not-above"] = "nearest"
    group_size: Annotated[int, msgspec.Meta(ge=1, le=65536)] | None = None
    max_corrections: Annotated[int, msgspec.Meta(ge=0, le=20)] = 4
    seed: Annotated[int, msgspec.Meta(ge=0, le=2**31)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=2**31)] | None = None
    image_size: tuple[int, int] | None = None
    threads: Annotated[int, msgspec.Meta(ge=1, le=1024)] = 1
    profile: str | None = None
    dense_from: str | None = None
    checkpoint_seconds: Annotated[float, msgspec.Meta(ge=0, le=86400)] = 20.0

    def __post_init__(self) -> None:
        parse_budget(self.budget)
        if not self.coefficient_low < self.coefficient_high:
            raise UsageError(
                f"--coefficient-low {self.coefficient_low:g} must be below --coefficient-high {self.coefficient_high:g}"
            )
        if (total := self.warmup_share + self.search_share + self.trial_share) > 1:
            raise UsageError(
                f"warmup_share, search_share and trial_share are parts of one schedule; their sum is {total:g}",
                "it is at most 1: what they leave is for fine-tuning",
            )
        names = [f"{penalty:g}" for penalty in self.penalty_sweep]
        if len(set(names)) < len(names):
            raise UsageError(f"--lambda-sweep {','.join(names)} names a value twice", "give each value once")


class Budget(msgspec.Struct, frozen=True, kw_only=True):
    """A latency limit: in microseconds, or as a share of the dense network's measured time; one of the two is None."""

    latency_us: float | None = None
    share: float | None = None

    def resolve(self, dense_us: float) -> float:
        """The limit in microseconds, given the dense network's measured time."""
        return self.latency_us if self.latency_us is not None else (self.share or 1.0) * dense_us


def parse_budget(text: str) -> Budget:
    """``1.2ms``, ``800us``, ``0.5s`` or ``60%``; UsageError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(us|µs|ms|s|%)?\s*", text)
    number = float(match[1]) if match else 0.0
    unit = match[2] if match else None
    if unit is None or not 0 < number <= 1e12 or (unit == "%" and number > 100):
        raise _no_budget(text, number, unit)
    if unit == "%":
        return Budget(share=number / 100)
    return Budget(latency_us=number * _US_PER_UNIT[unit.replace("µ", "u")])


def _no_budget(text: str, number: float, unit: str | None) -> UsageError:
    forms = "write 1.2ms, 800us, or 60% (of the dense network's measured time)"
    if unit == "%" and number > 100:
        return UsageError(f"{text!r} is no budget: at most 100% of the dense network's measured time", forms)
    if unit is None and 0 < number <= 1e12:
        bare = text.strip()
        # A share of a few percent is no likely budget, and neither is one of fractions of a percent.
        meant = f"{bare}% or {bare}ms" if 5 <= number <= 100 else f"{bare}ms or {bare}us"
        return UsageError(f"{text!r} is no budget: it has no unit", f"did you mean {meant}? {forms}")
    return UsageError(f"{text!r} is no budget", forms)
