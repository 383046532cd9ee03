"""Modules as users of the Python API write them, profiles with made-up times, and gates on them: no claims."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

import edgekit
from edgekit.nn.structure import analyse
from edgekit.nn.trace import trace
from edgekit.train.attached import AttachedGates
from edgekit.train.pricing import group_sizes, priced_units
from edgekit.types import (
    Correction,
    Machine,
    Method,
    NumberFormat,
    Profile,
    Shape,
    Timing,
    UnitSpec,
    UnitTiming,
)
from tests.profile.networks import correction_of

GROUP_SIZE = 4


class Residual(nn.Module):
    """A branch of two convolutions around a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.relu(x + self.branch(x))
        return result


def residual() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), Residual(8), Residual(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)
    )


def plain() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)
    )


def depthwise() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.ReLU6(),
        nn.Conv2d(8, 12, 1),
        nn.BatchNorm2d(12),
        nn.ReLU6(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 3),
    )


def perceptron() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )


IMAGE = (1, 6, 6)
MODELS: dict[str, tuple[Callable[[], nn.Sequential], Shape]] = {
    "residual": (residual, IMAGE),
    "plain": (plain, IMAGE),
    "depthwise": (depthwise, IMAGE),
    "perceptron": (perceptron, (6,)),
}


def made_up_profile(model: nn.Module, shape: Shape, number_format: NumberFormat = "fp32") -> Profile:
    """A profile in which a unit takes a tenth of a microsecond, and another for each ten multiplications."""
    structure = analyse(trace(model, shape).spec, GROUP_SIZE)
    units = priced_units(structure, number_format)
    fitted = Correction(overhead_us=0.5, scale=1.0, network_count=9, median_error=0.01, max_error=0.02)
    return Profile(
        target="made-up",
        runtime="onnx",
        runtime_version="onnxruntime 1.0",
        machine=Machine(cpu="none", cores=1, architecture="none", kernel="none"),
        date="2025-01-01T00:00:00+00:00",
        method=Method(),
        overhead_us=0.5,
        units=tuple(made_up_time(unit) for unit in units),
        corrections=(correction_of(structure.spec.in_format(number_format), fitted, group_sizes(structure)),),
    )


@cache
def profile_of(name: str) -> Profile:
    """The made-up profile of a model of `MODELS`: tracing it takes longer than anything else here."""
    make, shape = MODELS[name]
    return made_up_profile(make(), shape)


def made_up_time(unit: UnitSpec) -> UnitTiming:
    added_us = 0.1 + unit.mac_count / 100
    return UnitTiming(unit=unit, framed=exactly(10.0 + added_us), frame=exactly(10.0))


def exactly(us: float) -> Timing:
    return Timing(count=1, median_us=us, p10_us=us, p90_us=us, min_us=us)


def with_gates(name: str, **options: object) -> tuple[nn.Sequential, AttachedGates]:
    """The model called ``name``, its normalisations away from where they start, with gates to half its time."""
    make, shape = MODELS[name]
    model = randomised(make())
    goal: dict[str, object] = {} if "penalty_per_ms" in options else {"budget": "50%", "steps": 30}
    arguments = {"group_size": GROUP_SIZE, **goal, **options}
    return model, edgekit.attach(model, profile_of(name), shape, **arguments)  # type: ignore[arg-type]


def randomised(model: nn.Sequential) -> nn.Sequential:
    for part in model.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias)
            part.running_mean = torch.randn_like(part.bias.detach())
    return model


def batch_for(name: str) -> Tensor:
    return torch.randn(5, *MODELS[name][1])


def learn(model: nn.Module, gates: AttachedGates, batch: Tensor, steps: int = 1) -> None:
    """Train the gates alone, on a task that asks for small outputs."""
    model.train()
    for _ in range(steps):
        (model(batch).square().mean() + gates.penalty()).backward()
        gates.step()
