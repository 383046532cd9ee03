"""What every reader of labelled images must do; a new one names itself and a way to write a source."""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.data._base import Reader, ReadOptions, Samples
from edgekit.errors import DataError
from tests.data.sources import Labels, Pixels, cyclic_labels, random_pixels

COUNT = 8


class ReaderConformance(ABC):
    reader: Reader
    shape: tuple[int, int, int] = (1, 6, 5)

    @abstractmethod
    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        """Write a source of two classes into the empty ``folder``; the path that is read."""

    def sample_source(self, folder: Path) -> Path:
        return self.write(folder, random_pixels(COUNT, self.shape), cyclic_labels(COUNT))

    def read(self, folder: Path) -> Samples:
        return self.reader.read(self.sample_source(folder), ReadOptions())

    def test_recognises_its_own_format(self, tmp_path: Path) -> None:
        assert self.reader.recognises(self.sample_source(tmp_path))

    def test_does_not_recognise_a_text_file(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("no data")

        assert not self.reader.recognises(tmp_path / "notes.txt")

    def test_reads_the_pixels_exactly(self, tmp_path: Path) -> None:
        samples = self.read(tmp_path)

        assert sorted(image.tobytes() for image in samples.images) == sorted(
            image.tobytes() for image in random_pixels(COUNT, self.shape)
        )

    def test_puts_samples_first_then_channels_height_and_width(self, tmp_path: Path) -> None:
        samples = self.read(tmp_path)

        assert samples.images.shape == (COUNT, *self.shape) and samples.images.dtype == np.dtype(np.uint8)

    def test_keeps_each_label_with_its_image(self, tmp_path: Path) -> None:
        written = dict(zip((i.tobytes() for i in random_pixels(COUNT, self.shape)), cyclic_labels(COUNT), strict=True))
        samples = self.read(tmp_path)

        read = {image.tobytes(): label for image, label in zip(samples.images, samples.labels, strict=True)}

        assert read == written

    def test_labels_are_int64_indices_of_the_class_names(self, tmp_path: Path) -> None:
        samples = self.read(tmp_path)

        assert samples.labels.dtype == np.int64 and samples.labels.max() < len(samples.class_names)

    def test_reads_the_same_twice(self, tmp_path: Path) -> None:
        path = self.sample_source(tmp_path)

        first, second = (self.reader.read(path, ReadOptions()) for _ in range(2))

        assert np.array_equal(first.images, second.images)

    @pytest.mark.parametrize("kept", [0.0, 0.5, 0.75])
    def test_says_so_when_a_file_is_cut_short(self, tmp_path: Path, kept: float) -> None:
        path = self.sample_source(tmp_path)
        file = _largest_file(tmp_path)
        file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])

        assert file.name in self.complaint(path)

    @given(position=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), width=st.integers(1, 16))
    # Each reader runs the suite with sources of its own: an example of one means nothing to another, and harms nothing.
    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    def test_only_raises_data_errors_for_damaged_files(self, position: float, value: int, width: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = self.sample_source(Path(folder))
            file = _largest_file(Path(folder))
            content = bytearray(file.read_bytes())
            start = int(position * len(content))
            content[start : start + width] = bytes([value]) * width
            file.write_bytes(content)

            complaint = self.complaint(path)

        assert isinstance(complaint, str)

    def complaint(self, path: Path) -> str:
        """What the reader says about a source: its error, or the list of files that it skipped."""
        try:
            return str(self.reader.read(path, ReadOptions()).skipped)
        except DataError as error:
            return error.message


def _largest_file(folder: Path) -> Path:
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
