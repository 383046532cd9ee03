"""Writes small sources of labelled images in the formats that edgekit reads."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def random_pixels(count: int, shape: tuple[int, int, int] = (1, 6, 5), seed: int = 0) -> Pixels:
    """(count, *shape) of noise."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def cyclic_labels(count: int, classes: int = 2) -> Labels:
    """0, 1, ..., classes - 1, 0, 1, ..."""
    return np.arange(count, dtype=np.int64) % classes


def write_image(path: Path, pixels: Pixels) -> Path:
    """One (channels, height, width) image in the format of the suffix; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    plane = pixels[0] if pixels.shape[0] == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0))
    Image.fromarray(plane).save(path)
    return path


def write_folder(root: Path, pixels: Pixels, labels: Labels, suffix: str = ".png") -> Path:
    """One PNG per sample in folders class-0, class-1, ..."""
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        write_image(root / f"class-{label}" / f"{index:04}{suffix}", image)
    return root


def idx_bytes(array: NDArray[np.uint8], shape: tuple[int, ...] | None = None) -> bytes:
    """An IDX file of ``array``; ``shape`` is declared in place of the true one."""
    declared = array.shape if shape is None else shape
    return struct.pack(f">BBBB{len(declared)}I", 0, 0, 8, len(declared), *declared) + array.tobytes()


def write_idx(root: Path, pixels: Pixels, labels: Labels, part: str = "train", zipped: bool = True) -> Path:
    """The images and labels of one part, named as MNIST names them."""
    root.mkdir(parents=True, exist_ok=True)
    contents = {"images-idx3": pixels[:, 0], "labels-idx1": labels.astype(np.uint8)}
    for name, array in contents.items():
        content = idx_bytes(array)
        path = root / f"{part}-{name}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return root


def write_mnist_csv(path: Path, pixels: Pixels, labels: Labels) -> Path:
    """28 x 28 pixels and the digit per line, gzipped."""
    table = np.concatenate([pixels.reshape(len(pixels), -1), labels[:, None]], axis=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(",".join(map(str, row)) + "\n" for row in table).encode()))
    return path
