"""Units whose input and output must have equal channels have one width; the others have two."""

from __future__ import annotations

import pytest

from edgekit.profile.units import is_tied, widths
from edgekit.types import UnitSpec
from tests.profile.networks import add, conv, dense, flatten, global_pool

_TIED = [
    conv(8, 8, 8, groups=8, stride=2),
    add(8, 8),
    flatten(8, 4),
    global_pool(8, 4),
    UnitSpec(kind="max_pool", input_shape=(8, 8, 8), output_shape=(8, 4, 4), kernel=(2, 2), stride=(2, 2)),
    UnitSpec(kind="scale", input_shape=(8, 8, 8), output_shape=(8, 8, 8)),
    UnitSpec(kind="activation", input_shape=(8,), output_shape=(8,), activation="relu6"),
]


@pytest.mark.parametrize("unit", _TIED, ids=lambda unit: unit.kind)
def test_a_tied_unit_has_the_width_of_its_input_twice(unit: UnitSpec) -> None:
    assert is_tied(unit) and widths(unit) == (8, 8)


@pytest.mark.parametrize(
    "unit", [conv(8, 8, 16), conv(8, 8, 16, groups=4), dense(8, 16)], ids=["conv", "grouped", "dense"]
)
def test_any_other_unit_has_a_width_for_input_and_output(unit: UnitSpec) -> None:
    assert not is_tied(unit) and widths(unit) == (8, 16)
