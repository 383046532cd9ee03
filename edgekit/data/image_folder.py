"""Reads a folder of image files, one sub-folder per class, optionally below train/, validation/ and test/.

Which images there are is decided by names alone, before any is decoded; decoding itself is in ``preprocess``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from edgekit.data._base import MAX_DATA_BYTES, ImageArray, Reader, ReadOptions, Samples, Skipped, quoted
from edgekit.data.preprocess import IMAGE_SUFFIXES, decode_image, match_channels
from edgekit.data.split import subsample
from edgekit.errors import DataError
from edgekit.types import Progress

_PARTS = {"train": "train", "validation": "validation", "valid": "validation", "val": "validation", "test": "test"}
_PART_NUMBER = {"train": 0, "validation": 1, "test": 2}
_PROGRESS_STEP = 64


@dataclass(frozen=True)
class _ImageFile:
    path: Path
    label: int
    part: int


@dataclass(frozen=True)
class _Listing:
    files: list[_ImageFile]
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class _Decoded:
    files: list[_ImageFile]
    images: list[ImageArray]
    skipped: list[Skipped]


class ImageFolderReader(Reader):
    """PNG, JPEG, BMP, GIF, WebP, TIFF and PNM files in class folders; class names are the sorted folder names.

    - train/ counts as a part, not as a class, if it holds folders itself; validation/ (or val/, valid/) and test/ may
      then stand beside it.
    - Which files are images is told by their suffix, as for `edgekit run`; hidden files and all others are ignored.
      Images that cannot be read are skipped and listed; a class that has no readable image left is an error.
    - All images become RGB as soon as one of them is stored in colour, else they stay grey with one channel.
    - Without ``image_size`` two different sizes are an error.
    """

    name = "image folder"

    def recognises(self, path: Path) -> bool:
        """Any folder is taken for one."""
        return path.is_dir()

    def read(self, path: Path, options: ReadOptions) -> Samples:
        """Read the folder ``path``; raises DataError for an empty one, an empty class, or mixed sizes."""
        listing = _list_images(path)
        decoded = _decode(_limited(listing.files, options), options)
        _check_classes(path, listing.class_names, decoded)
        part = np.array([file.part for file in decoded.files], dtype=np.int64)
        return Samples(
            name=quoted(path),
            images=_stack(path, decoded.images),
            labels=np.array([file.label for file in decoded.files], dtype=np.int64),
            class_names=listing.class_names,
            validation=np.flatnonzero(part == _PART_NUMBER["validation"]),
            test=np.flatnonzero(part == _PART_NUMBER["test"]),
            skipped=tuple(decoded.skipped),
        )


def list_image_files(folder: Path) -> Iterator[Path]:
    """Files with an image suffix below ``folder``, sorted folder by folder, hidden ones left out."""
    return (file for file in _walk(folder) if _is_image_name(file))


def _list_images(root: Path) -> _Listing:
    parts = _part_folders(root)
    class_names = _class_names(parts["train"])
    labels = {name: label for label, name in enumerate(class_names)}
    files: list[_ImageFile] = []
    for part, folder in parts.items():
        for class_folder in _folders(folder):
            label = _label_of(class_folder, labels)
            found = list(list_image_files(class_folder))
            if part == "train" and not found:
                raise DataError(
                    f"the class folder {quoted(class_folder)} holds no image file; allowed are one or more",
                    f"add images, whose names end in one of {' '.join(sorted(IMAGE_SUFFIXES))}, or remove the folder",
                )
            files.extend(_ImageFile(file, label, _PART_NUMBER[part]) for file in found)
    return _Listing(files, class_names)


def _part_folders(root: Path) -> dict[str, Path]:
    """Folder of each part; all of ``root`` is the train part unless it has a train/ that holds folders itself."""
    folders = _folders(root)
    train = root / "train"
    if train not in folders or not _folders(train):
        return {"train": root}
    parts: dict[str, Path] = {}
    for folder in folders:
        part = _PARTS.get(folder.name)
        if part is None or part in parts:
            raise DataError(
                f"{quoted(folder)} lies beside {quoted(train)}, which holds class folders; "
                f"allowed beside train are one of validation, val and valid, and test"
            )
        parts[part] = folder
    return parts


def _class_names(train: Path) -> tuple[str, ...]:
    names = tuple(folder.name for folder in _folders(train))
    if not names:
        direct = any(_is_image_name(entry) for entry in _entries(train))
        raise DataError(
            f"the folder {quoted(train)} holds no class folders; allowed are two or more, with images in them",
            "put the images of each class into a sub-folder named as the class" if direct else None,
        )
    for name in names:
        if not _is_utf8(name):
            raise DataError(f"the class folder {name!r} in {quoted(train)} has a name that is not valid UTF-8")
    return names


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _label_of(class_folder: Path, labels: dict[str, int]) -> int:
    label = labels.get(class_folder.name)
    if label is None:
        raise DataError(
            f"{quoted(class_folder)} is a class that train does not have; allowed are the {len(labels)} of train"
        )
    return label


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        _refuse_folder(error)


def _folders(folder: Path) -> list[Path]:
    return [entry for entry in _entries(folder) if entry.is_dir()]


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder, onerror=_refuse_folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def _refuse_folder(error: OSError) -> NoReturn:
    raise DataError(f"the folder {quoted(str(error.filename))} cannot be read: {error.strerror}") from error


def _is_image_name(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _limited(files: list[_ImageFile], options: ReadOptions) -> list[_ImageFile]:
    if options.limit is None:
        return files
    strata = np.array([file.label * len(_PART_NUMBER) + file.part for file in files], dtype=np.int64)
    return [files[index] for index in subsample(strata, options.limit, options.seed)]


def _decode(files: list[_ImageFile], options: ReadOptions) -> _Decoded:
    decoded = _Decoded([], [], [])
    size_bytes = 0
    for done, file in enumerate(files):
        if done % _PROGRESS_STEP == 0:
            options.progress(Progress(stage="load", done=done, total=len(files)))
        try:
            image = decode_image(file.path, options.image_size)
        except DataError as error:
            decoded.skipped.append(Skipped(str(file.path), error.message))
            continue
        size_bytes += image.nbytes
        _check_size_bytes(file.path, size_bytes)
        _check_same_size(file, image, decoded)
        decoded.files.append(file)
        decoded.images.append(image)
    return decoded


def _check_same_size(file: _ImageFile, image: ImageArray, decoded: _Decoded) -> None:
    if not decoded.images or decoded.images[0].shape[1:] == image.shape[1:]:
        return
    first, second = (f"{shape[0]}x{shape[1]}" for shape in (decoded.images[0].shape[1:], image.shape[1:]))
    raise DataError(
        f"{quoted(decoded.files[0].path)} has {first} pixels (height x width) and {quoted(file.path)} {second}; "
        f"allowed is one size",
        f"resize all images while reading: --image-size {first}",
    )


def _check_size_bytes(path: Path, size_bytes: int) -> None:
    if size_bytes > MAX_DATA_BYTES:
        raise DataError(
            f"the images up to {quoted(path)} take {size_bytes} bytes decoded; allowed are {MAX_DATA_BYTES}",
            "resize them while reading (--image-size), or read fewer of them (--limit)",
        )


def _check_classes(root: Path, class_names: tuple[str, ...], decoded: _Decoded) -> None:
    readable = {file.label for file in decoded.files if file.part == _PART_NUMBER["train"]}
    for label, name in enumerate(class_names):
        if label not in readable:
            first = decoded.skipped[0]
            raise DataError(
                f"class {name!r} in {quoted(root)} has no readable image; {len(decoded.skipped)} files were skipped, "
                f"the first is {quoted(first.path)}: {first.reason}"
            )


def _stack(root: Path, images: list[ImageArray]) -> ImageArray:
    """All images in one array, taken out of the list one by one: twice the memory is never needed."""
    channels = max(image.shape[0] for image in images)
    shape = (len(images), channels, *images[0].shape[1:])
    _check_size_bytes(root, int(np.prod(shape, dtype=np.int64)))
    stacked = np.empty(shape, dtype=np.uint8)
    for index in reversed(range(len(images))):
        stacked[index] = match_channels(images.pop(), channels)
    return stacked
