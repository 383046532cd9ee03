"""Every network that gates can choose is priced, and its latency is the sum of what was measured."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.nn.cut import Choice, cut_spec, keep_everything
from edgekit.nn.families import separable_network
from edgekit.nn.latency import KeptCounts
from edgekit.nn.structure import Structure, analyse
from edgekit.profile.predict import PriceTable
from edgekit.train.pricing import (
    choice_from_counts,
    group_sizes,
    mac_latency,
    measured_latency,
    priced_units,
    random_networks,
    unit_grid,
    widths_of,
)
from edgekit.types import Correction, NetworkSpec, NumberFormat
from tests.nn.networks import family_specs, user_specs
from tests.profile import networks as profiles
from tests.train import small

CORRECTION = Correction(overhead_us=7.0, scale=1.25, network_count=12, median_error=0.03, max_error=0.1)
SPECS = st.one_of(user_specs(), family_specs())


def prices(structure: Structure, number_format: NumberFormat = "fp32") -> PriceTable:
    """A profile in which every unit has a time of its own."""
    units = priced_units(structure, number_format)
    fitted = profiles.correction_of(structure.spec.in_format(number_format), CORRECTION, group_sizes(structure))
    return PriceTable(profiles.profile({unit: 1.0 + 0.37 * i for i, unit in enumerate(units)}, [fitted]))


@st.composite
def choices_by_count(draw: st.DrawFn, structure: Structure) -> Choice:
    """Any counts, with the groups of each space in any order, and any blocks."""
    groups = tuple(draw(st.integers(1, x.group_count)) if x.is_droppable else x.group_count for x in structure.spaces)
    blocks = tuple(draw(st.booleans()) for _ in structure.blocks)
    order = [draw(st.permutations(range(x.group_count))) for x in structure.spaces]
    return choice_from_counts(structure, KeptCounts(groups, blocks), order)


@given(data=st.data(), spec=SPECS, group_size=st.integers(1, 3))
@settings(max_examples=60)
def test_every_unit_of_every_cut_is_priced(data: st.DataObject, spec: NetworkSpec, group_size: int) -> None:
    structure = analyse(spec, group_size)
    choice = data.draw(choices_by_count(structure))

    units = {layer.unit for layer in cut_spec(structure, choice).layers}

    assert units <= set(priced_units(structure, "fp32"))


@given(spec=SPECS, seed=st.integers(0, 99))
@settings(max_examples=20)
def test_networks_for_the_correction_are_priced_too(spec: NetworkSpec, seed: int) -> None:
    structure = analyse(spec, 2)

    units = {layer.unit for network in random_networks(structure, 4, seed) for layer in network.layers}

    assert units <= set(priced_units(structure, "fp32"))


def test_no_unit_is_priced_twice() -> None:
    units = priced_units(small.structure(), "int8")

    assert len(set(units)) == len(units)


def test_units_are_priced_in_the_format_that_is_asked_for() -> None:
    assert {unit.number_format for unit in priced_units(small.structure(), "int8")} == {"int8"}


@given(data=st.data(), number_format=st.sampled_from(["fp32", "int8"]))
@settings(max_examples=15)
def test_the_latency_of_a_choice_is_the_prediction_of_its_network(
    data: st.DataObject, number_format: NumberFormat
) -> None:
    structure = small.structure()
    table = prices(structure, number_format)
    groups = tuple(
        data.draw(st.integers(1, x.group_count)) if x.is_droppable else x.group_count for x in structure.spaces
    )
    kept = KeptCounts(groups, (True,) * len(structure.blocks))

    latency_us = measured_latency(structure, table, number_format).latency_us(kept)

    network = cut_spec(structure, choice_from_counts(structure, kept)).in_format(number_format)
    assert latency_us == pytest.approx(table.network(network).latency_us)


def test_a_dropped_block_costs_nothing() -> None:
    structure = small.structure()
    table = prices(structure)
    model = measured_latency(structure, table, "fp32")
    full = model.full()
    without = KeptCounts(full.groups, (False, *full.blocks[1:]))

    saved_us = model.latency_us(full) - model.latency_us(without)

    gone = [structure.spec.layer(name).unit for name in (*structure.blocks[0].branch, structure.blocks[0].add)]
    assert saved_us == pytest.approx(1.25 * sum(table.unit_us(unit)[0] for unit in gone))


@given(spec=SPECS, dense_us=st.floats(1, 1e6))
@settings(max_examples=20)
def test_macs_are_scaled_to_the_time_of_the_dense_network(spec: NetworkSpec, dense_us: float) -> None:
    model = mac_latency(analyse(spec, 2), dense_us)

    assert model.latency_us(model.full()) == pytest.approx(dense_us)


def test_macs_of_a_choice_are_those_of_its_network() -> None:
    structure = small.structure()
    model = mac_latency(structure, 1000.0)
    kept = KeptCounts(tuple(max(1, x.group_count // 2) for x in structure.spaces), (True,) * len(structure.blocks))

    share = model.latency_us(kept) / 1000.0

    network = cut_spec(structure, choice_from_counts(structure, kept))
    assert share == pytest.approx(network.mac_count / structure.spec.mac_count)


def test_the_widths_of_a_space_are_whole_groups_and_its_last_one() -> None:
    structure = analyse(separable_network((10, 8), (2, 8, 8), 3), 4)
    space = structure.output_space["stem"]

    assert widths_of(structure, space) == (4, 8, 10)


def test_a_layer_within_one_space_has_one_row_of_units() -> None:
    structure = analyse(separable_network((8, 8), (2, 8, 8), 3), 4)

    grid = unit_grid(structure, structure.spec.layer("pair1.depthwise"))

    assert [[unit.groups for unit in row] for row in grid] == [[4, 8]]


def test_counts_become_the_first_groups_in_order() -> None:
    structure = small.structure()
    space = next(i for i, x in enumerate(structure.spaces) if x.is_droppable and x.group_count >= 2)
    counts = tuple(1 if i == space else x.group_count for i, x in enumerate(structure.spaces))
    order = [list(reversed(range(x.group_count))) for x in structure.spaces]

    choice = choice_from_counts(structure, KeptCounts(counts, (True,) * len(structure.blocks)), order)

    last = structure.spaces[space].channels_of_group(structure.spaces[space].group_count - 1)
    assert choice.channels[space] == tuple(last)


def test_a_last_group_of_fewer_channels_only_stays_when_all_do() -> None:
    structure = analyse(separable_network((10, 8), (2, 8, 8), 3), 4)
    space, full = structure.output_space["stem"], mac_latency(structure, 1.0).full()
    counts = KeptCounts(tuple(1 if i == space else n for i, n in enumerate(full.groups)), full.blocks)

    choice = choice_from_counts(structure, counts, [list(reversed(range(x.group_count))) for x in structure.spaces])

    assert choice.channels[space] == (4, 5, 6, 7)


def test_full_counts_keep_everything() -> None:
    structure = small.structure()
    full = mac_latency(structure, 1.0).full()

    assert choice_from_counts(structure, full) == keep_everything(structure)


def test_blocks_that_do_not_stay_are_dropped() -> None:
    structure = small.structure()
    full = mac_latency(structure, 1.0).full()

    choice = choice_from_counts(structure, KeptCounts(full.groups, (False, *full.blocks[1:])))

    assert choice == Choice(keep_everything(structure).channels, frozenset({structure.blocks[0].add}))


def test_networks_for_the_correction_are_repeatable_and_differ_in_size() -> None:
    first, second = (random_networks(small.structure(), 8, seed=3) for _ in range(2))

    assert first == second and len({network.mac_count for network in first}) > 4
