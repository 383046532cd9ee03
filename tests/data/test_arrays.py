"""Images and labels out of .npz files, hostile ones among them."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.data import load
from edgekit.data._base import ReadOptions
from edgekit.data.arrays import NpzReader, read_npz_images
from edgekit.errors import DataError
from tests.data.conformance import ReaderConformance
from tests.data.sources import Labels, Pixels, cyclic_labels, random_pixels

READER = NpzReader()


class TestNpzReader(ReaderConformance):
    reader = READER

    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        np.savez(folder / "data.npz", images=pixels, labels=labels)
        return folder / "data.npz"


class TestCompressedNpzReader(ReaderConformance):
    reader = READER

    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        np.savez_compressed(folder / "data.npz", x_train=pixels, y_train=labels)
        return folder / "data.npz"


def _save(folder: Path, **arrays: NDArray[Any]) -> Path:
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def _save_pair(folder: Path, images: NDArray[Any] | None = None, labels: NDArray[Any] | None = None) -> Path:
    return _save(
        folder,
        images=random_pixels(4) if images is None else images,
        labels=cyclic_labels(4) if labels is None else labels,
    )


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((4, 6, 5), (4, 1, 6, 5)),
        ((4, 6, 5, 1), (4, 1, 6, 5)),
        ((4, 6, 5, 3), (4, 3, 6, 5)),
        ((4, 3, 6, 5), (4, 3, 6, 5)),
        ((4, 3, 6, 3), (4, 3, 3, 6)),
    ],
)
def test_channels_are_put_before_height_and_width(
    tmp_path: Path, shape: tuple[int, ...], expected: tuple[int, ...]
) -> None:
    path = _save_pair(tmp_path, images=np.zeros(shape, dtype=np.uint8))

    assert READER.read(path, ReadOptions()).images.shape == expected


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test"),
        ("train_images", "train_labels", "val_images", "val_labels", "test_images", "test_labels"),
    ],
)
def test_the_parts_of_the_file_are_kept(tmp_path: Path, keys: tuple[str, ...]) -> None:
    arrays: dict[str, NDArray[Any]] = {}
    for images, labels, count in zip(keys[::2], keys[1::2], (6, 2, 4), strict=True):
        arrays |= {images: random_pixels(count), labels: cyclic_labels(count)}

    dataset = load(str(_save(tmp_path, **arrays)))

    assert (dataset.train.tolist(), dataset.validation.tolist(), dataset.test.tolist()) == (
        [0, 1, 2, 3, 4, 5],
        [6, 7],
        [8, 9, 10, 11],
    )


def test_labels_in_a_column_are_taken(tmp_path: Path) -> None:
    path = _save_pair(tmp_path, labels=cyclic_labels(4)[:, None])

    assert READER.read(path, ReadOptions()).labels.shape == (4,)


def test_class_names_are_taken_from_the_file(tmp_path: Path) -> None:
    path = _save(tmp_path, images=random_pixels(4), labels=cyclic_labels(4), class_names=np.array(["cat", "dog"]))

    assert READER.read(path, ReadOptions()).class_names == ("cat", "dog")


def test_a_label_beyond_the_class_names_is_refused(tmp_path: Path) -> None:
    names = np.array(["cat", "dog"])
    path = _save(tmp_path, images=random_pixels(4), labels=np.array([0, 1, 0, 2]), class_names=names)

    with pytest.raises(DataError, match=r"sample 3 has the label 2; allowed are 0 to 1"):
        load(str(path))


@pytest.mark.parametrize("wrong", [-1, 10_000, 2**62])
def test_labels_out_of_range_are_refused(tmp_path: Path, wrong: int) -> None:
    path = _save_pair(tmp_path, labels=np.array([0, 1, 0, wrong]))

    with pytest.raises(DataError, match=f"{wrong}; allowed is 0 to 9999|{wrong} to 1; allowed is 0 to 9999"):
        load(str(path))


@pytest.mark.parametrize("labels", [np.array([0.0, 1.0, 0.5, 1.0]), np.array(["a", "b", "a", "b"]), np.ones(4, bool)])
def test_labels_that_are_no_integers_are_refused(tmp_path: Path, labels: NDArray[Any]) -> None:
    with pytest.raises(DataError, match="allowed are integers from 0"):
        load(str(_save_pair(tmp_path, labels=labels)))


def test_one_hot_labels_are_refused_with_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(str(_save_pair(tmp_path, labels=np.eye(4, dtype=np.int64))))

    assert "argmax" in str(caught.value.hint)


def test_arrays_of_objects_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    path = _save_pair(tmp_path, images=np.array([_Bomb()] * 4, dtype=object))

    with pytest.raises(DataError, match="holds Python objects"):
        READER.read(path, ReadOptions())


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (_explode, ())


def _explode() -> None:
    raise AssertionError("the pickle was run")


def test_float_images_from_0_to_1_stay_float(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((20, 6, 5))

    dataset = load(str(_save_pair(tmp_path, images=images, labels=cyclic_labels(20))))

    assert dataset.images.dtype == np.float32 and np.allclose(dataset.images[:, 0], images)


@pytest.mark.parametrize("wrong", [255.0, -0.5, np.nan, np.inf])
def test_float_images_beyond_0_to_1_are_refused(tmp_path: Path, wrong: float) -> None:
    images = np.zeros((4, 6, 5), dtype=np.float32)
    images[2, 3, 4] = wrong

    with pytest.raises(DataError, match="allowed is 0 to 1"):
        load(str(_save_pair(tmp_path, images=images)))


def test_wider_integers_from_0_to_255_become_uint8(tmp_path: Path) -> None:
    path = _save_pair(tmp_path, images=random_pixels(4).astype(np.int32))

    assert np.array_equal(READER.read(path, ReadOptions()).images, random_pixels(4))


def test_integers_above_255_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="allowed is 0 to 255"):
        READER.read(_save_pair(tmp_path, images=np.full((4, 6, 5), 256)), ReadOptions())


def test_flat_images_are_refused_with_the_allowed_shapes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"shape \(4, 30\)"):
        READER.read(_save_pair(tmp_path, images=np.zeros((4, 30), np.uint8)), ReadOptions())


def test_counts_that_differ_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"4 images .* 5 labels"):
        READER.read(_save_pair(tmp_path, labels=cyclic_labels(5)), ReadOptions())


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = _save_pair(tmp_path, images=np.zeros((0, 6, 5), np.uint8), labels=np.zeros(0, np.int64))

    with pytest.raises(DataError, match="no samples"):
        load(str(path))


def test_images_without_labels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no array 'y_train'"):
        READER.read(_save(tmp_path, x_train=random_pixels(4)), ReadOptions())


def test_other_names_are_refused_with_those_that_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="images and labels; x_train, y_train"):
        READER.read(_save(tmp_path, pictures=random_pixels(4)), ReadOptions())


def test_a_declared_shape_that_the_bytes_cannot_hold_is_refused_before_it_is_allocated(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", _npy_header((2**40, 28, 28)) + bytes(100))
        archive.writestr("labels.npy", _npy_header((4,)) + bytes(4))

    with pytest.raises(DataError, match="declares the shape"):
        READER.read(path, ReadOptions())


def _npy_header(shape: tuple[int, ...]) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call,unused-ignore]
        stream, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return stream.getvalue()


def test_images_alone_are_those_of_the_test_part(tmp_path: Path) -> None:
    path = _save(tmp_path, x_train=random_pixels(4), x_test=random_pixels(2, seed=1))

    assert np.array_equal(read_npz_images(path), random_pixels(2, seed=1))
