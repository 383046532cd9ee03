"""Reads images and labels from the arrays of a .npz file.

Every array is judged by its header before it is decoded, and arrays of Python objects, which would run code, never are.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as _npy_format
from numpy.typing import NDArray

from edgekit.data._base import (
    MAX_CLASSES,
    MAX_DATA_BYTES,
    ImageArray,
    IndexArray,
    Reader,
    ReadOptions,
    Samples,
    quoted,
)
from edgekit.errors import DataError

AnyArray = NDArray[Any]
# numpy 1 has no annotations for these functions, numpy 2 has.
npy_format: Any = _npy_format
_HEADER_READERS = {(1, 0): npy_format.read_array_header_1_0, (2, 0): npy_format.read_array_header_2_0}
_PARTS = ("train", "validation", "test")
# Names of the (images, labels) pair of each part: Keras, MedMNIST, and one pair without parts.
_LAYOUTS: tuple[dict[str, tuple[str, str]], ...] = (
    {"train": ("x_train", "y_train"), "validation": ("x_val", "y_val"), "test": ("x_test", "y_test")},
    {
        "train": ("train_images", "train_labels"),
        "validation": ("val_images", "val_labels"),
        "test": ("test_images", "test_labels"),
    },
    {"train": ("images", "labels")},
)
_ALLOWED_KEYS = "images and labels; x_train, y_train, x_test, y_test; or train_images, train_labels, test_images, ..."


@dataclass(frozen=True)
class _Part:
    images: ImageArray
    labels: NDArray[np.int64]


class NpzReader(Reader):
    """A .npz file with ``images``, ``labels``, or ``x_train``, ``y_train`` and optionally ``x_test``, ``y_test``
    (``x_val``, ``y_val``), or the same as ``train_images``, ``train_labels``, ``val_*``, ``test_*``.

    Images are (samples, height, width), (samples, height, width, 1 or 3) or (samples, 1 or 3, height, width); where
    both of the latter fit, channels are last. They are integers from 0 to 255 or floats from 0 to 1. Labels are
    integers from 0, of shape (samples,) or (samples, 1). ``class_names``, an array of strings, is optional. Other
    arrays are not looked at.
    """

    name = "npz"

    def recognises(self, path: Path) -> bool:
        """A file that ends in .npz."""
        return path.is_file() and path.suffix.lower() == ".npz"

    def read(self, path: Path, options: ReadOptions) -> Samples:
        """Read ``path``; raises DataError for missing, object, oversized or inconsistent arrays."""
        arrays = _read_arrays(path)
        layout = _layout(path, arrays)
        parts = {part: _part(path, arrays, keys) for part, keys in layout.items()}
        ends = np.cumsum([len(parts[part].labels) if part in parts else 0 for part in _PARTS])
        labels = np.concatenate([parts[part].labels for part in _PARTS if part in parts])
        return Samples(
            name=quoted(path),
            images=_join(path, [parts[part].images for part in _PARTS if part in parts]),
            labels=labels,
            class_names=_class_names(path, arrays, labels),
            validation=_range(ends[0], ends[1]),
            test=_range(ends[1], ends[2]),
        )


def read_npz_images(path: Path) -> ImageArray:
    """All images of a .npz file, (samples, channels, height, width): those of its test part if it has one, else the
    first part's; labels are not needed. Raises DataError like the reader."""
    arrays = _read_arrays(path)
    keys = [layout[part][0] for part in ("test", "train") for layout in _LAYOUTS if part in layout]
    for key in keys:
        if key in arrays:
            return _images(path, key, arrays[key])
    raise DataError(f"{quoted(path)} holds the arrays {_listed(arrays)}; allowed are {', '.join(keys)}")


def _read_arrays(path: Path) -> dict[str, AnyArray]:
    wanted = {key for layout in _LAYOUTS for pair in layout.values() for key in pair} | {"class_names"}
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if member.filename.removesuffix(".npy") in wanted]
            if sum(member.file_size for member in members) > MAX_DATA_BYTES:
                raise DataError(f"the arrays in {quoted(path)} take more than the allowed {MAX_DATA_BYTES} bytes")
            return {member.filename.removesuffix(".npy"): _read_member(path, archive, member) for member in members}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{quoted(path)} is damaged or no .npz file: {error}") from error
    except OSError as error:
        raise DataError(f"{quoted(path)} cannot be read: {error.strerror or error}") from error


def _read_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> AnyArray:
    try:
        with archive.open(member) as stream:
            _check_header(path, member, stream)
        with archive.open(member) as stream:
            return np.asarray(npy_format.read_array(stream, allow_pickle=False))
    except (ValueError, TypeError, SyntaxError, tokenize.TokenError, MemoryError, RecursionError) as error:
        raise DataError(f"the array {member.filename!r} in {quoted(path)} is damaged: {error}") from error


