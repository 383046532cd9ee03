"""What gates cost in a training step, and what dropped blocks give back: ratios of step times in one process.

Bounds: all gates with the expected-latency penalty at most 1.10 x the plain step, half the blocks dropped 0.65 x.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from table import Row, main
from torch import Tensor
from torch.nn import functional as F

from edgekit.nn.cut import resized_unit
from edgekit.nn.estimators import make_estimator
from edgekit.nn.families import named_network
from edgekit.nn.gates import Gates
from edgekit.nn.latency import LatencyModel, LayerGrid
from edgekit.nn.network import OPEN, GateSample, Network
from edgekit.nn.structure import Structure, analyse

MODEL, INPUT_SHAPE, CLASS_COUNT, BATCH_SIZE = "resnet14", (1, 28, 28), 10, 128
PENALTY_WEIGHT = 0.1
BOUNDS = {"gates": 1.10, "half_dropped": 0.65}


def step_rows(quick: bool) -> list[Row]:
    """Training step of resnet14 on 1x28x28, batch 128, one thread: gated and half dropped against plain."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    cases = _cases()
    times = _interleave(cases, rounds=10 if quick else 40)
    return [_row(case, times[case], times["plain"]) for case in BOUNDS]


@dataclass(frozen=True)
class StepTime:
    """One training step: processor seconds of this process, and seconds on the wall."""

    cpu_s: float
    wall_s: float


class Step:
    """A training step on fixed random images; ``draw`` gives the gates, if there are any."""

    def __init__(self, gates: Gates | None, draw: Callable[[Gates], GateSample] | None) -> None:
        spec = named_network(MODEL, INPUT_SHAPE, CLASS_COUNT)
        self.network = Network(spec).train()
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer = torch.optim.SGD(self.network.parameters(), 1e-3, momentum=0.9, weight_decay=5e-4)
        self.gates, self.draw = gates, draw
        self.gate_optimizer = torch.optim.Adam(gates.parameters(), 1e-3) if gates is not None else None
        images = torch.randn(BATCH_SIZE, *INPUT_SHAPE)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(CLASS_COUNT, (BATCH_SIZE,))

    def __call__(self) -> None:
        """Forward, cross entropy and penalty, backward, one step of each optimizer."""
        sample = self.draw(self.gates) if self.gates is not None and self.draw is not None else OPEN
        with torch.autocast("cpu", torch.bfloat16, enabled=has_bfloat16()):
            logits = self.network(self.images, sample)
        loss = F.cross_entropy(logits.float(), self.labels) + self._penalty()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        self._update_gates()

    def _penalty(self) -> Tensor | float:
        if self.gates is None:
            return 0.0
        return PENALTY_WEIGHT * self.gates.expected_penalty_us() / self.gates.dense_us()

    def _update_gates(self) -> None:
        if self.gates is not None and self.gate_optimizer is not None:
            self.gate_optimizer.step()
            self.gate_optimizer.zero_grad()
            self.gates.clamp()


def _cases() -> Mapping[str, Step]:
    generator = torch.Generator().manual_seed(0)
    return {
        "plain": Step(None, None),
        "gates": Step(_make_gates(), lambda gates: _draw(gates, generator, dropped=())),
        "half_dropped": Step(_make_gates(), lambda gates: _draw(gates, generator, dropped=_half_of_blocks(gates))),
    }


def _half_of_blocks(gates: Gates) -> Sequence[int]:
    """Every second block in the network's order, from the second on: one in each stage."""
    return range(1, gates.block_total, 2)


def _draw(gates: Gates, generator: torch.Generator, dropped: Sequence[int]) -> GateSample:
    """All gates drawn; then the blocks ``dropped`` are set to 0 and all others are kept above it, so that every step
    runs the same layers."""
    z, _ = gates.draw_units(generator)
    blocks = z[gates.group_total :].clamp(min=0.5)
    kept = torch.tensor([float(index not in dropped) for index in range(gates.block_total)])
    return gates.sample_of(torch.cat([z[: gates.group_total], blocks * kept]))


def _make_gates() -> Gates:
    structure = analyse(named_network(MODEL, INPUT_SHAPE, CLASS_COUNT))
    grids = [_mac_grid(structure, layer.name) for layer in structure.spec.layers]
    return Gates(structure, LatencyModel(structure, grids), make_estimator("hard-concrete"))


def _mac_grid(structure: Structure, name: str) -> LayerGrid:
    """Multiply-accumulates in thousands stand in for microseconds: their size does not change the work of a step."""
    layer = structure.spec.layer(name)
    source = structure.spaces[structure.input_space[name]]
    target = structure.spaces[structure.output_space[name]]
    rows = source.group_count if source.is_droppable and source != target else 1
    columns = target.group_count if target.is_droppable else 1
    macs = np.zeros((rows, columns))
    for row in range(rows):
        for column in range(columns):
            outputs = target.width(column + 1) if columns > 1 else target.size
            inputs = source.width(row + 1) if rows > 1 else source.size
            inputs = outputs if source == target else inputs
            macs[row, column] = resized_unit(layer, structure, inputs, outputs).mac_count / 1e3
    return LayerGrid(name, macs)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; without that, autocast is slower than float32."""
    cpu_info = Path("/proc/cpuinfo")
    return cpu_info.exists() and "avx512_bf16" in cpu_info.read_text()


def _interleave(cases: Mapping[str, Step], rounds: int, warmup_rounds: int = 3) -> dict[str, list[StepTime]]:
    """All cases in turn, round after round: a drift of the machine then falls on all of them."""
    times: dict[str, list[StepTime]] = {case: [] for case in cases}
    gc.disable()
    for number in range(warmup_rounds + rounds):
        for case, step in cases.items():
            cpu_s, wall_s = time.process_time(), time.perf_counter()
            step()
            taken = StepTime(time.process_time() - cpu_s, time.perf_counter() - wall_s)
            if number >= warmup_rounds:
                times[case].append(taken)
    gc.enable()
    return times


def _row(case: str, times: Sequence[StepTime], plain: Sequence[StepTime]) -> Row:
    """``ratio``: median over the rounds of the processor time against the plain step of the same round."""
    pairs = list(zip(times, plain, strict=True))
    ratio = statistics.median(own.cpu_s / base.cpu_s for own, base in pairs)
    return {
        "case": case,
        "ratio": ratio,
        "wall_ratio": statistics.median(own.wall_s / base.wall_s for own, base in pairs),
        "bound": BOUNDS[case],
        "holds": ratio <= BOUNDS[case],
        "step_ms": 1e3 * statistics.median(own.cpu_s for own in times),
        "plain_ms": 1e3 * statistics.median(base.cpu_s for base in plain),
        "rounds": len(pairs),
        "precision": "bfloat16" if has_bfloat16() else "float32",
    }


if __name__ == "__main__":
    main(step_rows, ["case", "ratio", "wall_ratio", "bound", "holds", "step_ms", "plain_ms", "rounds", "precision"])
