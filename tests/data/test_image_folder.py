"""Folders of image files: layouts, damaged files, odd names, mixed sizes and colours."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data import load
from edgekit.data._base import ReadOptions
from edgekit.data.image_folder import ImageFolderReader
from edgekit.errors import DataError, UsageError
from edgekit.run.inputs import ImageSource, find_images
from edgekit.types import Progress
from tests.data.conformance import ReaderConformance
from tests.data.sources import Labels, Pixels, cyclic_labels, random_pixels, write_folder, write_image

READER = ImageFolderReader()


class TestImageFolderReader(ReaderConformance):
    reader = READER

    def write(self, folder: Path, pixels: Pixels, labels: Labels) -> Path:
        return write_folder(folder, pixels, labels)


class TestColourImageFolderReader(TestImageFolderReader):
    shape = (3, 4, 7)


def _two_classes(root: Path, count: int = 8, shape: tuple[int, int, int] = (1, 6, 5)) -> Path:
    return write_folder(root, random_pixels(count, shape), cyclic_labels(count))


def test_class_names_are_the_sorted_folder_names(tmp_path: Path) -> None:
    for name in ("zebra", "ape", "Ünï çødé"):
        write_image(tmp_path / name / "a.png", random_pixels(1)[0])

    assert READER.read(tmp_path, ReadOptions()).class_names == ("ape", "zebra", "Ünï çødé")


def test_train_and_test_folders_are_kept_apart(tmp_path: Path) -> None:
    _two_classes(tmp_path / "train", 6)
    _two_classes(tmp_path / "test", 4)

    samples = READER.read(tmp_path, ReadOptions())

    assert (len(samples.labels), len(samples.test), len(samples.validation)) == (10, 4, 0)


@pytest.mark.parametrize("name", ["validation", "val", "valid"])
def test_a_validation_folder_beside_train_is_the_validation_part(tmp_path: Path, name: str) -> None:
    _two_classes(tmp_path / "train", 6)
    _two_classes(tmp_path / name, 4)

    assert len(READER.read(tmp_path, ReadOptions()).validation) == 4


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "a.png", random_pixels(1)[0])
    write_image(tmp_path / "plane" / "a.png", random_pixels(1)[0])

    assert READER.read(tmp_path, ReadOptions()).class_names == ("plane", "train")


def test_an_unknown_folder_beside_train_is_refused(tmp_path: Path) -> None:
    _two_classes(tmp_path / "train")
    (tmp_path / "extra").mkdir()

    with pytest.raises(DataError, match=r"extra.*allowed beside train"):
        READER.read(tmp_path, ReadOptions())


def test_a_class_that_only_test_has_is_refused(tmp_path: Path) -> None:
    _two_classes(tmp_path / "train")
    write_image(tmp_path / "test" / "stranger" / "a.png", random_pixels(1)[0])

    with pytest.raises(DataError, match="stranger"):
        READER.read(tmp_path, ReadOptions())


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no class folders"):
        READER.read(tmp_path, ReadOptions())


def test_images_without_class_folders_are_refused_with_a_hint(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", random_pixels(1)[0])

    with pytest.raises(DataError) as caught:
        READER.read(tmp_path, ReadOptions())

    assert "sub-folder named as the class" in str(caught.value.hint)


def test_an_empty_class_folder_is_refused_by_name(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    (tmp_path / "nothing-here").mkdir()

    with pytest.raises(DataError, match="nothing-here"):
        READER.read(tmp_path, ReadOptions())


def test_a_single_class_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "only" / "a.png", random_pixels(1)[0])

    with pytest.raises(DataError, match="one class 'only'"):
        load(str(tmp_path))


def test_a_class_with_one_image_cannot_be_split(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    write_image(tmp_path / "rare" / "a.png", random_pixels(1)[0])

    with pytest.raises(DataError, match=r"'rare' has 1 sample and cannot be split; allowed are 3 or more"):
        load(str(tmp_path))


def test_a_truncated_png_is_skipped_counted_and_listed(tmp_path: Path) -> None:
    _two_classes(tmp_path, 20)
    damaged = write_image(tmp_path / "class-0" / "cut.png", random_pixels(1)[0])
    damaged.write_bytes(damaged.read_bytes()[:-40])

    dataset = load(str(tmp_path))

    assert (dataset.skipped_count, dataset.skipped[0].path, len(dataset.labels)) == (1, str(damaged), 20)


def test_a_class_whose_images_are_all_damaged_is_refused_with_the_reason(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    (tmp_path / "class-2").mkdir()
    (tmp_path / "class-2" / "a.png").write_bytes(b"no image")

    with pytest.raises(DataError, match=r"'class-2'.*none of the image formats"):
        READER.read(tmp_path, ReadOptions())


def test_files_that_the_runner_would_not_take_for_images_are_no_skipped_images(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    (tmp_path / "class-0" / "notes.txt").write_text("x")
    (tmp_path / "class-0" / ".DS_Store").write_text("x")
    (tmp_path / "class-0" / "damaged.png").write_text("x")

    skipped = READER.read(tmp_path, ReadOptions()).skipped

    taken = [source.path for source in find_images([str(tmp_path)]) if isinstance(source, ImageSource)]
    assert [entry.path for entry in skipped] == [path for path in taken if path.endswith("damaged.png")]


def test_a_class_without_images_says_which_suffixes_count(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    (tmp_path / "class-9").mkdir()
    (tmp_path / "class-9" / "a.heic").write_text("x")

    with pytest.raises(DataError, match="class-9") as caught:
        READER.read(tmp_path, ReadOptions())

    assert ".jpg" in str(caught.value.hint)


def test_mixed_sizes_are_refused_with_both_files_and_the_way_out(tmp_path: Path) -> None:
    _two_classes(tmp_path, shape=(1, 6, 5))
    write_image(tmp_path / "class-0" / "zz.png", random_pixels(1, (1, 9, 5))[0])

    with pytest.raises(DataError, match=r"6x5 pixels.*zz\.png' 9x5") as caught:
        load(str(tmp_path))

    assert str(caught.value.hint).endswith("--image-size 6x5")


def test_mixed_sizes_are_resized_when_a_size_is_given(tmp_path: Path) -> None:
    _two_classes(tmp_path, shape=(1, 6, 5))
    write_image(tmp_path / "class-0" / "zz.png", random_pixels(1, (1, 9, 5))[0])

    assert load(str(tmp_path), image_size=(8, 7)).input_shape == (1, 8, 7)


def test_one_colour_image_makes_all_of_them_colour(tmp_path: Path) -> None:
    _two_classes(tmp_path, shape=(1, 6, 5))
    write_image(tmp_path / "class-1" / "zz.png", random_pixels(1, (3, 6, 5))[0])

    images = READER.read(tmp_path, ReadOptions()).images

    assert images.shape[1] == 3 and np.array_equal(images[0, 0], images[0, 2])


def test_names_with_line_feeds_are_read(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    write_image(tmp_path / "class\nfeed" / "im\nage ☃.png", random_pixels(1)[0])

    assert "class\nfeed" in READER.read(tmp_path, ReadOptions()).class_names


def test_a_message_about_a_name_with_a_line_feed_stays_on_one_line(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    (tmp_path / "class\nfeed").mkdir()

    with pytest.raises(DataError) as caught:
        READER.read(tmp_path, ReadOptions())

    assert "\n" not in caught.value.message


def test_a_class_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    try:
        os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    except OSError:
        pytest.skip("this file system only takes UTF-8 names")

    with pytest.raises(DataError, match="not valid UTF-8"):
        READER.read(tmp_path, ReadOptions())


def test_a_named_pipe_is_skipped_and_not_waited_for(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    os.mkfifo(tmp_path / "class-0" / "pipe.png")

    assert READER.read(tmp_path, ReadOptions()).skipped[0].reason == "it is not a regular file"


def test_a_limit_keeps_all_classes_and_decodes_no_more(tmp_path: Path) -> None:
    write_folder(tmp_path, random_pixels(30), cyclic_labels(30, 3))
    totals: list[float] = []

    def watch(progress: Progress) -> None:
        totals.append(progress.total)

    samples = READER.read(tmp_path, ReadOptions(limit=9, progress=watch))

    assert (np.bincount(samples.labels).tolist(), totals[0]) == ([3, 3, 3], 9)


def test_a_limit_below_the_number_of_classes_is_refused(tmp_path: Path) -> None:
    _two_classes(tmp_path)

    with pytest.raises(UsageError, match="at least 2"):
        load(str(tmp_path), limit=1)


def test_a_decompression_bomb_is_skipped(tmp_path: Path) -> None:
    _two_classes(tmp_path)
    Image.new("1", (9000, 9000)).save(tmp_path / "class-0" / "bomb.png")

    assert "9000 x 9000 pixels" in READER.read(tmp_path, ReadOptions()).skipped[0].reason
