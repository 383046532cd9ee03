"""From a source to a data set: split, limited, resized and measured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import Dataset, load
from edgekit.errors import DataError, UsageError
from tests.data.sources import cyclic_labels, random_pixels, write_folder, write_idx


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    write_idx(tmp_path, random_pixels(60), cyclic_labels(60, 3))
    return write_idx(tmp_path, random_pixels(30, seed=1), cyclic_labels(30, 3), part="t10k")


def _equal(first: Dataset, second: Dataset) -> bool:
    parts = ("images", "labels", "train", "validation", "test")
    return all(np.array_equal(getattr(first, part), getattr(second, part)) for part in parts)


def test_loading_twice_gives_the_same(digits: Path) -> None:
    assert _equal(load(str(digits), seed=3, limit=40), load(str(digits), seed=3, limit=40))


def test_the_seed_is_kept(digits: Path) -> None:
    assert load(str(digits), seed=3).seed == 3


def test_mean_and_deviation_are_those_of_the_train_part_alone(digits: Path) -> None:
    dataset = load(str(digits))
    train = dataset.images[dataset.train] / 255

    assert dataset.preprocessing.mean[0] == pytest.approx(train.mean())
    assert dataset.preprocessing.std[0] == pytest.approx(train.std())


def test_batches_are_float32_and_normalised(digits: Path) -> None:
    dataset = load(str(digits))
    batch = dataset.normalised(dataset.train[:7])
    mean, std = dataset.preprocessing.mean[0], dataset.preprocessing.std[0]

    assert batch.dtype == np.float32
    assert np.allclose(batch, (dataset.images[dataset.train[:7]] / 255 - mean) / std, atol=1e-5)


def test_a_limit_takes_from_every_part_and_class_in_proportion(digits: Path) -> None:
    dataset = load(str(digits), limit=45)

    assert len(dataset.labels) == 45
    assert np.bincount(dataset.labels[dataset.test]).tolist() == [5, 5, 5]


def test_images_of_the_limited_set_keep_their_labels(digits: Path) -> None:
    whole, part = load(str(digits)), load(str(digits), limit=45)
    labels = {image.tobytes(): label for image, label in zip(whole.images, whole.labels, strict=True)}

    assert [labels[image.tobytes()] for image in part.images] == part.labels.tolist()


def test_arrays_are_resized_when_a_size_is_given(digits: Path) -> None:
    assert load(str(digits), image_size=(12, 9)).images.shape == (90, 1, 12, 9)


def test_a_size_that_would_not_fit_into_memory_is_refused(digits: Path) -> None:
    with pytest.raises(DataError, match="bytes; allowed are"):
        load(str(digits), image_size=(8192, 8192))


@pytest.mark.parametrize("arguments", [{"seed": -1}, {"limit": 0}, {"image_size": (0, 4)}, {"test_fraction": 1.5}])
def test_arguments_out_of_range_are_refused(digits: Path, arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=next(iter(arguments))):
        load(str(digits), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("source", ["not/there", "x" * 5000, "nul\0byte", ""])
def test_a_source_that_does_not_exist_is_refused_with_what_is_allowed(source: str) -> None:
    with pytest.raises(DataError, match="does not exist; allowed are a folder of images"):
        load(source)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")

    with pytest.raises(DataError, match=r"notes\.txt' is no data set"):
        load(str(tmp_path / "notes.txt"))


def test_classes_counts_and_shape_are_told(tmp_path: Path) -> None:
    dataset = load(str(write_folder(tmp_path, random_pixels(20, (3, 4, 7)), cyclic_labels(20))))

    assert (dataset.input_shape, dataset.class_count, dataset.skipped_count) == ((3, 4, 7), 2, 0)


def test_loading_data_imports_no_torch(digits: Path) -> None:
    program = f"import sys, edgekit.data; edgekit.data.load({str(digits)!r}); print('torch' in sys.modules)"

    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert shown.stdout.strip() == "False"
