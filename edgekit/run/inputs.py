"""From what a user names (files, folders, globs, array files, ``-``) to images, one by one, in order, decoded ahead.

Whatever is wrong with an input becomes a `Failed` in its place; no model is known here.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Full, Queue
from threading import Event, Thread
from typing import Generic, TypeVar

from edgekit.data._base import ImageArray
from edgekit.data.arrays import read_npz_images
from edgekit.data.idx import is_idx_images, read_idx
from edgekit.data.image_folder import list_image_files
from edgekit.data.preprocess import decode_image
from edgekit.errors import DataError
from edgekit.run.outcomes import Failed

STANDARD_INPUT = "-"
_POLL_SECONDS = 0.1

T = TypeVar("T")


@dataclass(frozen=True)
class ImageSource:
    """One image that was named: ``decode(image_size)`` gives (1 or 3, height, width), resized where it can be while
    decoding, or raises DataError."""

    path: str
    decode: Callable[[tuple[int, int]], ImageArray]


def find_images(inputs: Iterable[str], lines: Iterable[str] | None = None) -> Iterator[ImageSource | Failed]:
    """The images that ``inputs`` name, lazily.

    An input is a file, a folder (all image files below it, sorted), an IDX or .npz file (all its images), a pattern
    with ``*``, ``?``, ``[...]`` or ``**`` if no file has that very name (matches sorted), or ``-``: one path a line
    from ``lines``, by default standard input, where nothing but the line end separates and patterns are not expanded.
    """
    for name in inputs:
        if name == STANDARD_INPUT:
            for line in _standard_input() if lines is None else lines:
                if line:
                    yield from _path_images(line)
        elif not os.path.lexists(name) and glob.has_magic(name):
            yield from _pattern_images(name)
        else:
            yield from _path_images(name)


def _standard_input() -> Iterator[str]:
    # Not sys.stdin: Ctrl-C finds its lock held by the thread that reads ahead, and the interpreter aborts. And names
    # are bytes: decoded as the file system does it, any file can be named.
    with open(0, "rb", closefd=False) as stream:
        yield from (os.fsdecode(line.removesuffix(b"\n")) for line in stream)


def _pattern_images(pattern: str) -> Iterator[ImageSource | Failed]:
    matches = sorted(glob.glob(pattern, recursive=True))
    if not matches:
        yield Failed(pattern, "no file matches this pattern")
    for match in matches:
        yield from _path_images(match)


def _path_images(name: str) -> Iterator[ImageSource | Failed]:
    path = Path(name)
    try:
        if os.path.isdir(name):
            yield from _folder_images(path)
        elif is_idx_images(path):
            yield from _array_images(path, read_idx(path, 3)[:, None])
        elif path.suffix.lower() == ".npz":
            yield from _array_images(path, read_npz_images(path))
        else:
            yield ImageSource(name, partial(decode_image, path))
    except DataError as error:
        yield Failed(name, error.message)


def _folder_images(folder: Path) -> Iterator[ImageSource | Failed]:
    empty = True
    for path in list_image_files(folder):
        empty = False
        yield ImageSource(str(path), partial(decode_image, path))
    if empty:
        yield Failed(str(folder), "the folder holds no image file")


def _array_images(path: Path, images: ImageArray) -> Iterator[ImageSource]:
    for index, image in enumerate(images):
        yield ImageSource(f"{path}#{index}", partial(_same_image, image))


def _same_image(image: ImageArray, _: tuple[int, int]) -> ImageArray:
    return image


@dataclass(frozen=True)
class _Item(Generic[T]):
    value: T


@dataclass(frozen=True)
class _End:
    error: BaseException | None


def read_ahead(items: Iterable[T], depth: int) -> Generator[T, None, None]:
    """The same items in the same order, taken from ``items`` in a thread that is at most ``depth`` of them ahead.

    An exception in ``items`` is raised here, after the items before it. Closing the iterator stops the thread as soon
    as ``items`` lets it go.
    """
    ready: Queue[_Item[T] | _End] = Queue(depth)
    stop = Event()
    # A daemon, because nothing wakes a thread that waits for a line of standard input.
    Thread(target=_fill, args=(items, ready, stop), name="edgekit-read-ahead", daemon=True).start()
    try:
        while isinstance(item := ready.get(), _Item):
            yield item.value
        if item.error is not None:
            raise item.error
    finally:
        stop.set()


def _fill(items: Iterable[T], ready: Queue[_Item[T] | _End], stop: Event) -> None:
    try:
        for item in items:
            if not _put(ready, _Item(item), stop):
                return
    except BaseException as error:
        _put(ready, _End(error), stop)
    else:
        _put(ready, _End(None), stop)


def _put(ready: Queue[_Item[T] | _End], item: _Item[T] | _End, stop: Event) -> bool:
    """Wait for a free place unless stopped; whether the item was put."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=_POLL_SECONDS)
        except Full:
            continue
        return True
    return False
