"""What comes out of a run: one outcome per image, and the summary of them all.

Structs and their arithmetic only; nothing is read, run or written here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np


class Score(msgspec.Struct, frozen=True):
    """One class and its softmax probability."""

    label: str
    score: float


class Classified(msgspec.Struct, frozen=True, tag="classified"):
    """An image that was classified: the best label, its softmax probability, and the best few, best first.

    ``path`` is the file, or ``file#index`` for one image of an array file.
    """

    path: str
    label: str
    score: float
    top: tuple[Score, ...]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An input that could not be classified, and why."""

    path: str
    reason: str


Outcome = Classified | Failed


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """Counts and times of a run. ``seconds`` is the wall time from the first image asked for to the last one given,
    decoding included; the latencies are those of running the model on one image, measured, None if none was run here (a
    device runs many at a time). The reading thread competes with them for the processor: the latency of the model alone
    is what `bench` measures."""

    classified_count: int
    failed_count: int
    seconds: float
    images_per_second: float
    median_us: float | None
    p90_us: float | None
    p99_us: float | None


def summarise(classified_count: int, failed_count: int, seconds: float, latencies_ns: Sequence[int]) -> Summary:
    """The summary of a run with one latency in nanoseconds for each time that the model ran."""
    percentiles_us: list[float | None] = [None, None, None]
    if len(latencies_ns):
        percentiles_us = [float(value) / 1000 for value in np.percentile(latencies_ns, [50, 90, 99])]
    return Summary(
        classified_count=classified_count,
        failed_count=failed_count,
        seconds=seconds,
        images_per_second=classified_count / seconds if seconds > 0 else 0.0,
        median_us=percentiles_us[0],
        p90_us=percentiles_us[1],
        p99_us=percentiles_us[2],
    )


def best_scores(logits: Sequence[float], labels: Sequence[str], top: int) -> tuple[Score, ...]:
    """The ``top`` largest softmax probabilities ``exp(z_i) / sum_j exp(z_j)``, largest first, ties by position."""
    z = np.asarray(logits, dtype=np.float64)
    exponentials = np.exp(z - z.max())
    probabilities = exponentials / exponentials.sum()
    order = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Score(labels[index], float(probabilities[index])) for index in order)
