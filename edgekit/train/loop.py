"""The training loop: one function that takes a network from one step to the last, with or without gates and a teacher.

It is a function of its settings and seed alone: killed at any step and resumed, it gives the same weights.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit.errors import TrainingDivergedError
from edgekit.nn.network import OPEN, GateSample, Network
from edgekit.train.batches import Augmentation, Split, batch_at, in_order, steps_per_epoch
from edgekit.train.checkpoint import CheckpointFolder, Snapshot
from edgekit.train.interruption import deferred_interrupt
from edgekit.types import Progress, ProgressCallback, ignore_progress

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
MetricsCallback = Callable[[dict[str, float | int | str]], None]


@dataclass(frozen=True)
class Recipe:
    """How weights are trained: SGD with Nesterov momentum, a linear warm-up and a cosine down to zero.

    ``epochs`` is the length of the whole schedule, ``start`` and ``stop`` the part of it (0 to 1) that a stage carries
    out: a network that passes through several stages sees one schedule.
    ``distillation``: weight of the teacher's term, (1 - w) CE + w T^2 KL at temperature T (Hinton et al. 2015).
    ``precision``: bf16 (autocast) where the CPU has it in hardware, else fp32.
    """

    epochs: float
    start: float = 0.0
    stop: float = 1.0
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 0.06
    augmentation: Augmentation = "shift"
    distillation: float = 0.0
    temperature: float = 4.0
    precision: str = "fp32"


class GateStage(Protocol):
    """What the loop asks of gates that are trained beside the weights; implemented in ``drop``."""

    def sample(self, step: int) -> GateSample:
        """The draw of this step."""

    def penalty(self, step: int, total: int) -> Tensor:
        """Term added to the loss."""

    def before_backward(self, step: int, task: Tensor, evaluate: Callable[[GateSample], Tensor]) -> Tensor | None:
        """An additional term that carries a score-function gradient, if the estimator needs one. ``evaluate`` gives the
        loss of the same batch under another draw, and changes nothing."""

    def update(self) -> None:
        """One optimizer step of the gates."""

    def zero_grad(self) -> None:
        """Forget gradients."""

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Tensors and numbers for a checkpoint."""

    def restore(self, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Take back what `state` gave."""

    def values(self) -> dict[str, float]:
        """What to show and log beside the loss."""


@dataclass
class StageOptions:
    """Where a stage stands in a run: its name, its seed, and who is told about it. ``checkpoint_seconds``: the least
    time between two checkpoints, 0 for one after every step."""

    name: str
    seed: int
    checkpoints: CheckpointFolder | None = None
    checkpoint_seconds: float = 20.0
    progress: ProgressCallback = ignore_progress
    metrics: MetricsCallback = field(default=lambda _: None)
    metrics_every: int = 20


def total_steps(split: Split, recipe: Recipe) -> int:
    """Steps of the whole schedule: epochs times batches, rounded, at least one."""
    return max(1, round(recipe.epochs * steps_per_epoch(split, recipe.batch_size)))


def stage_steps(split: Split, recipe: Recipe) -> tuple[int, int]:
    """First step of a stage within the schedule, and how many steps it has: at least one."""
    total = total_steps(split, recipe)
    first = min(total - 1, round(recipe.start * total))
    return first, max(1, round(recipe.stop * total) - first)


def learning_rate_at(recipe: Recipe, step: int, total: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1.0, recipe.warmup * total)
    return recipe.learning_rate * min(1.0, (step + 1) / warmup) * 0.5 * (1 + math.cos(math.pi * step / total))


def fit(
    network: Network,
    split: Split,
    recipe: Recipe,
    stage: StageOptions,
    teacher: Network | None = None,
    gates: GateStage | None = None,
) -> None:
    """Train ``network`` in place on ``split`` for the whole stage, resuming from its newest checkpoint.

    Raises TrainingDivergedError when the loss, a weight or a gate is not finite; the last good checkpoint stays.
    """
    network.train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    schedule = total_steps(split, recipe)
    offset, total = stage_steps(split, recipe)
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )
    first = _resume(network, optimizer, stage, gates)
    saved = time.monotonic()
    with deferred_interrupt() as interruption:
        for step in range(first, total):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(recipe, offset + step, schedule)
            loss, accuracy = _train_step(network, split, recipe, stage, teacher, gates, optimizer, step, total)
            if not math.isfinite(loss):
                raise _diverged(stage, recipe, step, f"the loss became {loss}", is_first=step == 0)
            _tell(stage, recipe, split, step, (offset, total), loss, accuracy, gates)
            is_due = interruption.is_requested or time.monotonic() - saved >= stage.checkpoint_seconds
            if is_due or step + 1 == total:
                _keep(_snapshot(network, optimizer, gates, step + 1), stage, recipe, check_only=not is_due)
                saved = time.monotonic()
            if interruption.is_requested:
                raise KeyboardInterrupt
    network.eval()


def _keep(snapshot: Snapshot, stage: StageOptions, recipe: Recipe, check_only: bool) -> None:
    """Store a snapshot. A finite loss can leave infinite gradients: such weights must neither be kept nor handed on."""
    if (name := _not_finite(snapshot)) is not None:
        raise _diverged(stage, recipe, snapshot.step - 1, f"{name} became infinite or NaN")
    if stage.checkpoints is not None and not check_only:
        stage.checkpoints.save(snapshot)


def _train_step(
    network: Network,
    split: Split,
    recipe: Recipe,
    stage: StageOptions,
    teacher: Network | None,
    gates: GateStage | None,
    optimizer: torch.optim.Optimizer,
    step: int,
    total: int,
) -> tuple[float, float]:
    inputs, labels = batch_at(split, recipe.batch_size, recipe.augmentation, stage.seed, stage.name, step)
    soft = _teacher_logits(teacher, inputs, recipe)

    def logits_under(sample: GateSample) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
            logits: Tensor = network(inputs, sample)
        return logits.float()

    def loss_again(sample: GateSample) -> Tensor:
        with _statistics_kept(network):
            return _loss(logits_under(sample), labels, soft, recipe)

    logits = logits_under(gates.sample(step) if gates is not None else OPEN)
    task = _loss(logits, labels, soft, recipe)
    loss = task
    if gates is not None:
        with_grad = gates.before_backward(step, task, loss_again)
        loss = loss + gates.penalty(step, total) + (with_grad if with_grad is not None else 0.0)
        gates.zero_grad()
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    value = float(loss.detach())
    if not math.isfinite(value):
        return value, 0.0
    optimizer.step()
    if gates is not None:
        gates.update()
    return float(task.detach()), float((logits.detach().argmax(1) == labels).float().mean())


@contextmanager
def _statistics_kept(network: Network) -> Iterator[None]:
    """Normalisation by the batch, as in training, while the running statistics stay: they have seen this batch."""
    kept = [(norm, {name: getattr(norm, name) for name in _STATISTICS}) for norm in network.batch_norms.values()]
    for norm, tensors in kept:
        for name, tensor in tensors.items():
            setattr(norm, name, None if tensor is None else tensor.clone())
    try:
        yield
    finally:
        # The very tensors, not their values: the first pass keeps them for its gradient.
        for norm, tensors in kept:
            for name, tensor in tensors.items():
                setattr(norm, name, tensor)


def _teacher_logits(teacher: Network | None, inputs: Tensor, recipe: Recipe) -> Tensor | None:
    if teacher is None or recipe.distillation == 0:
        return None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits: Tensor = teacher(inputs)
    return logits.float()


def _loss(logits: Tensor, labels: Tensor, soft: Tensor | None, recipe: Recipe) -> Tensor:
    hard = F.cross_entropy(logits, labels)
    if soft is None:
        return hard
    temperature, weight = recipe.temperature, recipe.distillation
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, 1),
        F.log_softmax(soft / temperature, 1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - weight) * hard + weight * temperature**2 * divergence


@torch.no_grad()
def evaluate(network: Network, split: Split, precision: str = "fp32") -> float:
    """Share of samples whose largest logit is the label."""
    network.eval()
    right = 0
    for inputs, labels in in_order(split):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            right += int((network(inputs).argmax(1) == labels).sum())
    return right / len(split)


def hardware_precision() -> str:
    """bf16 if this CPU multiplies it in hardware, else fp32: without the instructions autocast is slower than float."""
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def _resume(network: Network, optimizer: torch.optim.Optimizer, stage: StageOptions, gates: GateStage | None) -> int:
    snapshot = stage.checkpoints.newest() if stage.checkpoints is not None else None
    if snapshot is None:
        return 0
    parts: dict[str, dict[str, Tensor]] = {"network": {}, "momentum": {}, "gates": {}}
    for name, tensor in snapshot.tensors.items():
        part, _, rest = name.partition(":")
        parts[part][rest] = tensor
    network.load_state_dict(parts["network"])
    state = optimizer.state_dict()
    state["state"] = {int(index): {"momentum_buffer": value} for index, value in parts["momentum"].items()}
    optimizer.load_state_dict(state)
    if gates is not None:
        gates.restore(parts["gates"], dict(snapshot.facts))
    return snapshot.step


def _snapshot(network: Network, optimizer: torch.optim.Optimizer, gates: GateStage | None, step: int) -> Snapshot:
    tensors = {f"network:{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        if state.get("momentum_buffer") is not None:
            tensors[f"momentum:{index}"] = state["momentum_buffer"]
    facts: dict[str, float | int | str] = {}
    if gates is not None:
        gate_tensors, gate_facts = gates.state()
        tensors |= {f"gates:{name}": value for name, value in gate_tensors.items()}
        facts |= gate_facts
    return Snapshot(step, tensors, facts)


def _not_finite(snapshot: Snapshot) -> str | None:
    """Name of a tensor or number of the state that holds NaN or infinity; None if there is none."""
    for name, tensor in snapshot.tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            return name.replace(":", " ")
    numbers = ((name, value) for name, value in snapshot.facts.items() if isinstance(value, float))
    return next((name for name, value in numbers if not math.isfinite(value)), None)


def _diverged(
    stage: StageOptions, recipe: Recipe, step: int, what: str, is_first: bool = False
) -> TrainingDivergedError:
    """``is_first``: no weight of the stage was changed yet, so that no learning rate can be blamed."""
    last = stage.checkpoints.newest() if stage.checkpoints is not None else None
    kept = f"; the checkpoint before step {last.step} is kept" if last is not None else ""
    hint = (
        "nothing was trained in this stage yet: look for NaN or huge values in the weights that the model comes with, "
        "and for outliers in the data"
        if is_first
        else f"lower --learning-rate (now {recipe.learning_rate:g}) in a new run, or look for outliers in the data"
    )
    return TrainingDivergedError(f"{what} at step {step} of stage {stage.name!r}{kept}", hint)


def _tell(
    stage: StageOptions,
    recipe: Recipe,
    split: Split,
    step: int,
    place: tuple[int, int],
    loss: float,
    accuracy: float,
    gates: GateStage | None,
) -> None:
    extra = gates.values() if gates is not None else {}
    offset, total = place
    epoch = (offset + step + 1) / steps_per_epoch(split, recipe.batch_size)
    shown = {"epoch": f"{epoch:.2f}/{recipe.epochs:g}", "loss": f"{loss:.3f}", "accuracy": f"{accuracy:.1%}"}
    shown |= {name: f"{value:.4g}" for name, value in extra.items()}
    stage.progress(Progress(stage=stage.name, done=step + 1, total=total, values=shown))
    if step % stage.metrics_every == 0 or step + 1 == total:
        stage.metrics({"stage": stage.name, "step": step, "epoch": epoch, "loss": loss, "accuracy": accuracy, **extra})
