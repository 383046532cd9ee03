"""Learned drop probabilities: one logit per channel group and per block (or shared), drawn once a step.

Source of the method: patent CN110533172A; gates on the residual stream and the budget are edgekit's own. The estimators
are in ``estimators``, the latency in ``latency``; this file joins them to a network's structure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgekit.nn.estimators import Estimator
from edgekit.nn.latency import ExpectedLatency, LatencyModel
from edgekit.nn.network import GateSample
from edgekit.nn.structure import Structure

Scope = Literal["shared", "layer", "unit"]
LOGIT_BOUND = 6.0


@dataclass(frozen=True)
class GateOptions:
    """Settings of the gates. ``low`` and ``high`` are the drop coefficients: a unit draws the low one with its drop
    probability and then takes no part in the step; otherwise its output is multiplied by the high one."""

    scope: Scope = "unit"
    low: float = 0.0
    high: float = 1.0
    group_logit: float = 2.0
    block_logit: float = 3.0


class Gates(nn.Module):
    """Drop probabilities of a network's channel groups and blocks.

    Units are ordered: all groups of the first droppable space, of the second, ..., then the blocks.
    """

    def __init__(
        self, structure: Structure, latency: LatencyModel, estimator: Estimator, options: GateOptions | None = None
    ) -> None:
        super().__init__()
        self.structure, self.latency, self.estimator = structure, latency, estimator
        self.options = options or GateOptions()
        self.droppable = [i for i, space in enumerate(structure.spaces) if space.is_droppable]
        counts = [structure.spaces[i].group_count for i in self.droppable]
        self.group_total, self.block_total = sum(counts), len(structure.blocks)
        self.offsets = dict(zip(self.droppable, _starts(counts), strict=True))
        self.parameter_of_unit = self._parameter_index(counts)
        initial = torch.full((self.group_total + self.block_total,), self.options.group_logit)
        initial[self.group_total :] = self.options.block_logit
        size = int(self.parameter_of_unit.max()) + 1 if len(initial) else 0
        self.logits = nn.Parameter(torch.zeros(size).scatter_(0, self.parameter_of_unit, initial))
        self.expected = ExpectedLatency(latency.smoothed())
        self.widest = max([structure.spaces[i].group_count for i in self.droppable], default=1)

    @property
    def unit_count(self) -> int:
        """Number of units that can be dropped."""
        return self.group_total + self.block_total

    def _parameter_index(self, counts: list[int]) -> Tensor:
        """Which logit each unit uses, by scope."""
        if self.options.scope == "shared":
            return torch.zeros(self.group_total + self.block_total, dtype=torch.long)
        if self.options.scope == "unit":
            return torch.arange(self.group_total + self.block_total)
        spaces = [torch.full((count,), index) for index, count in enumerate(counts)]
        blocks = torch.arange(len(counts), len(counts) + self.block_total)
        return torch.cat([*spaces, blocks]).long()

    def unit_logits(self) -> Tensor:
        """Logit of every unit, shape (units,)."""
        return self.logits[self.parameter_of_unit]

    def keep_probabilities(self) -> Tensor:
        """1 - drop probability of every unit, shape (units,)."""
        return self.estimator.keep_probability(self.unit_logits())

    def expected_latency(self) -> Tensor:
        """E[time] in microseconds under the present probabilities, with an exact gradient."""
        keep = self.keep_probabilities()
        groups, mask = self._by_space(keep)
        return self.expected(groups, mask, keep[self.group_total :])

    def expected_penalty_us(self, expected_us: Tensor | None = None) -> Tensor:
        """E[sum_i |d_i t_i|] in microseconds, exact: with coefficients 0 and 1 this is the expected latency.

        ``expected_us``: the expected latency, if it is already at hand.
        """
        kept = self.expected_latency() if expected_us is None else expected_us
        low, high = abs(self.options.low), abs(self.options.high)
        return high * kept + low * (self.dense_us() - kept)

    def dense_us(self) -> float:
        """Predicted time with everything kept."""
        return self.latency.latency_us(self.latency.full())

    def draw_units(self, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Keep variables z of all units and the uniform noise that they were drawn from."""
        uniform = torch.rand(self.unit_count, generator=generator)
        return self.estimator.draw(self.unit_logits(), uniform), uniform

    def sample_of(self, z: Tensor) -> GateSample:
        """What the network does for keep variables ``z``: units at exactly 0 take no part."""
        options, structure = self.options, self.structure
        strength = z * options.high
        multipliers = self._channel_multipliers(strength)
        skipped: set[str] = set()
        bypass: dict[str, str] = {}
        for index, block in enumerate(structure.blocks):
            coefficient = strength[self.group_total + index]
            if self.estimator.skips_exactly and float(coefficient.detach()) == 0.0:
                skipped.update(block.branch)
                bypass[block.add] = block.shortcut
            else:
                writer = self._branch_writer(index)
                multipliers[writer] = multipliers[writer] * coefficient if writer in multipliers else coefficient
        return GateSample(multipliers, frozenset(skipped), bypass)

    def sample(self, generator: torch.Generator) -> GateSample:
        """Draw all gates for one step."""
        return self.sample_of(self.draw_units(generator)[0])

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep logits where their gradient is alive."""
        self.logits.clamp_(-LOGIT_BOUND, LOGIT_BOUND)

    def _channel_multipliers(self, strength: Tensor) -> dict[str, Tensor]:
        multipliers: dict[str, Tensor] = {}
        for index in self.droppable:
            space, start = self.structure.spaces[index], self.offsets[index]
            groups = strength[start : start + space.group_count]
            channels = groups.repeat_interleave(space.group_size)[: space.size]
            for writer in space.writers:
                multipliers[writer] = channels
        return multipliers

    def _branch_writer(self, block_index: int) -> str:
        """The layer of a branch whose output is scaled by the block's coefficient: the last one with weights, behind
        which only linear or positively homogeneous layers stand."""
        layers = {layer.name: layer for layer in self.structure.spec.layers}
        branch = self.structure.blocks[block_index].branch
        return next(name for name in reversed(branch) if layers[name].unit.kind in ("conv", "dense"))

    def _by_space(self, keep: Tensor) -> tuple[Tensor, Tensor]:
        """Keep probabilities as (spaces, widest), zero where there is no gate, and the mask of those that exist."""
        total = len(self.structure.spaces)
        where = torch.zeros(total, self.widest, dtype=torch.long)
        mask = torch.zeros(total, self.widest)
        for index in self.droppable:
            count = self.structure.spaces[index].group_count
            where[index, :count] = torch.arange(self.offsets[index], self.offsets[index] + count)
            mask[index, :count] = 1
        return keep[where] * mask if self.unit_count else mask, mask


def _starts(counts: list[int]) -> list[int]:
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count
    return starts
