"""A problem of ten units that is small enough to be solved exactly: every estimator's gradient can be held against it.

Only the problem and its two gradients live here; bounds and tables are with those who use it.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from edgekit.nn.estimators import Estimator, Reinforce

UNIT_COUNT = 10


class TenUnits:
    """A nonlinear loss f(z) = softplus(w z) + z Q z of ten keep variables, and the logits where it is studied."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.logits = torch.empty(UNIT_COUNT, dtype=torch.float64).uniform_(-1.5, 2.5, generator=generator)
        self._weights = torch.randn(UNIT_COUNT, 1, dtype=torch.float64, generator=generator)
        self._interaction = torch.randn(UNIT_COUNT, UNIT_COUNT, dtype=torch.float64, generator=generator) / UNIT_COUNT

    def loss(self, z: Tensor) -> Tensor:
        """Losses of rows of keep variables: (rows, units) to (rows, 1)."""
        pairs = ((z @ self._interaction) * z).sum(1, keepdim=True)
        return torch.nn.functional.softplus(z @ self._weights) + pairs

    def exact_gradient(self, estimator: Estimator) -> Tensor:
        """d E[f(z)] / d logits for independent z in {0, 1}, summed over all 2^10 states."""
        logits = self.logits.clone().requires_grad_()
        keep = estimator.keep_probability(logits)
        states = torch.tensor(list(product((0.0, 1.0), repeat=UNIT_COUNT)), dtype=logits.dtype)
        probabilities = torch.where(states == 1, keep, 1 - keep).prod(1, keepdim=True)
        (gradient,) = torch.autograd.grad((probabilities * self.loss(states)).sum(), logits)
        return gradient

    def sampled_gradients(self, estimator: Estimator, uniform: Tensor) -> Tensor:
        """One estimate of that gradient for every row of noise, shape (rows, units)."""
        # A running baseline goes from sample to sample; all others can be estimated at once.
        rows = 1 if isinstance(estimator, Reinforce) else len(uniform)
        return torch.cat([self._estimate(estimator, part) for part in uniform.split(rows)])

    def _estimate(self, estimator: Estimator, uniform: Tensor) -> Tensor:
        logits = self.logits.expand_as(uniform).clone().requires_grad_()
        loss = self.loss(estimator.draw(logits, uniform))
        gradient = estimator.score_gradient(logits, uniform, loss, self.loss)
        return torch.autograd.grad(loss.sum(), logits)[0] if gradient is None else gradient.detach()


def draw_noise(rows: int, seed: int) -> Tensor:
    """Uniform noise for ``rows`` estimates."""
    return torch.rand(rows, UNIT_COUNT, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
