"""How any number of samples is passed through a model that takes a fixed number of them per run.

Layouts and runtimes are not known here.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from edgekit.errors import UsageError
from edgekit.runtimes._base import FloatArray


def check_samples(batch: FloatArray, input_shape: tuple[int, ...]) -> FloatArray:
    """``batch`` as contiguous float32; UsageError unless its samples have the shape of those of ``input_shape``."""
    if batch.ndim != len(input_shape) or batch.shape[1:] != input_shape[1:]:
        wanted = ", ".join(map(str, input_shape[1:]))
        raise UsageError(f"the model takes samples of shape ({wanted}) behind the batch, not an array of {batch.shape}")
    return np.ascontiguousarray(batch, dtype=np.float32)


def check_batch(batch: FloatArray, input_shape: tuple[int, ...]) -> FloatArray:
    """As `check_samples`, for exactly one run: the number of samples must fit too."""
    if len(batch) != input_shape[0]:
        raise UsageError(f"one run of the model takes {input_shape[0]} samples, not {len(batch)}")
    return check_samples(batch, input_shape)


def run_in_batches(batch: FloatArray, batch_size: int, run_once: Callable[[FloatArray], FloatArray]) -> FloatArray:
    """Results of ``run_once`` on slices of ``batch_size`` samples; the last slice is filled up, and its result cut."""
    if len(batch) == 0:
        raise UsageError("there are no samples to run")
    first = run_once(_filled(batch[:batch_size], batch_size))
    result = np.empty((len(batch), *first.shape[1:]), dtype=np.float32)
    result[:batch_size] = first[: len(batch)]
    for start in range(batch_size, len(batch), batch_size):
        samples = _filled(batch[start : start + batch_size], batch_size)
        result[start : start + batch_size] = run_once(samples)[: len(batch) - start]
    return result


def _filled(samples: FloatArray, batch_size: int) -> FloatArray:
    missing = batch_size - len(samples)
    return np.concatenate([samples, np.repeat(samples[-1:], missing, axis=0)]) if missing else samples
