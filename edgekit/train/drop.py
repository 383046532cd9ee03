"""Learning drop probabilities beside the weights: the penalty, its weight (fixed, or by dual ascent), the gates' steps.

Source: patent CN110533172A (loss = task + lambda * sum |d_i t_i|); the Lagrange multiplier and the trunk gates are
edgekit's own. What is kept in the end is decided in ``selection``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from edgekit.nn.gates import Gates
from edgekit.nn.network import GateSample
from edgekit.train.randomness import generator

MICROSECONDS_PER_MILLISECOND = 1000.0


class PenaltyWeight(ABC):
    """Lambda, the weight of a millisecond in the loss; may follow the expected latency."""

    @abstractmethod
    def at(self, expected_us: float, step: int, total: int) -> float:
        """Lambda (per millisecond) of this step; called once a step."""

    def state(self) -> dict[str, float]:
        """Numbers for a checkpoint."""
        return {}

    def restore(self, facts: dict[str, Any]) -> None:  # noqa: B027 - a fixed weight has no state
        """Take back what `state` gave."""


@dataclass
class FixedWeight(PenaltyWeight):
    """The same lambda at every step: one point of a sweep."""

    per_ms: float

    def at(self, expected_us: float, step: int, total: int) -> float:
        return self.per_ms


@dataclass
class DualAscent(PenaltyWeight):
    """Lambda as a Lagrange multiplier of "expected latency <= budget", with a proportional term.

        excess = (E[T] - B_t) / T_dense
        multiplier <- max(0, multiplier + integral_gain * excess)
        lambda = max(0, multiplier + proportional_gain * excess) / T_dense

    B_t falls linearly from the start to the budget over the first ``anneal`` of the steps. The integral term alone is
    too slow or overshoots.
    """

    start_us: float
    budget_us: float
    dense_us: float
    integral_gain: float = 0.1
    proportional_gain: float = 30.0
    anneal: float = 0.7
    multiplier: float = 0.0

    def at(self, expected_us: float, step: int, total: int) -> float:
        progress = min(1.0, step / max(1.0, self.anneal * total))
        wanted_us = self.start_us + (self.budget_us - self.start_us) * progress
        excess = (expected_us - wanted_us) / self.dense_us
        self.multiplier = max(0.0, self.multiplier + self.integral_gain * excess)
        # Also below the budget: gates that overshoot and close for good would leave the choice to chance.
        weight = max(0.0, self.multiplier + self.proportional_gain * excess)
        return weight * MICROSECONDS_PER_MILLISECOND / self.dense_us

    def state(self) -> dict[str, float]:
        return {"multiplier": self.multiplier}

    def restore(self, facts: dict[str, Any]) -> None:
        self.multiplier = float(facts["multiplier"])


class DropStage:
    """The gates of one training stage, as the training loop sees them (`loop.GateStage`)."""

    def __init__(self, gates: Gates, weight: PenaltyWeight, seed: int, stage: str, learning_rate: float = 0.05) -> None:
        self.gates, self.weight = gates, weight
        self.seed, self.stage = seed, stage
        self.optimizer = torch.optim.Adam(gates.parameters(), lr=learning_rate, betas=(0.9, 0.99))
        self.penalty_per_ms = 0.0
        self.expected_us = gates.dense_us()
        self._drawn: tuple[Tensor, Tensor] | None = None

    def sample(self, step: int) -> GateSample:
        self._drawn = self.gates.draw_units(generator(self.seed, self.stage, "gates", step))
        return self.gates.sample_of(self._drawn[0])

    def penalty(self, step: int, total: int) -> Tensor:
        expected = self.gates.expected_latency()
        self.expected_us = float(expected.detach())
        self.penalty_per_ms = self.weight.at(self.expected_us, step, total)
        return self.penalty_per_ms * self.gates.expected_penalty_us(expected) / MICROSECONDS_PER_MILLISECOND

    def before_backward(self, step: int, task: Tensor, evaluate: Callable[[GateSample], Tensor]) -> Tensor | None:
        if self._drawn is None:
            return None
        _, uniform = self._drawn
        logits = self.gates.unit_logits()

        def loss_of(other: Tensor) -> Tensor:
            with torch.no_grad():
                return evaluate(self.gates.sample_of(other))

        gradient = self.gates.estimator.score_gradient(logits.detach(), uniform, task, loss_of)
        return None if gradient is None else (gradient.detach() * logits).sum()

    def update(self) -> None:
        self.optimizer.step()
        self.gates.clamp()

    def zero_grad(self) -> None:
        self.optimizer.zero_grad()

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        tensors = {"logits": self.gates.logits.detach()}
        for state in self.optimizer.state_dict()["state"].values():
            tensors |= {f"adam.{name}": value for name, value in state.items()}
        return tensors, {**self.weight.state(), **self.gates.estimator.memory()}

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        with torch.no_grad():
            self.gates.logits.copy_(tensors["logits"])
        state = self.optimizer.state_dict()
        state["state"] = {0: {n.removeprefix("adam."): t for n, t in tensors.items() if n.startswith("adam.")}}
        self.optimizer.load_state_dict(state)
        self.weight.restore(facts)
        self.gates.estimator.restore(facts)

    def values(self) -> dict[str, float]:
        return {"lambda": self.penalty_per_ms, "expected_us": self.expected_us}
