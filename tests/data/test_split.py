"""Stratified splits and subsamples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.data.split import Split, split, subsample
from edgekit.errors import DataError, UsageError

COUNTS = st.lists(st.integers(3, 40), min_size=1, max_size=6)
FRACTION = st.floats(0.0, 0.49)
SEED = st.integers(0, 2**32)


def _labels(counts: list[int]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.repeat(np.arange(len(counts)), counts)


def _split(counts: list[int], seed: int = 0, validation: float = 0.1, test: float = 0.2) -> Split:
    names = [f"class {index}" for index in range(len(counts))]
    return split(_labels(counts), names, seed=seed, validation_fraction=validation, test_fraction=test)


@given(counts=COUNTS, seed=SEED, validation=FRACTION, test=FRACTION)
def test_every_sample_is_in_exactly_one_part(counts: list[int], seed: int, validation: float, test: float) -> None:
    parts = _split(counts, seed, validation, test)

    assert np.array_equal(np.sort(np.concatenate([parts.train, parts.validation, parts.test])), np.arange(sum(counts)))


@given(counts=COUNTS, seed=SEED, validation=FRACTION, test=FRACTION)
def test_every_class_is_in_every_part_that_is_drawn(
    counts: list[int], seed: int, validation: float, test: float
) -> None:
    parts = _split(counts, seed, validation, test)
    drawn = [parts.train] + [parts.validation] * (validation > 0) + [parts.test] * (test > 0)

    assert all(set(_labels(counts)[part]) == set(range(len(counts))) for part in drawn)


@given(counts=st.lists(st.integers(20, 60), min_size=1, max_size=4), test=st.floats(0.1, 0.4))
def test_each_class_gives_its_fraction(counts: list[int], test: float) -> None:
    parts = _split(counts, test=test)

    assert np.bincount(_labels(counts)[parts.test]).tolist() == [round(test * count) for count in counts]


def test_the_same_seed_gives_the_same_parts() -> None:
    first, second = _split([30, 30], seed=7), _split([30, 30], seed=7)

    assert np.array_equal(first.test, second.test) and np.array_equal(first.validation, second.validation)


def test_another_seed_gives_other_parts() -> None:
    assert not np.array_equal(_split([30, 30], seed=7).test, _split([30, 30], seed=8).test)


def test_the_test_part_does_not_depend_on_the_validation_fraction() -> None:
    assert np.array_equal(_split([30, 30], validation=0.1).test, _split([30, 30], validation=0.3).test)


def test_a_fraction_of_zero_draws_nothing() -> None:
    assert len(_split([5, 5], validation=0.0).validation) == 0


def test_a_part_that_is_given_is_kept_and_not_added_to() -> None:
    given_test = np.array([1, 9])

    parts = split(_labels([5, 5]), ["a", "b"], seed=0, validation_fraction=0.2, test_fraction=0.2, test=given_test)

    assert np.array_equal(parts.test, given_test) and len(parts.validation) == 2


def test_a_class_with_too_few_samples_is_refused_by_name_and_number() -> None:
    with pytest.raises(DataError, match="'class 1' has 2 samples and cannot be split; allowed are 3 or more"):
        _split([9, 2])


def test_two_samples_are_enough_where_only_one_part_is_drawn() -> None:
    assert len(_split([9, 2], validation=0.0).test) == 3


def test_a_class_that_only_the_given_test_part_has_is_refused() -> None:
    with pytest.raises(DataError, match="'b' has samples to validate or test and none to train"):
        split(_labels([5, 2]), ["a", "b"], seed=0, validation_fraction=0.2, test_fraction=0.0, test=np.array([5, 6]))


@pytest.mark.parametrize(("validation", "test"), [(-0.1, 0.2), (0.1, 1.0), (0.5, 0.5), (float("nan"), 0.1)])
def test_fractions_that_leave_nothing_to_train_are_refused(validation: float, test: float) -> None:
    with pytest.raises(UsageError):
        _split([9, 9], validation=validation, test=test)


@given(counts=COUNTS, data=st.data())
def test_a_subsample_has_exactly_the_limit_and_every_stratum(counts: list[int], data: st.DataObject) -> None:
    limit = data.draw(st.integers(len(counts), sum(counts)))

    kept = subsample(_labels(counts), limit, seed=0)

    assert len(np.unique(kept)) == limit and set(_labels(counts)[kept]) == set(range(len(counts)))


def test_a_subsample_keeps_the_proportions() -> None:
    kept = subsample(_labels([600, 300, 100]), 100, seed=0)

    assert np.bincount(_labels([600, 300, 100])[kept]).tolist() == pytest.approx([60, 30, 10], abs=1)


def test_fractions_that_round_up_still_leave_one_sample_to_train() -> None:
    parts = _split([3], validation=0.3, test=0.6)

    assert [len(parts.train), len(parts.validation), len(parts.test)] == [1, 1, 1]


def test_a_class_that_is_too_small_says_how_a_test_part_is_given() -> None:
    with pytest.raises(DataError) as caught:
        _split([30, 1])

    assert all(form in str(caught.value.hint) for form in ("train/ and test/", "t10k-", "x_test", "train.md"))
