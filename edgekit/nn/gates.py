"""Learned drop probabilities: one logit per channel group and per block (or shared), drawn once a step.

Source of the method: patent CN110533172A; gates on the residual stream and the budget are edgekit's own. The estimators
are in ``estimators``, the latency in ``latency``; this file joins them to a network's structure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.nn.estimators import Estimator
from edgekit.nn.latency import ExpectedLatency, LatencyModel
from edgekit.nn.network import GateSample
from edgekit.nn.structure import Structure

Scope = Literal["shared", "layer", "unit"]
LOGIT_RANGE = (-6.0, 3.0)
"""A gate that is all but certainly open feels neither the loss nor the penalty any more, and could never be closed when
the budget is lowered later; one that is closed may be certain."""


@dataclass(frozen=True)
class GateOptions:
    """Settings of the gates. ``low`` and ``high`` are the drop coefficients: a unit draws the low one with its drop
    probability and then takes no part in the step; otherwise its output is multiplied by the high one."""

    scope: Scope = "unit"
    low: float = 0.0
    high: float = 1.0
    group_logit: float = 2.0
    block_logit: float = 3.0

    def __post_init__(self) -> None:
        if not -math.inf < self.low < self.high < math.inf:
            raise UsageError(
                f"the drop coefficients are low {self.low:g} and high {self.high:g}; low must be below high",
                "the usual ones are 0 and 1",
            )


class Gates(nn.Module):
    """Drop probabilities of a network's channel groups and blocks.

    Units are ordered: all groups of the first droppable space, of the second, ..., then the blocks.
    """

    def __init__(
        self, structure: Structure, latency: LatencyModel, estimator: Estimator, options: GateOptions | None = None
    ) -> None:
        super().__init__()
        self.structure, self.latency, self.estimator = structure, latency, estimator
        self._dense_us = latency.latency_us(latency.full())
        self.options = options or GateOptions()
        self.droppable = [i for i, space in enumerate(structure.spaces) if space.is_droppable]
        counts = [structure.spaces[i].group_count for i in self.droppable]
        self.group_total, self.block_total = sum(counts), len(structure.blocks)
        self.offsets = dict(zip(self.droppable, _starts(counts), strict=True))
        self.parameter_of_unit = self._parameter_index(counts)
        self.logits = nn.Parameter(self._initial_logits())
        self.expected = ExpectedLatency(latency.smoothed())
        self._unit_of_channel = self._channel_layout()
        self._unit_of_group, self._group_mask = self._group_layout(max(counts, default=1))

    @property
    def unit_count(self) -> int:
        """Number of units that can be dropped."""
        return self.group_total + self.block_total

    def _parameter_index(self, counts: list[int]) -> Tensor:
        """Which logit each unit uses, by scope."""
        if self.options.scope == "shared":
            return torch.zeros(self.unit_count, dtype=torch.long)
        if self.options.scope == "unit":
            return torch.arange(self.unit_count)
        spaces = [torch.full((count,), index) for index, count in enumerate(counts)]
        blocks = torch.arange(len(counts), len(counts) + self.block_total)
        return torch.cat([*spaces, blocks]).long()

    def _initial_logits(self) -> Tensor:
        """Start values by parameter: the mean over the units that share it."""
        initial = torch.full((self.unit_count,), self.options.group_logit)
        initial[self.group_total :] = self.options.block_logit
        size = int(self.parameter_of_unit.max()) + 1 if self.unit_count else 0
        return torch.zeros(size).scatter_reduce_(0, self.parameter_of_unit, initial, "mean", include_self=False)

    def _channel_layout(self) -> Tensor:
        """Unit of each channel, all droppable spaces in a row."""
        units = [torch.zeros(0, dtype=torch.long)]
        for index in self.droppable:
            space = self.structure.spaces[index]
            units.append(self.offsets[index] + torch.arange(space.size) // space.group_size)
        return torch.cat(units)

    def _group_layout(self, widest: int) -> tuple[Tensor, Tensor]:
        """Unit of each channel group as (spaces, widest), and a mask of the same shape: 1 where there is a gate."""
        total = len(self.structure.spaces)
        unit, mask = torch.zeros(total, widest, dtype=torch.long), torch.zeros(total, widest)
        for index in self.droppable:
            count = self.structure.spaces[index].group_count
            unit[index, :count] = torch.arange(self.offsets[index], self.offsets[index] + count)
            mask[index, :count] = 1
        return unit, mask

    def unit_logits(self) -> Tensor:
        """Logit of every unit, shape (units,)."""
        return self.logits[self.parameter_of_unit]

    def keep_probabilities(self) -> Tensor:
        """1 - drop probability of every unit, shape (units,)."""
        return self.estimator.keep_probability(self.unit_logits())

    def expected_latency(self) -> Tensor:
        """E[time] in microseconds under the present probabilities, with an exact gradient."""
        keep = self.keep_probabilities()
        groups = keep[self._unit_of_group] if self.unit_count else self._group_mask
        return self.expected(groups, self._group_mask, keep[self.group_total :])

    def expected_penalty_us(self, expected_us: Tensor | None = None) -> Tensor:
        """E[sum_i |d_i t_i|] in microseconds, exact: |high| times the time that is kept plus |low| times the time that
        is dropped. What can never be dropped counts as kept, so with coefficients 0 and 1 this is the expected latency.

        ``expected_us``: the expected latency, if it is already at hand.
        """
        kept_us = self.expected_latency() if expected_us is None else expected_us
        low, high = abs(self.options.low), abs(self.options.high)
        return high * kept_us + low * (self.dense_us() - kept_us)

    def dense_us(self) -> float:
        """Predicted time with everything kept."""
        return self._dense_us

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
        kept = z[self.group_total :].tolist()
        for block, keep, coefficient in zip(structure.blocks, kept, strength[self.group_total :].unbind(), strict=True):
            if self.estimator.skips_exactly and keep == 0.0:
                skipped.update(block.branch)
                bypass[block.add] = block.shortcut
            else:
                multipliers[block.writer] = multipliers.get(block.writer, 1.0) * coefficient
        return GateSample(multipliers, frozenset(skipped), bypass)

    def sample(self, generator: torch.Generator) -> GateSample:
        """Draw all gates for one step."""
        return self.sample_of(self.draw_units(generator)[0])

    @torch.no_grad()
    def clamp(self) -> None:
        """Keep logits where their gradient is alive."""
        self.logits.clamp_(*LOGIT_RANGE)

    def _channel_multipliers(self, strength: Tensor) -> dict[str, Tensor]:
        multipliers: dict[str, Tensor] = {}
        spaces = [self.structure.spaces[index] for index in self.droppable]
        # One look-up for all spaces: each one of its own would add its operators to every backward pass.
        of_spaces = torch.split(strength[self._unit_of_channel], [space.size for space in spaces])
        for space, channels in zip(spaces, of_spaces, strict=True):
            for writer in space.writers:
                span = self.structure.output_span(writer)
                multipliers[writer] = channels if span == 1 else channels.repeat_interleave(span)
        return multipliers


@torch.no_grad()
def drop_probabilities(gates: Gates) -> dict[str, float]:
    """By layer, the learned probability that one of its output channels is dropped: its group's, or its block's."""
    structure = gates.structure
    keep = gates.keep_probabilities()
    result: dict[str, float] = {}
    for layer in structure.spec.layers:
        space = structure.output_space[layer.name]
        stays = 1.0
        if space in gates.offsets:
            start = gates.offsets[space]
            stays = float(keep[start : start + structure.spaces[space].group_count].mean())
        for block in structure.guards(layer.name):
            stays *= float(keep[gates.group_total + block])
        if space in gates.offsets or structure.guards(layer.name):
            result[layer.name] = min(1.0, max(0.0, 1.0 - stays))
    return result


def _starts(counts: list[int]) -> list[int]:
    starts, total = [], 0
    for count in counts:
        starts.append(total)
        total += count
    return starts