def _check_header(path: Path, member: zipfile.ZipInfo, stream: IO[bytes]) -> None:
    """Refuse object arrays, and a shape that the member's bytes cannot hold: numpy would allocate it first."""
    version = npy_format.read_magic(stream)
    if version not in _HEADER_READERS:
        raise DataError(
            f"the array {member.filename!r} in {quoted(path)} has format {version}; allowed are 1.0 and 2.0"
        )
    shape, _, dtype = _HEADER_READERS[version](stream)
    if dtype.hasobject:
        raise DataError(
            f"the array {member.filename!r} in {quoted(path)} holds Python objects, which may run code when they are "
            f"read; allowed are arrays of numbers, and of strings for class_names"
        )
    size_bytes = dtype.itemsize
    for size in shape:
        size_bytes *= size
    if min(shape, default=0) < 0 or size_bytes != member.file_size - stream.tell():
        raise DataError(
            f"the array {member.filename!r} in {quoted(path)} declares the shape {shape} of {dtype} and holds "
            f"{member.file_size - stream.tell()} bytes; allowed are exactly {size_bytes}"
        )


def _layout(path: Path, arrays: dict[str, AnyArray]) -> dict[str, tuple[str, str]]:
    """The parts that the file has, with their two keys; the first layout whose training images are there counts."""
    for layout in _LAYOUTS:
        if not any(key in arrays for key in layout["train"]):
            continue
        present = {part: pair for part, pair in layout.items() if any(key in arrays for key in pair)}
        for key in (key for pair in present.values() for key in pair):
            if key not in arrays:
                raise DataError(
                    f"{quoted(path)} has no array {key!r} beside {_listed(arrays)}; allowed is both or none"
                )
        return present
    raise DataError(f"{quoted(path)} holds the arrays {_listed(arrays)}; allowed are {_ALLOWED_KEYS}")


def _part(path: Path, arrays: dict[str, AnyArray], keys: tuple[str, str]) -> _Part:
    images, labels = _images(path, keys[0], arrays[keys[0]]), _labels(path, keys[1], arrays[keys[1]])
    if len(images) != len(labels):
        raise DataError(
            f"{quoted(path)} holds {len(images)} images in {keys[0]!r} and {len(labels)} labels in {keys[1]!r}; "
            f"allowed is one label per image"
        )
    return _Part(images, labels)


def _images(path: Path, key: str, array: AnyArray) -> ImageArray:
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and array.shape[3] in (1, 3):
        array = np.ascontiguousarray(array.transpose(0, 3, 1, 2))
    elif array.ndim != 4 or array.shape[1] not in (1, 3):
        raise DataError(
            f"{key!r} in {quoted(path)} has the shape {array.shape}; allowed are (samples, height, width), "
            f"(samples, height, width, 1 or 3) and (samples, 1 or 3, height, width)"
        )
    return _pixels(path, key, array)


def _pixels(path: Path, key: str, array: AnyArray) -> ImageArray:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind == "f":
        return array.astype(np.float32)
    if array.dtype.kind not in "iu":
        raise DataError(
            f"{key!r} in {quoted(path)} is of {array.dtype}; allowed are integers 0 to 255 and floats 0 to 1"
        )
    if array.size and (array.min() < 0 or array.max() > 255):
        raise DataError(
            f"{key!r} in {quoted(path)} reaches from {array.min()} to {array.max()}; allowed is 0 to 255 for integers"
        )
    return array.astype(np.uint8)


def _labels(path: Path, key: str, array: AnyArray) -> NDArray[np.int64]:
    if array.dtype.kind not in "iu":
        raise DataError(
            f"{key!r} in {quoted(path)} is of {array.dtype}; allowed are integers from 0",
            "number the classes from 0 and store their names as class_names",
        )
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise DataError(
            f"{key!r} in {quoted(path)} has the shape {array.shape}; allowed are (samples,) and (samples, 1)",
            "one-hot labels become numbers with argmax(axis=1)",
        )
    if array.size and (array.min() < 0 or array.max() >= MAX_CLASSES):
        raise DataError(
            f"{key!r} in {quoted(path)} reaches from {array.min()} to {array.max()}; allowed is 0 to {MAX_CLASSES - 1}"
        )
    return array.astype(np.int64)


def _class_names(path: Path, arrays: dict[str, AnyArray], labels: NDArray[np.int64]) -> tuple[str, ...]:
    names = arrays.get("class_names")
    if names is None:
        return tuple(str(label) for label in range(int(labels.max(initial=0)) + 1))
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DataError(
            f"'class_names' in {quoted(path)} is of {names.dtype} with shape {names.shape}; "
            f"allowed is a list of strings"
        )
    return tuple(str(name) for name in names)


def _join(path: Path, images: list[ImageArray]) -> ImageArray:
    for part in images[1:]:
        if part.shape[1:] != images[0].shape[1:] or part.dtype != images[0].dtype:
            raise DataError(
                f"{quoted(path)} holds training images of {images[0].dtype} {images[0].shape[1:]} and others of "
                f"{part.dtype} {part.shape[1:]} (channels, height, width); allowed is one kind and size"
            )
    return images[0] if len(images) == 1 else np.concatenate(images)


def _range(start: np.int64, end: np.int64) -> IndexArray:
    return np.arange(start, end, dtype=np.int64)


def _listed(arrays: dict[str, AnyArray]) -> str:
    return ", ".join(sorted(arrays)) or "none of them"
