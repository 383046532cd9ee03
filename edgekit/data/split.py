"""Which samples train, which validate and which test, and which are kept at all: seeded and stratified by class.

Only indices and labels are seen here, never an image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.data._base import IndexArray, no_indices
from edgekit.errors import DataError, UsageError

Labels = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Split:
    """Sorted, disjoint indices of the samples."""

    train: IndexArray
    validation: IndexArray
    test: IndexArray


def split(
    labels: Labels,
    class_names: Sequence[str],
    *,
    seed: int,
    validation_fraction: float,
    test_fraction: float,
    validation: IndexArray | None = None,
    test: IndexArray | None = None,
) -> Split:
    """Give every sample to one part.

    A part that the source gives (``validation``, ``test``) is kept as it is and nothing more is drawn for it. Any
    other is drawn class by class: ``round(fraction * samples of the class that are not given away)``, but at least
    one; a fraction of 0 draws none. The test part does not depend on the validation
    fraction, but in classes too small for both. Raises DataError for a
    class with fewer samples than there are parts to fill, UsageError for a fraction outside [0, 1).
    """
    _check_fractions(validation_fraction, test_fraction)
    given_validation = no_indices() if validation is None else validation
    given_test = no_indices() if test is None else test
    fractions = (0.0 if len(given_test) else test_fraction, 0.0 if len(given_validation) else validation_fraction)
    pool = np.setdiff1d(np.arange(len(labels)), np.concatenate([given_validation, given_test]))
    _check_given(labels, class_names, pool)
    rng = np.random.default_rng(seed)
    parts = [_draw(rng.permutation(members), fractions, name) for members, name in _members(labels, class_names, pool)]
    drawn_test, drawn_validation, train = (np.sort(np.concatenate(part)) for part in zip(*parts, strict=True))
    return Split(
        train=train,
        validation=np.sort(given_validation) if len(given_validation) else drawn_validation,
        test=np.sort(given_test) if len(given_test) else drawn_test,
    )


def subsample(strata: NDArray[np.int64], limit: int, seed: int) -> IndexArray:
    """Sorted indices of at most ``limit`` samples, drawn in proportion from every stratum and at least one from each.

    Raises UsageError if ``limit`` is smaller than the number of strata.
    """
    if limit >= len(strata):
        return np.arange(len(strata))
    values, counts = np.unique(strata, return_counts=True)
    if limit < len(values):
        raise UsageError(
            f"limit is {limit}; allowed is at least {len(values)}, one sample of each class in each given part"
        )
    rng = np.random.default_rng(seed)
    kept = [
        rng.permutation(np.flatnonzero(strata == value))[:share]
        for value, share in zip(values, _shares(counts, limit), strict=True)
    ]
    return np.sort(np.concatenate(kept))


def _shares(counts: NDArray[np.int64], limit: int) -> NDArray[np.int64]:
    """One for each stratum, the rest in proportion to what is left in it, by the largest remainder."""
    left = counts - 1
    exact = left * ((limit - len(counts)) / left.sum())
    shares = np.floor(exact).astype(np.int64)
    missing = limit - len(counts) - int(shares.sum())
    shares[np.argsort(shares - exact, kind="stable")[:missing]] += 1
    return np.asarray(shares + 1, dtype=np.int64)


def _check_fractions(validation_fraction: float, test_fraction: float) -> None:
    for name, value in (("validation_fraction", validation_fraction), ("test_fraction", test_fraction)):
        if not 0.0 <= value < 1.0:
            raise UsageError(f"{name} is {value}; allowed is 0 to less than 1")
    if validation_fraction + test_fraction >= 1.0:
        both = validation_fraction + test_fraction
        raise UsageError(f"validation_fraction and test_fraction add up to {both}; allowed is less than 1")


def _check_given(labels: Labels, class_names: Sequence[str], pool: IndexArray) -> None:
    unknown = np.setdiff1d(labels, labels[pool])
    if len(unknown):
        raise DataError(
            f"class {class_names[int(unknown[0])]!r} has samples to validate or test and none to train; "
            f"allowed is one or more to train"
        )


def _members(labels: Labels, class_names: Sequence[str], pool: IndexArray) -> list[tuple[IndexArray, str]]:
    return [(pool[labels[pool] == label], class_names[int(label)]) for label in np.unique(labels[pool])]


def _draw(members: IndexArray, fractions: tuple[float, float], name: str) -> tuple[IndexArray, IndexArray, IndexArray]:
    needed = 1 + sum(fraction > 0 for fraction in fractions)
    if len(members) < needed:
        raise DataError(
            f"class {name!r} has {len(members)} sample{'s' if len(members) > 1 else ''} and cannot be split; "
            f"allowed are {needed} or more: one for each of the {needed} parts",
            "add samples, leave the class out, or give a test part: folders train/ and test/ with the class folders in "
            "them, t10k-* beside train-* of IDX, x_test and y_test of .npz (docs/commands/train.md)",
        )
    counts = [max(1, round(fraction * len(members))) if fraction else 0 for fraction in fractions]
    # Rounding up a small class may leave nothing to train: the larger drawn part gives way.
    while sum(counts) >= len(members):
        counts[counts.index(max(counts))] -= 1
    test_count, validation_count = counts
    end = test_count + validation_count
    return members[:test_count], members[test_count:end], members[end:]
