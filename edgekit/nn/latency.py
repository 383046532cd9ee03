"""Latency of a network as a function of what is kept: measured grids per layer, exact for a choice, expected for gates.

The numbers are handed in (from a profile, or MACs for comparison); nothing here knows where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

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
        self.guards = np.zeros((len(grids), len(structure.blocks)), dtype=bool)
        for index, grid in enumerate(grids):
            self.guards[index, list(structure.guards(grid.layer))] = True
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

    def layer_us(self, kept: KeptCounts) -> FloatGrid:
        """Time of every layer for a choice; 0 for those in dropped blocks."""
        level = np.append(np.array(kept.groups) - 1, 0)
        level[:-1][self.levels == 1] = 0
        times: FloatGrid = self.padded[self._order, level[self.input_space], level[self.output_space]]
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
        self.grids = torch.tensor(model.padded)
        self.guards = torch.tensor(model.guards)
        # Index -1 is a dummy space with one certain level.
        self.rows = torch.tensor(model.input_space)
        self.columns = torch.tensor(model.output_space)

    def __call__(self, keep_groups: Tensor, group_mask: Tensor, keep_blocks: Tensor) -> Tensor:
        """``keep_groups``: (spaces, largest group count) probabilities, ``group_mask`` which of them exist;
        ``keep_blocks``: (blocks,). Returns a scalar in microseconds, computed in float64."""
        width = max(*self.grids.shape[1:], keep_groups.shape[1])
        counts = _count_probabilities(keep_groups.double() * group_mask, width)
        alive = torch.where(self.guards, keep_blocks.double(), 1.0).prod(1)
        rows = counts[self.rows][:, : self.grids.shape[1]]
        columns = counts[self.columns][:, : self.grids.shape[2]]
        per_layer = torch.einsum("la,lab,lb->l", rows, self.grids, columns)
        expected_us: Tensor = self.overhead_us + (alive * per_layer).sum()
        return expected_us.to(keep_groups.dtype)


def _count_probabilities(keep: Tensor, width: int) -> Tensor:
    """P(k + 1 groups kept), k = 0 ... width - 1, per space, given that one always stays; plus the dummy space as the
    last row.

    The mass of keeping none is counted as keeping one: the last group of a space cannot go.
    """
    probabilities: Tensor = _PoissonBinomial.apply(keep)  # type: ignore[no-untyped-call]
    at_least_one = torch.cat([probabilities[:, :1] + probabilities[:, 1:2], probabilities[:, 2:]], 1)
    dummy = keep.new_ones(1, 1)
    return torch.cat([_widen(at_least_one, width), _widen(dummy, width)])


def _widen(probabilities: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(probabilities, (0, width - probabilities.shape[1]))


class _PoissonBinomial(torch.autograd.Function):
    """Distribution of the number of successes of independent trials: (rows, trials) chances to (rows, trials + 1).

    p_0 = (1, 0, ...); p_g+1[k] = p_g[k] + c_g (p_g[k - 1] - p_g[k]). In numpy and with its own backward: as a graph of
    some fifty tiny operators it would take a percent of a training step.
    """

    @staticmethod
    def forward(ctx: Any, chances: Tensor) -> Tensor:
        c = chances.numpy()
        p = np.zeros((c.shape[1] + 1, c.shape[0], c.shape[1] + 1))
        p[0, :, 0] = 1
        rises = np.empty_like(p[1:])
        for g in range(c.shape[1]):
            rises[g] = -p[g]
            rises[g, :, 1:] += p[g, :, :-1]
            p[g + 1] = p[g] + c[:, g, None] * rises[g]
        ctx.chances, ctx.rises = c, rises
        return torch.from_numpy(p[-1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """With a = dL/dp_g+1: dL/dc_g = sum_k a[k] (p_g[k - 1] - p_g[k]); dL/dp_g[k] = a[k] + c_g (a[k + 1] - a[k])."""
        c, a = ctx.chances, gradients[0].numpy()
        gradient = np.empty_like(c)
        for g in reversed(range(c.shape[1])):
            gradient[:, g] = (a * ctx.rises[g]).sum(1)
            rise = -a
            rise[:, :-1] += a[:, 1:]
            a = a + c[:, g, None] * rise
        return torch.from_numpy(gradient)


def _smooth(us: FloatGrid) -> FloatGrid:
    rows, columns = np.meshgrid(*(np.arange(1.0, size + 1) for size in us.shape), indexing="ij")
    terms = [np.ones(us.size)]
    terms += [rows.ravel()] if us.shape[0] > 1 else []
    terms += [columns.ravel()] if us.shape[1] > 1 else []
    terms += [(rows * columns).ravel()] if min(us.shape) > 1 else []
    fitted: FloatGrid = _fit_non_negative(np.stack(terms, axis=1), us.ravel()).reshape(us.shape)
    # The dense network must cost the same in both: budgets are shares of it.
    return fitted * (us[-1, -1] / fitted[-1, -1]) if fitted[-1, -1] > 0 else np.zeros_like(us)


def _fit_non_negative(design: FloatGrid, target: FloatGrid) -> FloatGrid:
    """``design @ c`` nearest to ``target`` with all c >= 0.

    The constrained optimum is the unconstrained one on its own support, so trying every support is exact (Lawson and
    Hanson 1974, chapter 23); there are at most 15.
    """
    best, smallest = np.zeros_like(target), float(target @ target)
    for support in _supports(design.shape[1]):
        coefficients = np.linalg.lstsq(design[:, support], target, rcond=None)[0]
        fitted = design[:, support] @ coefficients
        error = float(((fitted - target) ** 2).sum())
        if coefficients.min() >= 0 and error < smallest:
            best, smallest = fitted, error
    return best


def _supports(size: int) -> list[list[int]]:
    return [list(chosen) for count in range(1, size + 1) for chosen in combinations(range(size), count)]
