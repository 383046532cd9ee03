"""The data set that training, export and evaluation read: images, labels, a fixed split and the preprocessing.

What a reader returned is checked here once; how it was read, drawn or measured is the business of the other files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.data._base import MAX_CLASSES, MAX_SIDE, ImageArray, IndexArray, Samples, Skipped
from edgekit.data.preprocess import normalise
from edgekit.errors import DataError
from edgekit.types import Preprocessing

_HASHED_SAMPLES = 4096


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images in memory, split.

    ``images`` is (samples, channels, height, width): uint8 0-255, or float32 in [0, 1] where the source held floats.
    ``labels`` is int64 (samples,), an index into ``class_names``. ``train``, ``validation`` and ``test`` are sorted,
    disjoint index arrays drawn with ``seed``; the mean and standard deviation of ``preprocessing`` are those of
    ``train`` alone. ``skipped`` lists the files that could not be read.
    """

    name: str
    images: ImageArray
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    train: IndexArray
    validation: IndexArray
    test: IndexArray
    seed: int
    preprocessing: Preprocessing
    skipped: tuple[Skipped, ...] = ()

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every sample."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def class_count(self) -> int:
        """Number of classes, those without a sample in some part included."""
        return len(self.class_names)

    @property
    def skipped_count(self) -> int:
        """Number of files that were left out."""
        return len(self.skipped)

    def counts(self) -> dict[str, int]:
        """Number of samples by part, and of files that were skipped."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {**{name: len(indices) for name, indices in parts.items()}, "skipped": self.skipped_count}

    def fingerprint(self) -> str:
        """Hash over samples, labels, classes and split: equal where a run would see the very same data."""
        digest = hashlib.sha256(repr((self.images.shape, str(self.images.dtype), self.class_names)).encode())
        for start in range(0, len(self.images), _HASHED_SAMPLES):
            digest.update(np.ascontiguousarray(self.images[start : start + _HASHED_SAMPLES]).data)
        for part in (self.labels, self.train, self.validation, self.test):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()

    def normalised(self, indices: IndexArray | Sequence[int] | slice) -> NDArray[np.float32]:
        """The samples at ``indices`` as a new float32 array (len(indices), channels, height, width)."""
        return normalise(self.images[indices], self.preprocessing)


def check_samples(samples: Samples) -> None:
    """Refuse what no classifier can be trained on, with DataError naming the source and what is allowed."""
    _check_images(samples)
    _check_labels(samples)
    _check_floats(samples)


def _check_images(samples: Samples) -> None:
    shape = samples.images.shape
    if len(shape) != 4 or shape[1] not in (1, 3) or not all(1 <= side <= MAX_SIDE for side in shape[2:]):
        raise DataError(
            f"{samples.name}: the images have shape {shape}; allowed is (samples, 1 or 3, height, width) with sides of "
            f"1 to {MAX_SIDE} pixels"
        )
    if not shape[0]:
        raise DataError(f"{samples.name}: there are no samples; allowed is one or more for each class")
    if samples.labels.shape != (shape[0],):
        raise DataError(
            f"{samples.name}: there are {shape[0]} images and labels of shape {samples.labels.shape}; "
            f"allowed is one label per image"
        )


def _check_labels(samples: Samples) -> None:
    classes = len(samples.class_names)
    smallest, largest = int(samples.labels.min()), int(samples.labels.max())
    if smallest < 0 or largest >= classes:
        wrong = smallest if smallest < 0 else largest
        raise DataError(
            f"{samples.name}: sample {int(np.flatnonzero(samples.labels == wrong)[0])} has the label {wrong}; "
            f"allowed are 0 to {classes - 1}, one for each of the {classes} class names"
        )
    if smallest == largest:
        raise DataError(
            f"{samples.name}: all samples have the one class {samples.class_names[smallest]!r}; "
            f"allowed are two classes or more"
        )
    if classes > MAX_CLASSES:
        raise DataError(f"{samples.name}: there are {classes} classes; allowed are {MAX_CLASSES}")


def _check_floats(samples: Samples) -> None:
    if samples.images.dtype == np.uint8:
        return
    smallest, largest = float(samples.images.min()), float(samples.images.max())
    # Written so that NaN, which makes every comparison false, is refused too.
    if not (smallest >= 0.0 and largest <= 1.0):
        raise DataError(
            f"{samples.name}: the float images reach from {smallest} to {largest}; allowed is 0 to 1",
            "store them as uint8 from 0 to 255, or scale them to 0 ... 1: the runner does the same to every image file",
        )
