"""How far each estimator's mean gradient is from the exact one, on ten units whose 2^10 states can all be visited.

``mean - exact`` is a bias where ``z``, its size in standard errors, is large; arm and reinforce must stay within 3.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from table import Row, main
from ten_units import TenUnits, draw_noise

from edgekit.nn.estimators import ESTIMATORS, make_estimator


def estimator_rows(quick: bool) -> list[Row]:
    """Mean gradient of every estimator against exact enumeration, unit by unit."""
    torch.set_num_threads(1)
    samples = 4_000 if quick else 40_000
    return [row for name in ESTIMATORS for row in _rows_of(name, samples)]


def _rows_of(name: str, samples: int) -> Iterator[Row]:
    problem, estimator = TenUnits(), make_estimator(name)
    exact = problem.exact_gradient(estimator).tolist()
    gradients = problem.sampled_gradients(estimator, draw_noise(samples, seed=1))
    means, errors = gradients.mean(0).tolist(), (gradients.std(0) / samples**0.5).tolist()
    for unit, (true, mean, error) in enumerate(zip(exact, means, errors, strict=True)):
        yield {
            "estimator": name,
            "unit": unit,
            "exact": true,
            "mean": mean,
            "bias": mean - true,
            "standard_error": error,
            "z": (mean - true) / error,
            "unbiased": estimator.is_unbiased,
            "samples": samples,
        }


if __name__ == "__main__":
    main(estimator_rows, ["estimator", "unit", "exact", "mean", "bias", "standard_error", "z", "unbiased"])
