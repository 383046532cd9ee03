"""Gates on a user's own module, learned in the user's own loop: its forward draws them, all else stays the user's.

How gates are drawn, priced and learned is in ``nn.gates`` and ``drop``; what is kept in the end is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from edgekit.errors import UsageError
from edgekit.nn.cut import Choice, kept_names
from edgekit.nn.gates import Gates, drop_probabilities
from edgekit.nn.network import GateSample, Network
from edgekit.nn.structure import Structure
from edgekit.profile.predict import PriceTable
from edgekit.train.drop import DropStage, DualAscent, FixedWeight, PenaltyWeight
from edgekit.train.randomness import generator
from edgekit.types import NumberFormat


class AttachedGates:
    """Gates on a user's module, from `attach` until `detach`; a context manager that detaches at its end.

    In training mode each forward of the module draws the gates anew, and a dropped block is skipped, forward and
    backward; in eval mode the module is as it was. The module's parameters, buffers and ``state_dict`` stay its own.
    ``budget_us`` is the budget in microseconds, None with a fixed penalty; ``choice`` what `shrink` kept last: channels
    of every space, and the additions whose branch is gone.
    """

    def __init__(
        self,
        model: nn.Module,
        network: Network,
        stage: DropStage,
        prices: PriceTable,
        number_format: NumberFormat,
        budget_us: float | None,
        steps: int,
    ) -> None:
        self.model, self.network, self.learned = model, network, stage.gates
        self.prices: PriceTable = prices
        self.number_format: NumberFormat = number_format
        self.budget_us = budget_us
        self.steps, self.steps_done = steps, 0
        self.choice: Choice | None = None
        self._stage, self._draws = stage, 0
        self._own_forward: Any = model.__dict__.get("forward")
        self._dense_forward = model.forward
        model.forward = self._forward

    def __enter__(self) -> AttachedGates:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.detach()

    @property
    def structure(self) -> Structure:
        """What of the model can be dropped."""
        return self.learned.structure

    @property
    def dense_us(self) -> float:
        """Predicted time of the whole model in microseconds."""
        return self.learned.dense_us()

    @property
    @torch.no_grad()
    def expected_us(self) -> float:
        """E[time] in microseconds under the present drop probabilities."""
        return float(self.learned.expected_latency())

    @property
    def penalty_weight(self) -> float:
        """Lambda of the last `penalty`: what a millisecond weighs in the loss."""
        return self._stage.penalty_per_ms

    def penalty(self) -> Tensor:
        """lambda * E[sum_i |d_i t_i|], a scalar to add to the loss; its gradient is exact.

        Lambda is set once a step, so a loop that accumulates gradients may ask several times.
        """
        parameter = next(self.model.parameters())
        return self._stage.penalty(self.steps_done, self.steps).to(parameter.device)

    def step(self) -> None:
        """One step of the gates' own optimizer, after ``loss.backward()``; the gradients are cleared.

        A gradient that is not finite (an overflow of mixed precision) is skipped. Raises UsageError if there is none.
        """
        gradient = self.learned.logits.grad
        if gradient is None:
            raise UsageError(
                "the gates have no gradient to step with",
                "loss = task_loss + gates.penalty(); loss.backward(); gates.step()",
            )
        if bool(gradient.isfinite().all()):
            self._stage.update()
        self._stage.zero_grad()
        self.steps_done += 1

    def drop_probabilities(self) -> dict[str, float]:
        """By layer, the learned probability that one of its output channels is dropped; layers without gates are left
        out."""
        return drop_probabilities(self.learned)

    def kept_channels(self) -> Mapping[str, int]:
        """By layer, the output channels that `shrink` kept; 0 where the layer is gone. Raises UsageError before it."""
        if self.choice is None:
            raise UsageError("nothing is chosen yet", "call edgekit.shrink(model, gates) first")
        return kept_names(self.structure, self.choice)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on: tensors and numbers only, for ``torch.save``."""
        tensors, facts = self._stage.state()
        return {"steps_done": self.steps_done, "draws": self._draws, "tensors": tensors, "facts": facts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave. Raises UsageError if it comes from gates on another model."""
        logits = state.get("tensors", {}).get("logits")
        wanted = tuple(self.learned.logits.shape)
        if logits is None or tuple(logits.shape) != wanted:
            found = "none" if logits is None else tuple(logits.shape)
            raise UsageError(
                f"the gates' state holds logits of shape {found}; these gates have {wanted}",
                "attach to the same model, with the same scope and group_size",
            )
        self._stage.restore(dict(state["tensors"]), dict(state["facts"]))
        self.steps_done, self._draws = int(state["steps_done"]), int(state["draws"])

    def detach(self) -> None:
        """Give the module its own forward back; what the gates have learned stays here. Twice is once.

        Raises UsageError if something else replaced the module's forward after `attach`.
        """
        present = self.model.__dict__.get("forward")
        if present == self._forward:
            if self._own_forward is None:
                del self.model.forward
            else:
                self.model.forward = self._own_forward
        elif present is not self._own_forward:
            raise UsageError(
                "the model's forward was replaced after the gates were attached", "undo that first, then detach"
            )

    def _forward(self, batch: Tensor) -> Tensor:
        if not self.model.training:
            dense: Tensor = self._dense_forward(batch)
            return dense
        sample = self.learned.sample(generator(self._stage.seed, self._stage.stage, "draw", self._draws))
        self._draws += 1
        gated: Tensor = self.network(batch, _placed(sample, next(self.model.parameters())))
        return gated


@dataclass
class _OncePerStep(PenaltyWeight):
    """Another penalty weight, asked once a step however often the penalty is computed in it."""

    weight: PenaltyWeight
    step: int = -1
    per_ms: float = 0.0

    def at(self, expected_us: float, step: int, total: int) -> float:
        if step != self.step:
            self.step, self.per_ms = step, self.weight.at(expected_us, step, total)
        return self.per_ms

    def state(self) -> dict[str, float]:
        return self.weight.state()

    def restore(self, facts: dict[str, Any]) -> None:
        self.weight.restore(facts)
        self.step = -1


def weight_of(learned: Gates, budget_us: float | None, penalty_per_ms: float | None) -> PenaltyWeight:
    """Dual ascent to a budget, or without one a fixed lambda."""
    if budget_us is None:
        return FixedWeight(penalty_per_ms or 0.0)
    with torch.no_grad():
        start_us = float(learned.expected_latency())
    return _OncePerStep(DualAscent(start_us=start_us, budget_us=budget_us, dense_us=learned.dense_us()))


def _placed(sample: GateSample, parameter: nn.Parameter) -> GateSample:
    """The sample where the network's parameters are."""
    multipliers = {name: x.to(parameter.device, parameter.dtype) for name, x in sample.multipliers.items()}
    return GateSample(multipliers, sample.skipped, sample.bypass)
