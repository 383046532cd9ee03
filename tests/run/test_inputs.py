"""What the runner takes for images, in which order, and how it reads ahead."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.run.inputs import ImageSource, find_images, read_ahead
from edgekit.run.outcomes import Failed
from tests.data.sources import cyclic_labels, random_pixels, write_idx, write_image


def _names(inputs: Iterable[str], lines: Iterable[str] | None = None) -> list[str]:
    return [found.path for found in find_images(inputs, lines) if isinstance(found, ImageSource)]


def _failures(*inputs: str) -> list[Failed]:
    return [found for found in find_images(inputs) if isinstance(found, Failed)]


def _write(folder: Path, *names: str) -> None:
    for name in names:
        write_image(folder / name, random_pixels(1)[0])


def test_files_come_in_the_order_in_which_they_were_named(tmp_path: Path) -> None:
    _write(tmp_path, "b.png", "a.png")
    named = [str(tmp_path / "b.png"), str(tmp_path / "a.png")]

    assert _names(named) == named


def test_a_folder_gives_all_images_below_it_sorted(tmp_path: Path) -> None:
    _write(tmp_path, "b.png", "a.JPG", "inner/c.png", ".hidden.png", ".cache/d.png")
    (tmp_path / "notes.txt").write_text("x")

    assert _names([str(tmp_path)]) == [str(tmp_path / name) for name in ("a.JPG", "b.png", "inner/c.png")]


def test_a_folder_without_images_is_a_failure(tmp_path: Path) -> None:
    assert _failures(str(tmp_path)) == [Failed(str(tmp_path), "the folder holds no image file")]


def test_a_pattern_gives_its_matches_sorted(tmp_path: Path) -> None:
    _write(tmp_path, "b1.png", "a1.png", "deep/a2.png")

    assert _names([str(tmp_path / "**" / "a*.png")]) == [str(tmp_path / "a1.png"), str(tmp_path / "deep" / "a2.png")]


def test_a_pattern_without_matches_is_a_failure(tmp_path: Path) -> None:
    assert _failures(str(tmp_path / "*.png"))[0].reason == "no file matches this pattern"


def test_a_file_whose_name_looks_like_a_pattern_is_that_file(tmp_path: Path) -> None:
    _write(tmp_path, "a[1].png", "a1.png")

    assert _names([str(tmp_path / "a[1].png")]) == [str(tmp_path / "a[1].png")]


def test_a_dash_reads_one_path_per_line_in_place() -> None:
    assert _names(["first.png", "-", "last.png"], ["one*.png", "", "two three.png"]) == [
        "first.png",
        "one*.png",
        "two three.png",
        "last.png",
    ]


def test_standard_input_may_hold_names_that_are_no_utf8(tmp_path: Path) -> None:
    (tmp_path / "names").write_bytes(b"a\xff.png\nlast.png")

    with _standard_input_from(tmp_path / "names"):
        names = _names(["-"])

    assert [os.fsencode(name) for name in names] == [b"a\xff.png", b"last.png"]


@contextmanager
def _standard_input_from(path: Path) -> Iterator[None]:
    kept = os.dup(0)
    try:
        with path.open("rb") as stream:
            os.dup2(stream.fileno(), 0)
            yield
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_an_empty_name_is_not_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _write(tmp_path, "a.png")
    monkeypatch.chdir(tmp_path)

    assert _names([""]) == [""]


def test_an_idx_file_gives_its_images_by_number(tmp_path: Path) -> None:
    pixels = random_pixels(3)
    path = write_idx(tmp_path, pixels, cyclic_labels(3)) / "train-images-idx3-ubyte.gz"

    found = [source for source in find_images([str(path)]) if isinstance(source, ImageSource)]

    assert [source.path for source in found] == [f"{path}#{index}" for index in range(3)]
    assert np.array_equal(found[2].decode((6, 5)), pixels[2])


def test_an_npz_file_gives_its_images_by_number(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", images=random_pixels(2))

    assert _names([str(tmp_path / "a.npz")]) == [f"{tmp_path / 'a.npz'}#0", f"{tmp_path / 'a.npz'}#1"]


@pytest.mark.parametrize("name", ["a.npz", "x-idx3-ubyte", "x-idx3-ubyte.gz"])
def test_a_damaged_array_file_is_a_failure(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"damaged")

    assert [failure.path for failure in _failures(str(tmp_path / name))] == [str(tmp_path / name)]


@given(items=st.lists(st.integers()), depth=st.integers(1, 4))
def test_reading_ahead_changes_neither_items_nor_order(items: list[int], depth: int) -> None:
    assert list(read_ahead(items, depth)) == items


def test_reading_ahead_raises_what_was_raised_after_what_came_before() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = read_ahead(broken(), 4)

    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_reading_ahead_gives_an_item_without_waiting_for_the_next() -> None:
    more = threading.Event()

    def slow() -> Iterator[int]:
        yield 1
        more.wait(10)
        yield 2

    ahead = read_ahead(slow(), 4)

    assert next(ahead) == 1
    assert not more.is_set()
    more.set()


def test_reading_ahead_stays_within_its_depth() -> None:
    taken: list[int] = []

    def counted() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    ahead = read_ahead(counted(), 3)
    next(ahead)
    time.sleep(0.2)
    ahead.close()

    # One was given, three wait in the queue, one is in the thread's hand.
    assert len(taken) <= 5


def test_closing_ends_the_thread() -> None:
    ahead = read_ahead(iter(range(100)), 2)
    next(ahead)
    threads = [thread for thread in threading.enumerate() if thread.name == "edgekit-read-ahead"]

    ahead.close()
    for thread in threads:
        thread.join(5)

    assert not any(thread.is_alive() for thread in threads)
