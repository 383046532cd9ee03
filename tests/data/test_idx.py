"""IDX files as MNIST names them, and those that lie about their size."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from edgekit.data import load
from edgekit.data._base import ReadOptions
from edgekit.data.idx import IdxReader, read_idx
from edgekit.errors import DataError
from tests.data.conformance import ReaderConformance
from tests.data.sources import Labels, Pixels, cyclic_labels, idx_bytes, random_pixels, write_idx

READER = IdxReader()


class TestIdxReader(ReaderConformance):
    reader = READER

    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        return write_idx(folder, pixels, labels)


class TestPlainIdxReader(ReaderConformance):
    reader = READER

    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        return write_idx(folder, pixels, labels, zipped=False)


def test_the_t10k_pair_is_the_test_part(tmp_path: Path) -> None:
    write_idx(tmp_path, random_pixels(20), cyclic_labels(20))
    write_idx(tmp_path, random_pixels(6, seed=1), cyclic_labels(6), part="t10k")

    dataset = load(str(tmp_path))

    assert np.array_equal(dataset.images[dataset.test], random_pixels(6, seed=1))


def test_without_a_t10k_pair_a_test_part_is_drawn(tmp_path: Path) -> None:
    write_idx(tmp_path, random_pixels(20), cyclic_labels(20))

    assert len(load(str(tmp_path), test_fraction=0.2).test) == 4


def test_names_with_a_dot_are_found(tmp_path: Path) -> None:
    write_idx(tmp_path, random_pixels(4), cyclic_labels(4))
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))

    assert READER.recognises(tmp_path) and len(READER.read(tmp_path, ReadOptions()).labels) == 4


def test_counts_that_differ_are_refused_with_both(tmp_path: Path) -> None:
    write_idx(tmp_path, random_pixels(6), cyclic_labels(5))

    with pytest.raises(DataError, match=r"holds 6 images .* 5 labels"):
        READER.read(tmp_path, ReadOptions())


def test_a_missing_label_file_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path, random_pixels(4), cyclic_labels(4))
    (tmp_path / "train-labels-idx1-ubyte.gz").unlink()

    with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
        READER.read(tmp_path, ReadOptions())


def test_test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    write_idx(tmp_path, random_pixels(4), cyclic_labels(4))
    write_idx(tmp_path, random_pixels(4, (1, 7, 5)), cyclic_labels(4), part="t10k")

    with pytest.raises(DataError, match="6 x 5 pixels and test images of 7 x 5"):
        READER.read(tmp_path, ReadOptions())


def _idx_file(folder: Path, content: bytes, name: str = "train-images-idx3-ubyte") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def test_labels_in_place_of_images_are_refused_by_their_magic_number(tmp_path: Path) -> None:
    path = _idx_file(tmp_path, idx_bytes(np.zeros(9, dtype=np.uint8)) + bytes(9))

    with pytest.raises(DataError, match=r"0x00000801; allowed is 0x00000803"):
        read_idx(path, 3)


def test_a_file_with_more_bytes_than_declared_is_refused(tmp_path: Path) -> None:
    path = _idx_file(tmp_path, idx_bytes(random_pixels(4)[:, 0], shape=(3, 6, 5)))

    with pytest.raises(DataError, match=r"3 x 6 x 5 = 90 bytes and holds more"):
        read_idx(path, 3)


def test_a_file_with_fewer_bytes_than_declared_is_refused(tmp_path: Path) -> None:
    path = _idx_file(tmp_path, idx_bytes(random_pixels(4)[:, 0])[:-1])

    with pytest.raises(DataError, match=r"4 x 6 x 5 = 120 bytes and holds only 119"):
        read_idx(path, 3)


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (10**6, 1000, 1000)])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_huge_declared_sizes_are_refused_before_they_are_allocated(
    tmp_path: Path, shape: tuple[int, int, int], suffix: str
) -> None:
    content = idx_bytes(random_pixels(1)[:, 0], shape=shape)
    path = _idx_file(tmp_path, gzip.compress(content) if suffix else content, f"train-images-idx3-ubyte{suffix}")

    with pytest.raises(DataError, match="may declare"):
        read_idx(path, 3)


def test_a_gzip_stream_without_its_end_is_called_cut_short(tmp_path: Path) -> None:
    content = gzip.compress(idx_bytes(random_pixels(40)[:, 0]))
    path = _idx_file(tmp_path, content[:-200], "train-images-idx3-ubyte.gz")

    with pytest.raises(DataError, match="cut short"):
        read_idx(path, 3)


def test_a_single_idx_file_is_refused_with_the_way_to_read_it(tmp_path: Path) -> None:
    write_idx(tmp_path, random_pixels(4), cyclic_labels(4))

    with pytest.raises(DataError) as caught:
        load(str(tmp_path / "train-images-idx3-ubyte.gz"))

    assert "give the folder that holds both" in str(caught.value.hint)
