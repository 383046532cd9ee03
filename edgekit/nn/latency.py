"""Latency of a network as a function of what is kept: measured grids per layer, exact for a choice, expected for gates.

The numbers are handed in (from a profile, or MACs for comparison); nothing here knows where they come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgekit.nn.structure import Structure

FloatGrid = NDArray[np.float64]


@dataclass(frozen=True)
class LayerGrid:
    """Time of one layer in microseconds by kept groups: ``us[a, b]`` with a groups of the input space and b groups of
    the output space. A space that cannot shrink has one level; a layer whose input and output share a space has one
    row."""

    layer: str
    us: FloatGrid


@dataclass(frozen=True)
class KeptCounts:
    """A choice without names: groups kept per space and whether each block stays."""

    groups: tuple[int, ...]
    blocks: tuple[bool, ...]


class LatencyModel:
    """Sum over layers of their grids; ``correct`` (overhead, scale) turns the sum into a whole network's time."""

    def __init__(
        self, structure: Structure, grids: Sequence[LayerGrid], overhead_us: float = 0.0, scale: float = 1.0
    ) -> None:
        self.structure = structure
        self.grids = tuple(grids)
        self.overhead_us, self.scale = overhead_us, scale
        rows = max(grid.us.shape[0] for grid in grids)
        columns = max(grid.us.shape[1] for grid in grids)
        padded = np.zeros((len(grids), rows, columns))
        for index, grid in enumerate(grids):
            padded[index, : grid.us.shape[0], : grid.us.shape[1]] = grid.us
        self.padded = padded * scale
        self.input_space, self.output_space = self._space_indices()
        self.guards = np.array([[b in structure.guards(g.layer) for b in range(len(structure.blocks))] for g in grids])
        self.guards = self.guards.reshape(len(grids), len(structure.blocks))
        self._order = np.arange(len(grids))
        self.levels = np.array([space.group_count if space.is_droppable else 1 for space in structure.spaces])

    def _space_indices(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Space of rows and columns by layer; -1 stands for a single level."""
        structure, rows, columns = self.structure, [], []
        for grid in self.grids:
            source, target = structure.input_space[grid.layer], structure.output_space[grid.layer]
            rows.append(source if grid.us.shape[0] > 1 else -1)
            columns.append(target if grid.us.shape[1] > 1 else -1)
        return np.array(rows), np.array(columns)

    def layer_us(self, kept: KeptCounts) -> NDArray[np.float64]:
        """Time of every layer for a choice; 0 for those in dropped blocks."""
        level = np.append(np.array(kept.groups) - 1, 0)
        level[:-1][self.levels == 1] = 0
        times = self.padded[self._order, level[self.input_space], level[self.output_space]]
        if not self.structure.blocks:
            return times
        dropped = ~np.array(kept.blocks)
        return np.where((self.guards & dropped).any(1), 0.0, times)

    def latency_us(self, kept: KeptCounts) -> float:
        """Predicted time of the network for a choice."""
        return self.overhead_us + float(self.layer_us(kept).sum())

    def full(self) -> KeptCounts:
        """The choice that keeps everything."""
        structure = self.structure
        return KeptCounts(tuple(s.group_count for s in structure.spaces), (True,) * len(structure.blocks))

    def smallest(self) -> KeptCounts:
        """The choice that keeps one group of each droppable space and no block."""
        structure = self.structure
        groups = tuple(1 if space.is_droppable else space.group_count for space in structure.spaces)
        return KeptCounts(groups, (False,) * len(structure.blocks))

    def scaled_to(self, measured_us: float, predicted_us: float) -> LatencyModel:
        """The same model with its correction factor moved by what was measured on the device."""
        factor = measured_us / predicted_us
        return LatencyModel(self.structure, self.grids, self.overhead_us * factor, self.scale * factor)

    def smoothed(self) -> LatencyModel:
        """Each grid replaced by its best fit of the form c0 + c1 a + c2 b + c3 ab with non-negative coefficients.

        Kernels work in blocks of channels: inside such a block the exact marginal time is zero and a gate would feel
        nothing. The penalty uses the smooth grids, the final choice the measured ones.
        """
        grids = [LayerGrid(grid.layer, _smooth(grid.us)) for grid in self.grids]
        return LatencyModel(self.structure, grids, self.overhead_us, self.scale)


class ExpectedLatency:
    """E[time] under independent gates, differentiable and exact for the given grids.

    The number of kept groups of a space is Poisson-binomial; a layer's time is its grid averaged over the two counts,
    times the probability that the blocks around it stay.
    """

    def __init__(self, model: LatencyModel) -> None:
        self.overhead_us = model.overhead_us
        self.grids = torch.tensor(model.padded, dtype=torch.float32)
        self.guards = torch.tensor(model.guards)
        # Index -1 is a dummy space with one certain level.
        self.rows = torch.tensor(model.input_space)
        self.columns = torch.tensor(model.output_space)

    def __call__(self, keep_groups: Tensor, group_mask: Tensor, keep_blocks: Tensor) -> Tensor:
        """``keep_groups``: (spaces, largest group count) probabilities, ``group_mask`` which of them exist;
        ``keep_blocks``: (blocks,). Returns a scalar in microseconds."""
        counts = _count_probabilities(keep_groups, group_mask, self.grids.shape[1:])
        alive = torch.where(self.guards, keep_blocks, torch.ones(())).prod(1)
        rows = counts[self.rows][:, : self.grids.shape[1]]
        columns = counts[self.columns][:, : self.grids.shape[2]]
        per_layer = torch.einsum("la,lab,lb->l", rows, self.grids, columns)
        return self.overhead_us + (alive * per_layer).sum()


def _count_probabilities(keep: Tensor, mask: Tensor, sizes: Sequence[int]) -> Tensor:
    """P(k + 1 groups kept), k = 0..., per space, given that one always stays; plus the dummy space as the last row.

    The mass of keeping none is counted as keeping one: the last group of a space cannot go.
    """
    spaces, groups = keep.shape
    probabilities = torch.zeros(spaces, groups + 1)
    probabilities[:, 0] = 1
    for group in range(groups):
        chance = (keep[:, group] * mask[:, group])[:, None]
        shifted = torch.nn.functional.pad(probabilities[:, :-1], (1, 0))
        probabilities = probabilities * (1 - chance) + shifted * chance
    at_least_one = torch.cat([probabilities[:, :1] + probabilities[:, 1:2], probabilities[:, 2:]], 1)
    width = max(*sizes, groups)
    at_least_one = torch.nn.functional.pad(at_least_one, (0, width - groups))
    dummy = torch.zeros(1, width)
    dummy[0, 0] = 1
    return torch.cat([at_least_one, dummy])


def _smooth(us: FloatGrid) -> FloatGrid:
    from scipy.optimize import nnls

    rows, columns = np.meshgrid(*(np.arange(1, size + 1) for size in us.shape), indexing="ij")
    terms = [np.ones(us.size)]
    terms += [rows.ravel()] if us.shape[0] > 1 else []
    terms += [columns.ravel()] if us.shape[1] > 1 else []
    terms += [(rows * columns).ravel()] if min(us.shape) > 1 else []
    design = np.stack(terms, axis=1).astype(np.float64)
    coefficients, _ = nnls(design, us.ravel())
    fitted = (design @ coefficients).reshape(us.shape)
    # The dense network must cost the same in both: budgets are shares of it.
    dense = fitted[-1, -1]
    return fitted * (us[-1, -1] / dense) if dense > 0 else us


def choice_names(structure: Structure, kept: KeptCounts) -> Mapping[str, int]:
    """Kept channels by space name, for reports."""
    return {s.name: s.width(k) for s, k in zip(structure.spaces, kept.groups, strict=True)}
