"""Two profiles are compared unit by unit, the largest change first; units in one alone and other machines are told."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import msgspec
import pytest

from edgekit.profile.compare import describe_fully, diff, unit_rows
from edgekit.profile.yardstick import YARDSTICK
from edgekit.types import Correction, Profile, UnitSpec
from tests.profile.networks import (
    MACHINE,
    add,
    conv,
    correction_of,
    dense,
    flatten,
    global_pool,
    profile,
    residual,
    timing,
)

SMALL, LARGE, ADD = conv(8, 8, 8), conv(16, 8, 16), add(8, 8)


def wide(prices: Mapping[UnitSpec, float], spread: float) -> Profile:
    """A profile whose framed times spread by ``spread`` in both directions."""
    exact = profile(prices)
    units = [
        msgspec.structs.replace(
            found,
            framed=msgspec.structs.replace(
                found.framed,
                min_us=found.framed.median_us * (1 - spread),
                p10_us=found.framed.median_us * (1 - spread),
                p90_us=found.framed.median_us * (1 + spread),
            ),
        )
        for found in exact.units
    ]
    return msgspec.structs.replace(exact, units=tuple(units))


def test_rows_are_sorted_by_time_and_shares_add_up() -> None:
    rows = unit_rows(profile({SMALL: 1.0, LARGE: 6.0, ADD: 3.0}))

    assert [row.us for row in rows] == pytest.approx([6.0, 3.0, 1.0])
    assert [row.share for row in rows] == pytest.approx([0.6, 0.3, 0.1])


def test_a_row_tells_the_unit_in_words_and_its_spread() -> None:
    (row,) = unit_rows(wide({LARGE: 5.0}, 0.1))

    assert row.unit == "fp32 conv 16x8x8 -> 16x8x8 kernel 3x3 stride 1x1 padding 1/1/1/1 relu"
    assert [row.p10_us, row.us, row.p90_us] == pytest.approx([4.0, 5.0, 6.0])


def test_cold_times_are_shown_where_they_were_taken() -> None:
    measured = profile({SMALL: 1.0, LARGE: 2.0})
    first = msgspec.structs.replace(measured.units[0], cold=timing(40.0))

    rows = unit_rows(msgspec.structs.replace(measured, units=(first, measured.units[1])))

    assert [row.cold_us for row in rows] == [None, 40.0]


def test_the_yardstick_is_marked() -> None:
    assert [row.is_yardstick for row in unit_rows(profile({YARDSTICK: 2.0, SMALL: 1.0}))] == [True, False]


def test_a_profile_in_which_nothing_takes_time_has_no_shares() -> None:
    assert unit_rows(profile({ADD: 0.0}))[0].share == 0.0


def test_units_in_both_are_sorted_by_the_size_of_their_change() -> None:
    old, new = profile({SMALL: 10.0, LARGE: 10.0, ADD: 10.0}), profile({SMALL: 11.0, LARGE: 4.0, ADD: 15.0})

    changes = diff(old, new).changes

    assert [change.ratio for change in changes] == pytest.approx([0.4, 1.5, 1.1])
    assert diff(old, new).median_ratio == pytest.approx(1.1)


def test_what_is_within_noise_comes_last() -> None:
    old, new = wide({SMALL: 10.0, LARGE: 100.0}, 0.12), wide({SMALL: 12.0, LARGE: 150.0}, 0.12)
    steady = diff(profile({ADD: 1.0}), profile({ADD: 1.0}))

    assert [change.is_beyond_noise for change in diff(old, new).changes] == [True, False]
    assert not steady.changes[0].is_beyond_noise


def test_a_unit_without_time_has_no_ratio_and_still_counts_as_changed() -> None:
    changes = diff(profile({ADD: 0.0, SMALL: 1.0}), profile({ADD: 2.0, SMALL: 3.0})).changes

    assert [change.ratio for change in changes] == [None, pytest.approx(3.0)]


def test_units_in_one_alone_are_named() -> None:
    found = diff(profile({SMALL: 1.0, ADD: 1.0}), profile({ADD: 1.0, LARGE: 1.0}))

    assert (found.only_old, found.only_new) == ((describe_fully(SMALL),), (describe_fully(LARGE),))


def test_a_profile_does_not_differ_from_itself() -> None:
    whole = profile({SMALL: 1.0, ADD: 2.0})

    found = diff(whole, whole)

    assert (found.only_old, found.only_new, found.fields, found.source) == ((), (), (), ())
    assert [change.ratio for change in found.changes] == [1.0, 1.0]


def test_corrections_of_both_and_of_one_alone_are_paired_by_network() -> None:
    first = Correction(overhead_us=1.0, scale=1.0, network_count=3, median_error=0.1, max_error=0.2)
    second = msgspec.structs.replace(first, scale=1.2)
    other = msgspec.structs.replace(residual(), name="other")

    old = profile({}, [correction_of(residual(), first)])
    new = profile({}, [correction_of(residual(), second), correction_of(other, first)])

    changes = [(change.network, change.old, change.new) for change in diff(old, new).corrections]
    assert changes == [("residual", first, second), ("other", None, first)]


def test_another_machine_is_a_difference_and_a_reason() -> None:
    old = profile({SMALL: 1.0})
    machine = msgspec.structs.replace(MACHINE, cpu="Another CPU", governor="performance")

    found = diff(old, msgspec.structs.replace(old, machine=machine))

    assert {change.name: change.new for change in found.fields} == {
        "machine.cpu": "Another CPU",
        "machine.governor": "performance",
    }
    assert found.source == ("machine.cpu is 'Test CPU' there and 'Another CPU' here",)


def test_no_two_units_have_the_same_words() -> None:
    replace = msgspec.structs.replace
    units = [
        SMALL,
        LARGE,
        ADD,
        dense(8, 8),
        flatten(8, 8),
        global_pool(8, 8),
        SMALL.in_format("int8"),
        conv(8, 8, 8, groups=8),
        conv(8, 8, 8, activation="none"),
        replace(SMALL, padding=(2, 2, 0, 0)),
        replace(SMALL, dilation=(2, 2), padding=(2, 2, 2, 2)),
        replace(SMALL, weight_bits=4),
        replace(SMALL, weight_bits=1, activation_bits=1),
        replace(SMALL, sparsity_kind="block", sparsity_level=0.5),
        replace(ADD, stride=(2, 2)),
    ]

    words = [describe_fully(unit) for unit in units]

    assert [pair for pair in itertools.combinations(words, 2) if pair[0] == pair[1]] == []


def test_the_rows_can_be_written_as_json() -> None:
    whole = profile({SMALL: 1.0})

    assert msgspec.json.encode((unit_rows(whole), diff(whole, whole)))
