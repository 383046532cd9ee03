"""How drop coefficients are drawn and how their gradient is estimated: one class per estimator, all behind `Estimator`.

Conformance: tests/nn/test_estimators.py compares every mean gradient with exact enumeration.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from edgekit.errors import UsageError

EstimatorName = Literal["hard-concrete", "straight-through", "arm", "reinforce"]
_TINY = 1e-6


class Estimator(ABC):
    """Draws keep variables z in [0, 1] from logits; z is 0 with the drop probability p = 1 - keep_probability.

    ``skips_exactly``: whether a unit with z = 0 has no gradient through its own output, so that it may be left out of
    the step altogether. ``is_unbiased``: whether the mean gradient equals that of the expected loss over z in {0, 1}.
    """

    name: EstimatorName
    is_unbiased = False
    skips_exactly = False

    @abstractmethod
    def keep_probability(self, logits: Tensor) -> Tensor:
        """P(z > 0), elementwise, differentiable."""

    @abstractmethod
    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        """z for uniform noise in (0, 1) of the same shape; differentiable if the estimator is a pathwise one."""

    def score_gradient(
        self, logits: Tensor, uniform: Tensor, loss: Tensor, evaluate: Callable[[Tensor], Tensor]
    ) -> Tensor | None:
        """Gradient of the expected loss with respect to the logits, for estimators without a pathwise one.

        ``loss`` is that of ``draw(logits, uniform)``; ``evaluate`` gives the loss of another z without gradients.
        None means that backpropagation through ``draw`` already gave the gradient.
        """
        return None

    def memory(self) -> dict[str, float]:
        """What the estimator remembers between steps, for checkpoints."""
        return {}

    def restore(self, memory: dict[str, float]) -> None:  # noqa: B027 - most estimators remember nothing
        """Take back what `memory` gave."""


class HardConcrete(Estimator):
    """Stretched binary concrete, clamped to [0, 1] (Louizos et al. 2018, equations 10-12): biased towards the
    relaxation, low variance, and exactly zero gradient at z = 0."""

    name: EstimatorName = "hard-concrete"
    skips_exactly = True

    def __init__(self, temperature: float = 2 / 3, low: float = -0.1, high: float = 1.1) -> None:
        self.temperature, self.low, self.high = temperature, low, high

    def keep_probability(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits - self.temperature * math.log(-self.low / self.high))

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        concrete = torch.sigmoid((logits + _logistic(uniform)) / self.temperature)
        return (concrete * (self.high - self.low) + self.low).clamp(0, 1)


class StraightThrough(Estimator):
    """Gumbel-sigmoid with a hard forward value and the relaxation's gradient (Jang et al. 2017; Bengio et al. 2013)."""

    name: EstimatorName = "straight-through"

    def __init__(self, temperature: float = 0.5) -> None:
        self.temperature = temperature

    def keep_probability(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        noisy = logits + _logistic(uniform)
        soft = torch.sigmoid(noisy / self.temperature)
        return (noisy > 0).to(soft.dtype) + soft - soft.detach()


class _Score(Estimator):
    """Shared by the score-function estimators: hard draws without a pathwise gradient."""

    is_unbiased = True
    skips_exactly = True

    def keep_probability(self, logits: Tensor) -> Tensor:
        return torch.sigmoid(logits)

    def draw(self, logits: Tensor, uniform: Tensor) -> Tensor:
        return (uniform < torch.sigmoid(logits)).to(logits.dtype).detach()


class Arm(_Score):
    """Augment-REINFORCE-merge (Yin and Zhou 2019, theorem 1): unbiased, at the price of a second forward pass.

    gradient = (f(1[u > sigmoid(-logits)]) - f(1[u < sigmoid(logits)])) (u - 1/2)
    """

    name: EstimatorName = "arm"

    def score_gradient(
        self, logits: Tensor, uniform: Tensor, loss: Tensor, evaluate: Callable[[Tensor], Tensor]
    ) -> Tensor:
        antithetic = (uniform > torch.sigmoid(-logits)).to(logits.dtype)
        return (evaluate(antithetic) - loss.detach()) * (uniform - 0.5)


class Reinforce(_Score):
    """Score function with a running-mean baseline (Williams 1992): unbiased, one forward pass, high variance.

    gradient = (f(z) - baseline) (z - sigmoid(logits)); the baseline knows only earlier steps. It is 0 in the first one:
    a baseline that depends on z would bias the gradient.
    """

    name: EstimatorName = "reinforce"

    def __init__(self, decay: float = 0.9) -> None:
        self.decay = decay
        self.baseline: float | None = None

    def score_gradient(
        self, logits: Tensor, uniform: Tensor, loss: Tensor, evaluate: Callable[[Tensor], Tensor]
    ) -> Tensor:
        value, baseline = float(loss.detach()), self.baseline
        self.baseline = value if baseline is None else self.decay * baseline + (1 - self.decay) * value
        return (value - (baseline or 0.0)) * (self.draw(logits, uniform) - torch.sigmoid(logits))

    def memory(self) -> dict[str, float]:
        return {} if self.baseline is None else {"baseline": self.baseline}

    def restore(self, memory: dict[str, float]) -> None:
        self.baseline = memory.get("baseline")


ESTIMATORS: dict[str, type[Estimator]] = {cls.name: cls for cls in (HardConcrete, StraightThrough, Arm, Reinforce)}


def make_estimator(name: str) -> Estimator:
    """The estimator called ``name``; UsageError if there is none."""
    if name not in ESTIMATORS:
        raise UsageError(f"no estimator is called {name!r}", f"choose one of {', '.join(ESTIMATORS)}")
    return ESTIMATORS[name]()


def _logistic(uniform: Tensor) -> Tensor:
    uniform = uniform.clamp(_TINY, 1 - _TINY)
    return torch.log(uniform) - torch.log1p(-uniform)
