"""What a reader of labelled images is, what it is asked for and what it hands back.

One file per implementation beside this one, all of which pass tests/data/conformance.py; no format is read here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.types import ProgressCallback, ignore_progress

ImageArray = NDArray[np.uint8 | np.float32]
"""Images as (samples, channels, height, width): uint8 0-255, or float32 already scaled to [0, 1]."""
IndexArray = NDArray[np.int64]

MAX_DATA_BYTES = 4 * 2**30
"""Most that one array of a data set may occupy decoded: a declared size beyond it is refused before any allocation."""
MAX_CLASSES = 10_000
MAX_SIDE = 8192
"""Largest height or width of one sample in pixels."""


class Skipped(NamedTuple):
    """A file that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class ReadOptions:
    """What is asked of a reader: ``image_size`` (height, width) to resize to, at most ``limit`` samples drawn by
    ``seed``, progress to ``progress``."""

    image_size: tuple[int, int] | None = None
    limit: int | None = None
    seed: int = 0
    progress: ProgressCallback = ignore_progress


def no_indices() -> IndexArray:
    """An empty index array: the source gives no such part."""
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class Samples:
    """A source as it was read. ``test`` and ``validation`` index the samples that the source itself puts there; empty
    where it does not say. ``labels`` is int64 (samples,), an index into ``class_names``."""

    name: str
    images: ImageArray
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    test: IndexArray = field(default_factory=no_indices)
    validation: IndexArray = field(default_factory=no_indices)
    skipped: tuple[Skipped, ...] = ()


class Reader(ABC):
    """A way to read one format."""

    name: str

    @abstractmethod
    def recognises(self, path: Path) -> bool:
        """Whether ``path`` looks like this format, by its names alone: nothing is decoded."""

    @abstractmethod
    def read(self, path: Path, options: ReadOptions) -> Samples:
        """Read all of ``path``. A reader that decodes file by file applies ``options.limit`` before decoding; the
        others may leave it to the caller. Raises DataError naming the file, the value and what is allowed."""


def printable(path: str) -> str:
    """A file name as text that any file and terminal can hold: bytes that are no UTF-8 become ``\\udc..``."""
    return path.encode("utf-8", "backslashreplace").decode()


def quoted(path: Path | str) -> str:
    """A file name for a message: on one line and printable, whatever its bytes are."""
    return repr(str(path))
