"""Reads the IDX format of the MNIST family (http://yann.lecun.com/exdb/mnist, "file formats"), plain or gzipped.

Only unsigned bytes are read, and only files that are exactly as long as their header says.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from edgekit.data._base import MAX_DATA_BYTES, Reader, ReadOptions, Samples, no_indices, quoted
from edgekit.errors import DataError

_UNSIGNED_BYTE = 0x08
# A deflate block of 2 bits holds at most 258 bytes (RFC 1951): no gzip file expands further.
_MAX_DEFLATE_RATIO = 1032
_PREFIX = {"train": "train", "test": "t10k"}


class IdxReader(Reader):
    """A folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, and optionally the pair t10k-*, which is then
    the test part. Each may end in .gz, and may be spelled with a dot (``train-images.idx3-ubyte``)."""

    name = "IDX folder"

    def recognises(self, path: Path) -> bool:
        """A folder that holds the training images or the training labels."""
        return path.is_dir() and any(_find(path, "train", content) is not None for content in ("images", "labels"))

    def read(self, path: Path, options: ReadOptions) -> Samples:
        """Read the folder ``path``: uint8 images with one channel, classes named ``0`` to the largest label."""
        images, labels = _read_pair(path, "train")
        test = no_indices()
        if any(_find(path, "test", content) is not None for content in ("images", "labels")):
            test_images, test_labels = _read_pair(path, "test")
            _check_same_shape(path, images, test_images)
            test = np.arange(len(labels), len(labels) + len(test_labels))
            images, labels = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
        return Samples(
            name=quoted(path),
            images=images[:, None],
            labels=labels.astype(np.int64),
            class_names=tuple(str(label) for label in range(int(labels.max(initial=0)) + 1)),
            test=test,
        )


def is_idx_images(path: Path) -> bool:
    """Whether a file is named as IDX images are."""
    return path.name.removesuffix(".gz").endswith(("-idx3-ubyte", ".idx3-ubyte"))


def read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    """The uint8 array with ``dimensions`` axes in an IDX file; DataError names what is wrong with it."""
    try:
        with _open(path) as stream:
            return _read_array(path, stream, dimensions)
    except EOFError as error:
        raise DataError(f"{quoted(path)} is cut short: its gzip stream has no end") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{quoted(path)} is damaged: {error}; allowed is an intact gzip file") from error
    except OSError as error:
        raise DataError(f"{quoted(path)} cannot be read: {error.strerror or error}") from error


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")


def _read_array(path: Path, stream: BinaryIO, dimensions: int) -> NDArray[np.uint8]:
    shape = _read_header(path, stream, dimensions)
    size_bytes = _product(shape)
    _check_declared(path, shape, size_bytes)
    content = stream.read(size_bytes + 1)
    if len(content) != size_bytes:
        relation = "more" if len(content) > size_bytes else f"only {len(content)}"
        raise DataError(
            f"{quoted(path)} declares {_times(shape)} = {size_bytes} bytes and holds {relation}; "
            f"allowed are exactly these"
        )
    return np.frombuffer(bytearray(content), dtype=np.uint8).reshape(shape)


def _read_header(path: Path, stream: BinaryIO, dimensions: int) -> tuple[int, ...]:
    header = stream.read(4 + 4 * dimensions)
    expected = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if header[:4] != expected:
        raise DataError(
            f"{quoted(path)} starts with the magic number 0x{header[:4].hex()}; allowed is 0x{expected.hex()} "
            f"(unsigned bytes, {dimensions} dimension{'s' if dimensions > 1 else ''})"
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(
            f"{quoted(path)} is cut short: its header has {len(header)} bytes; allowed are {4 + 4 * dimensions}"
        )
    return struct.unpack(f">{dimensions}I", header[4:])


def _check_declared(path: Path, shape: tuple[int, ...], size_bytes: int) -> None:
    file_bytes = path.stat().st_size
    possible_bytes = file_bytes * _MAX_DEFLATE_RATIO if path.suffix == ".gz" else file_bytes
    bound_bytes = min(MAX_DATA_BYTES, possible_bytes)
    if size_bytes > bound_bytes:
        raise DataError(
            f"{quoted(path)} declares {_times(shape)} = {size_bytes} bytes; "
            f"a file of its size ({file_bytes} bytes) may declare {bound_bytes}"
        )


def _read_pair(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images_path, labels_path = _require(folder, part, "images"), _require(folder, part, "labels")
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if len(images) != len(labels):
        raise DataError(
            f"{quoted(images_path)} holds {len(images)} images and {quoted(labels_path)} {len(labels)} labels; "
            f"allowed is one label per image"
        )
    return images, labels


def _check_same_shape(folder: Path, images: NDArray[np.uint8], test_images: NDArray[np.uint8]) -> None:
    if images.shape[1:] != test_images.shape[1:]:
        raise DataError(
            f"{quoted(folder)} holds training images of {_times(images.shape[1:])} pixels and test images of "
            f"{_times(test_images.shape[1:])}; allowed is one size"
        )


def _require(folder: Path, part: str, content: str) -> Path:
    path = _find(folder, part, content)
    if path is None:
        raise DataError(
            f"{quoted(folder)} has no {part} {content}; allowed is a file {_file_names(part, content)[0]} or "
            f"{_file_names(part, content)[1]}"
        )
    return path


def _find(folder: Path, part: str, content: str) -> Path | None:
    for name in _file_names(part, content):
        if (folder / name).is_file():
            return folder / name
    return None


def _file_names(part: str, content: str) -> tuple[str, ...]:
    dimensions = 3 if content == "images" else 1
    stems = [f"{_PREFIX[part]}-{content}{joint}idx{dimensions}-ubyte" for joint in ("-", ".")]
    return tuple(stem + suffix for stem in stems for suffix in ("", ".gz"))


def _product(shape: tuple[int, ...]) -> int:
    # Python integers: three 32-bit sizes overflow 64 bits.
    result = 1
    for size in shape:
        result *= size
    return result


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(str(size) for size in shape)
