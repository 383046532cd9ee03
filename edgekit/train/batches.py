"""Batches for training: which samples, in which order, augmented how; evaluation reads the same tensors as they are.

Reading data from files is in ``edgekit.data``; here everything is already in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.data import Dataset
from edgekit.train.randomness import generator

Augmentation = Literal["none", "shift", "flip", "shift+flip"]
SHIFT_PIXELS = 2


@dataclass(frozen=True)
class Split:
    """Samples of one split as stored, (N, C, H, W) or (N, features), with labels (N,) and the normalisation."""

    samples: Tensor
    labels: Tensor
    mean: Tensor
    std: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, indices: Tensor | slice) -> Tensor:
        """As `inputs`: a split may stand where images are asked for part by part."""
        return self.inputs(indices)

    def inputs(self, indices: Tensor | slice) -> Tensor:
        """Normalised float32 inputs of some samples, channels last in memory where they are images."""
        batch = self.samples[indices]
        # A slice is a view: without a copy, normalising floats in place would change the data set itself.
        scaled = batch.to(torch.float32, copy=True)
        if batch.dtype == torch.uint8:
            scaled.div_(255)
        scaled.sub_(self.mean).div_(self.std)
        return scaled.contiguous(memory_format=torch.channels_last) if scaled.dim() == 4 else scaled


def make_split(dataset: Dataset, indices: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Split:
    """One split of a data set as tensors."""
    samples = torch.from_numpy(np.ascontiguousarray(dataset.images[indices]))
    shape = (1, -1, *[1] * (samples.dim() - 2))
    mean = torch.tensor(dataset.preprocessing.mean).reshape(shape)
    std = torch.tensor(dataset.preprocessing.std).reshape(shape)
    return Split(samples, torch.from_numpy(dataset.labels[indices]).long(), mean, std)


def spread(count: int, limit: int) -> Tensor:
    """At most ``limit`` indices below ``count`` at even distances: data are often sorted by class."""
    return torch.from_numpy(np.unique(np.linspace(0, count - 1, min(count, limit)).astype(np.int64)))


def steps_per_epoch(split: Split, batch_size: int) -> int:
    """Whole batches in one epoch, at least one."""
    return max(1, len(split) // batch_size)


def batch_at(
    split: Split, batch_size: int, augmentation: Augmentation, seed: int, stage: str, step: int
) -> tuple[Tensor, Tensor]:
    """Inputs and labels of one training step: a function of its arguments alone."""
    per_epoch = steps_per_epoch(split, batch_size)
    epoch, position = divmod(step, per_epoch)
    order = _epoch_order(len(split), seed, stage, epoch)
    indices = order[position * batch_size : (position + 1) * batch_size]
    inputs = split.inputs(indices)
    return augment(inputs, augmentation, generator(seed, stage, "augment", step)), split.labels[indices]


_order_cache: dict[tuple[int, int, str, int], Tensor] = {}


def _epoch_order(size: int, seed: int, stage: str, epoch: int) -> Tensor:
    key = (size, seed, stage, epoch)
    if key not in _order_cache:
        _order_cache.clear()
        _order_cache[key] = torch.randperm(size, generator=generator(seed, stage, "order", epoch))
    return _order_cache[key]


def augment(inputs: Tensor, augmentation: Augmentation, random: torch.Generator) -> Tensor:
    """Shift each image by up to two pixels and mirror half of them, as asked for; vectors pass unchanged."""
    if inputs.dim() != 4 or augmentation == "none":
        return inputs
    if "flip" in augmentation:
        mirrored = torch.rand(len(inputs), generator=random) < 0.5
        inputs = torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)
    if "shift" in augmentation:
        inputs = _shift(inputs, random)
    return inputs.contiguous(memory_format=torch.channels_last)


def _shift(inputs: Tensor, random: torch.Generator) -> Tensor:
    count, channels, height, width = inputs.shape
    padded = F.pad(inputs, (SHIFT_PIXELS,) * 4, mode="replicate")
    down = torch.randint(0, 2 * SHIFT_PIXELS + 1, (count,), generator=random)
    right = torch.randint(0, 2 * SHIFT_PIXELS + 1, (count,), generator=random)
    rows = (down[:, None] + torch.arange(height))[:, None, :, None]
    columns = (right[:, None] + torch.arange(width))[:, None, None, :]
    sample = torch.arange(count)[:, None, None, None]
    return padded[sample, torch.arange(channels)[None, :, None, None], rows, columns]


def in_order(split: Split, batch_size: int = 500) -> Iterator[tuple[Tensor, Tensor]]:
    """All samples once, for evaluation."""
    for start in range(0, len(split), batch_size):
        part = slice(start, start + batch_size)
        yield split.inputs(part), split.labels[part]
