"""From a source (a path or a known name) to a `Dataset`: finds the reader, keeps, splits, checks and measures.

The formats themselves are in the reader files, and nothing is downloaded.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from edgekit.data._base import MAX_DATA_BYTES, ImageArray, Reader, ReadOptions, Samples, quoted
from edgekit.data.arrays import NpzReader
from edgekit.data.dataset import Dataset, check_samples
from edgekit.data.idx import IdxReader
from edgekit.data.image_folder import ImageFolderReader
from edgekit.data.mnist_csv import MnistCsvReader
from edgekit.data.names import known_names, locate
from edgekit.data.preprocess import check_image_size, measure, resize
from edgekit.data.split import split, subsample
from edgekit.errors import DataError, UsageError
from edgekit.types import ProgressCallback, ignore_progress

# In the order in which they are asked: any folder is an image folder, so that reader comes last.
READERS: tuple[Reader, ...] = (IdxReader(), NpzReader(), MnistCsvReader(), ImageFolderReader())


def load(
    source: str,
    *,
    seed: int = 0,
    validation_fraction: float = 0.1,
    test_fraction: float = 0.2,
    image_size: tuple[int, int] | None = None,
    limit: int | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Dataset:
    """Read ``source`` and split it.

    ``source`` is a name of `known_names`, a folder of images (one sub-folder per class, optionally below train/,
    validation/ and test/), a folder of IDX files named as MNIST names them, or a .npz file. A path wins with a
    separator in front (``./fashion-mnist``), a name without.

    The fractions are of the samples that the source does not itself put into a part. ``image_size`` (height, width)
    resizes every image; without it all images must have one size. ``limit`` keeps that many samples in all, drawn in
    proportion from every class and given part. The same source, seed and arguments give the same data set.

    Raises DataError for whatever is wrong with the source, UsageError for an argument out of range.
    """
    options = _options(seed, image_size, limit, progress)
    samples = _read(source, options)
    check_samples(samples)
    samples = _resized(_limited(samples, options), image_size)
    parts = split(
        samples.labels,
        samples.class_names,
        seed=seed,
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        validation=samples.validation,
        test=samples.test,
    )
    return Dataset(
        name=source,
        images=samples.images,
        labels=samples.labels,
        class_names=samples.class_names,
        train=parts.train,
        validation=parts.validation,
        test=parts.test,
        seed=seed,
        preprocessing=measure(samples.images, parts.train),
        skipped=samples.skipped,
    )


def _options(
    seed: int, image_size: tuple[int, int] | None, limit: int | None, progress: ProgressCallback
) -> ReadOptions:
    if seed < 0:
        raise UsageError(f"seed is {seed}; allowed is 0 or more")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; allowed is 1 or more")
    if image_size is not None:
        check_image_size(image_size)
    return ReadOptions(image_size=image_size, limit=limit, seed=seed, progress=progress)


def _read(source: str, options: ReadOptions) -> Samples:
    if source in known_names():
        known = locate(source)
        samples = find_reader(known.path).read(known.path, options)
        return replace(samples, name=source, class_names=known.class_names or samples.class_names)
    path = Path(source)
    if not os.path.exists(source):
        raise DataError(
            f"data {quoted(source)} does not exist; allowed are a folder of images, a folder of IDX files, "
            f"a .npz file, and the names {_listed(known_names())}"
        )
    return find_reader(path).read(path, options)


def find_reader(path: Path) -> Reader:
    """The reader of an existing path; DataError if there is none."""
    for reader in READERS:
        if reader.recognises(path):
            return reader
    raise DataError(
        f"{quoted(path)} is no data set; allowed are a folder of images, a folder of IDX files and a .npz file",
        "an IDX file is read together with its labels: give the folder that holds both",
    )


def _limited(samples: Samples, options: ReadOptions) -> Samples:
    if options.limit is None or len(samples.labels) <= options.limit:
        return samples
    part = np.zeros(len(samples.labels), dtype=np.int64)
    part[samples.validation], part[samples.test] = 1, 2
    kept = subsample(samples.labels * 3 + part, options.limit, options.seed)
    return replace(
        samples,
        images=samples.images[kept],
        labels=samples.labels[kept],
        validation=np.flatnonzero(part[kept] == 1),
        test=np.flatnonzero(part[kept] == 2),
    )


def _resized(samples: Samples, image_size: tuple[int, int] | None) -> Samples:
    if image_size is None or samples.images.shape[2:] == image_size:
        return samples
    shape = (*samples.images.shape[:2], *image_size)
    size_bytes = math.prod(shape) * samples.images.itemsize
    if size_bytes > MAX_DATA_BYTES:
        raise DataError(
            f"{samples.name}: {len(samples.labels)} images of {image_size[0]}x{image_size[1]} pixels take {size_bytes} "
            f"bytes; allowed are {MAX_DATA_BYTES}",
            "choose a smaller image size, or read fewer of them (--limit)",
        )
    images = np.empty(shape, dtype=samples.images.dtype)
    for index, image in enumerate(samples.images):
        images[index] = resize(image, image_size)
    return replace(samples, images=_clipped(images))


def _clipped(images: ImageArray) -> ImageArray:
    # Bilinear sampling of floats may leave [0, 1] by a rounding error.
    return images if images.dtype == np.uint8 else np.clip(images, 0.0, 1.0)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(names)
