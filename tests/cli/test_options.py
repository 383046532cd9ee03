"""Option values: what is taken, and that everything else is a usage error that says what is allowed."""

from __future__ import annotations

import string
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.cli.options import IMAGE_SIZE, INPUT_SHAPE, MAX_DIMENSION, NUMBERS, RUN, RUN_NAME, SETTING

SIZES = st.integers(1, MAX_DIMENSION)


@given(st.tuples(SIZES, SIZES, SIZES))
def test_a_shape_is_read_as_it_was_written(shape: tuple[int, int, int]) -> None:
    assert INPUT_SHAPE.convert("x".join(map(str, shape)), None, None) == shape


@given(st.text(alphabet=string.digits + "x-+. ٣", max_size=12))
def test_any_other_text_is_no_image_size(text: str) -> None:
    try:
        size = IMAGE_SIZE.convert(text, None, None)
    except click.BadParameter:
        return
    height, width = text.split("x")
    assert size == (int(height), int(width)) and min(size) >= 1 and max(size) <= MAX_DIMENSION


@pytest.mark.parametrize("text", ["0x28x28", "1x28x99999", "28x28", "1x28x28x1", "-1x28x28", "1x28x", "axbxc", ""])
def test_a_shape_out_of_bounds_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        INPUT_SHAPE.convert(text, None, None)


@given(st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=5))
def test_numbers_are_read_as_they_were_written(numbers: list[float]) -> None:
    assert NUMBERS.convert(",".join(map(repr, numbers)), None, None) == tuple(numbers)


@pytest.mark.parametrize("text", ["", "1,,2", "nan", "inf", "1,-inf", "0", "-1", "one", "1;2"])
def test_a_list_with_anything_but_positive_numbers_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="number"):
        NUMBERS.convert(text, None, None)


def test_a_setting_has_a_name_and_a_value() -> None:
    assert SETTING.convert("search-share = 0.3", None, None) == ("search_share", "0.3")


@pytest.mark.parametrize("text", ["", "search_share", "=0.3"])
def test_a_setting_without_one_of_them_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="NAME=VALUE"):
        SETTING.convert(text, None, None)


@pytest.mark.parametrize("named", ["first", "runs/first"])
def test_a_run_is_found_by_name_and_by_directory(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/first").mkdir(parents=True)

    assert RUN.convert(named, None, None) == Path("runs/first")


def test_a_run_that_is_not_there_is_refused_with_the_nearest_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/first").mkdir(parents=True)

    with pytest.raises(click.BadParameter, match="did you mean first"):
        RUN.convert("frist", None, None)


@pytest.mark.parametrize("name", ["", "..", "../first", "a/b", ".hidden", "-x", "a b", "a\n", "x" * 129])
def test_a_name_that_leads_out_of_the_folder_of_runs_is_refused(name: str) -> None:
    with pytest.raises(click.BadParameter, match="a name is"):
        RUN_NAME.convert(name, None, None)
