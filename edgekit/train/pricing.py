"""From a profile (or from MACs, for comparison) to the latency of everything that a network's gates can choose.

The arithmetic of choices is in ``nn.latency``, the measured numbers in ``profile``; this joins the two.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

import numpy as np

from edgekit.nn.cut import Choice, cut_spec, keep_everything, resized_unit
from edgekit.nn.latency import KeptCounts, LatencyModel, LayerGrid
from edgekit.nn.structure import ChannelSpace, Structure
from edgekit.profile.predict import PriceTable
from edgekit.types import Layer, NetworkSpec, NumberFormat, UnitSpec


def widths_of(structure: Structure, space: int) -> tuple[int, ...]:
    """Channel counts that a space can be left with."""
    found = structure.spaces[space]
    if not found.is_droppable:
        return (found.size,)
    return tuple(found.width(kept) for kept in range(1, found.group_count + 1))


def group_sizes(structure: Structure) -> tuple[int, ...]:
    """Channels that are cut together in any space, ascending."""
    return tuple(sorted({space.group_size for space in structure.spaces if space.is_droppable}))


def unit_grid(structure: Structure, layer: Layer) -> list[list[UnitSpec]]:
    """The units of a layer at all widths: rows by input space, columns by output space; one row if these are one."""
    source, target = structure.input_space[layer.name], structure.output_space[layer.name]
    outputs = widths_of(structure, target)
    if source == target:
        return [[resized_unit(layer, structure, width, width) for width in outputs]]
    inputs = widths_of(structure, source)
    return [[resized_unit(layer, structure, i, o) for o in outputs] for i in inputs]


def priced_units(structure: Structure, number_format: NumberFormat) -> list[UnitSpec]:
    """Every distinct unit that some choice needs, in a fixed order."""
    units: dict[UnitSpec, None] = {}
    for layer in (*structure.spec.layers, *_layers_of_dropped_blocks(structure)):
        for row in unit_grid(structure, layer):
            units.update(dict.fromkeys(unit.in_format(number_format) for unit in row))
    return list(units)


def _layers_of_dropped_blocks(structure: Structure) -> list[Layer]:
    """Layers that only exist once a block is dropped: a shortcut that takes over the activation, or that activation."""
    before = {layer.name: layer.unit for layer in structure.spec.layers}
    everything = keep_everything(structure)
    found = []
    for block in structure.blocks:
        cut = cut_spec(structure, Choice(everything.channels, frozenset({block.add})))
        found += [layer for layer in cut.layers if layer.unit != before[layer.name]]
    return found


def measured_latency(structure: Structure, prices: PriceTable, number_format: NumberFormat) -> LatencyModel:
    """Latency model from a profile, with the profile's correction for whole networks cut from this one."""
    correction = prices.correction(structure.spec.in_format(number_format), group_sizes(structure))
    grids = _grids(structure, lambda unit: prices.unit_us(unit.in_format(number_format))[0])
    return LatencyModel(structure, grids, correction.overhead_us, correction.scale)


def mac_latency(structure: Structure, dense_us: float) -> LatencyModel:
    """The same with multiply-accumulates in place of measurements, scaled so that the dense network costs ``dense_us``.

    This is what published methods do without a device; it exists to be compared with.
    """
    scale = dense_us / structure.spec.mac_count
    return LatencyModel(structure, _grids(structure, lambda unit: unit.mac_count * scale))


def random_networks(structure: Structure, count: int, seed: int) -> list[NetworkSpec]:
    """Networks cut at random, for fitting the correction: spread over the whole range of sizes."""
    chooser = random.Random(seed)
    return [cut_spec(structure, _random_choice(structure, chooser)) for _ in range(count)]


def choice_from_counts(structure: Structure, kept: KeptCounts, order: list[list[int]] | None = None) -> Choice:
    """Channel indices for kept counts: the first groups of each space in ``order`` (by index if none is given), whole
    ones first, so that every count has the width that it is priced with."""
    channels = []
    for index, space in enumerate(structure.spaces):
        groups = whole_groups_first(space, order[index] if order is not None else range(space.group_count))
        chosen = sorted(groups[: kept.groups[index]])
        channels.append(tuple(c for group in chosen for c in space.channels_of_group(group)))
    dropped = {b.add for b, stays in zip(structure.blocks, kept.blocks, strict=True) if not stays}
    return Choice(tuple(channels), frozenset(dropped))


def whole_groups_first(space: ChannelSpace, order: Iterable[int]) -> list[int]:
    """``order`` with a last group of fewer channels at its end."""
    return sorted(order, key=lambda group: len(space.channels_of_group(group)) < space.group_size)


def _random_choice(structure: Structure, chooser: random.Random) -> Choice:
    level = chooser.uniform(0.2, 1.0)
    groups = []
    for space in structure.spaces:
        wanted = round(space.group_count * min(1.0, max(0.0, chooser.gauss(level, 0.2))))
        groups.append(max(1, wanted) if space.is_droppable else space.group_count)
    blocks = tuple(chooser.random() < 0.5 + level / 2 for _ in structure.blocks)
    return choice_from_counts(structure, KeptCounts(tuple(groups), blocks))


def _grids(structure: Structure, price: Callable[[UnitSpec], float]) -> list[LayerGrid]:
    return [
        LayerGrid(layer.name, np.array([[price(unit) for unit in row] for row in unit_grid(structure, layer)]))
        for layer in structure.spec.layers
    ]
