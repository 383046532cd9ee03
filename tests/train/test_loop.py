"""Training is a function of settings and seed: it survives interruption bit for bit, and never goes on with NaN."""

from __future__ import annotations

import itertools
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from edgekit.errors import TrainingDivergedError
from edgekit.nn.network import GateSample, Network
from edgekit.train.checkpoint import CheckpointFolder
from edgekit.train.drop import DropStage, DualAscent
from edgekit.train.loop import (
    Recipe,
    StageOptions,
    evaluate,
    fit,
    hardware_precision,
    learning_rate_at,
    stage_steps,
    total_steps,
)
from edgekit.types import Progress
from tests.train import small
from tests.train.small import Interrupted

RECIPE = Recipe(epochs=3, batch_size=16, learning_rate=0.05, augmentation="shift+flip")
STEPS = 9
ESTIMATORS = ("hard-concrete", "straight-through", "arm", "reinforce")


def stop_before(step: int) -> Callable[[Progress], None]:
    """A progress callback that ends training once ``step`` steps are done and before their checkpoint is written."""

    def callback(progress: Progress) -> None:
        if progress.done == step:
            raise Interrupted(step)

    return callback


def press_ctrl_c_after(step: int) -> Callable[[Progress], None]:
    def callback(progress: Progress) -> None:
        if progress.done == step:
            signal.raise_signal(signal.SIGINT)

    return callback


def stage(checkpoints: Path | None = None, progress: Callable[[Progress], None] = lambda _: None) -> StageOptions:
    folder = CheckpointFolder(checkpoints, "search") if checkpoints is not None else None
    return StageOptions("search", 3, folder, 0.0, progress)


def state_of(network: Network, gates: DropStage | None) -> dict[str, Tensor]:
    tensors = {name: value.clone() for name, value in network.state_dict().items()}
    return tensors | ({"logits": gates.gates.logits.detach().clone()} if gates is not None else {})


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    different = [name for name, value in first.items() if not torch.equal(value, second[name])]
    assert different == []


def new_gates(estimator: str | None) -> DropStage | None:
    weight = DualAscent(start_us=900.0, budget_us=500.0, dense_us=1000.0)
    return None if estimator is None else small.drop_stage(estimator, weight)


def trained(
    recipe: Recipe, options: StageOptions, estimator: str | None, teacher: Network | None = None
) -> dict[str, Tensor]:
    network, gates = small.network(), new_gates(estimator)
    fit(network, small.split(), recipe, options, teacher, gates)
    return state_of(network, gates)


@pytest.mark.parametrize("estimator", [None, *ESTIMATORS])
@pytest.mark.parametrize("precision", sorted({"fp32", hardware_precision()}))
def test_interrupted_training_ends_with_the_bits_of_unbroken_training(
    tmp_path: Path, estimator: str | None, precision: str
) -> None:
    recipe = Recipe(epochs=3, batch_size=16, augmentation="shift+flip", precision=precision)
    unbroken = trained(recipe, stage(), estimator)
    for step in (2, 5, 8):
        with pytest.raises(Interrupted):
            trained(recipe, stage(tmp_path, stop_before(step)), estimator)

    resumed = trained(recipe, stage(tmp_path), estimator)

    assert_equal(unbroken, resumed)


def test_interrupted_training_with_a_teacher_ends_with_the_same_bits(tmp_path: Path) -> None:
    recipe = Recipe(epochs=3, batch_size=16, distillation=0.5)
    unbroken = trained(recipe, stage(), "hard-concrete", small.network(seed=9).eval())
    with pytest.raises(Interrupted):
        trained(recipe, stage(tmp_path, stop_before(6)), "hard-concrete", small.network(seed=9).eval())

    resumed = trained(recipe, stage(tmp_path), "hard-concrete", small.network(seed=9).eval())

    assert_equal(unbroken, resumed)


def test_a_resumed_stage_does_only_what_was_not_done(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        trained(RECIPE, stage(tmp_path, stop_before(6)), None)
    done: list[float] = []

    trained(RECIPE, stage(tmp_path, lambda progress: done.append(progress.done)), None)

    assert done == [6, 7, 8, 9]


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


@pytest.mark.parametrize(("damaged", "first"), [(1, 5), (2, 1)])
def test_a_damaged_checkpoint_costs_steps_but_no_bit(tmp_path: Path, damaged: int, first: int) -> None:
    unbroken = trained(RECIPE, stage(), "hard-concrete")
    with pytest.raises(Interrupted):
        trained(RECIPE, stage(tmp_path, stop_before(6)), "hard-concrete")
    for path in sorted(tmp_path.glob("*.safetensors"))[-damaged:]:
        damage(path)
    done: list[float] = []

    resumed = trained(RECIPE, stage(tmp_path, lambda progress: done.append(progress.done)), "hard-concrete")

    assert_equal(unbroken, resumed)
    assert done[0] == first


@pytest.mark.parametrize("step", [4, STEPS])
def test_ctrl_c_stores_the_step_in_hand(tmp_path: Path, step: int) -> None:
    unbroken = trained(RECIPE, stage(), "hard-concrete")
    interrupted, resumed = stage(tmp_path, press_ctrl_c_after(step)), stage(tmp_path)
    interrupted.checkpoint_seconds = resumed.checkpoint_seconds = 1e9

    with pytest.raises(KeyboardInterrupt):
        trained(RECIPE, interrupted, "hard-concrete")

    stored = CheckpointFolder(tmp_path, "search").newest()
    assert stored is not None and stored.step == step
    assert_equal(unbroken, trained(RECIPE, resumed, "hard-concrete"))


def test_a_second_ctrl_c_ends_training_at_once(tmp_path: Path) -> None:
    def press_twice(progress: Progress) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(RECIPE, stage(tmp_path, press_twice), None)

    assert CheckpointFolder(tmp_path, "search").newest() is None


def test_ctrl_c_does_again_what_it_did_before_once_training_is_over() -> None:
    before = signal.getsignal(signal.SIGINT)

    trained(RECIPE, stage(), None)

    assert signal.getsignal(signal.SIGINT) is before


def test_another_seed_trains_other_weights() -> None:
    first, second = small.network(), small.network()
    fit(first, small.split(), RECIPE, StageOptions("dense", 1))

    fit(second, small.split(), RECIPE, StageOptions("dense", 2))

    assert not torch.equal(first.state_dict()["operators.stem.weight"], second.state_dict()["operators.stem.weight"])


def test_training_learns_the_patterns() -> None:
    network, split = small.network(), small.split(96)

    fit(network, split, Recipe(epochs=8, batch_size=16, augmentation="none"), StageOptions("dense", 1))

    assert evaluate(network, split) > 0.9


def test_gates_and_weights_are_both_trained() -> None:
    network, gates = small.network(), small.drop_stage()
    before = state_of(network, gates)

    fit(network, small.split(), RECIPE, stage(), gates=gates)

    after = state_of(network, gates)
    assert not torch.equal(before["logits"], after["logits"])
    assert not torch.equal(before["operators.stem.weight"], after["operators.stem.weight"])


def test_the_teacher_is_left_as_it_was() -> None:
    teacher = small.network(seed=9).eval()
    before = state_of(teacher, None)

    fit(small.network(), small.split(), Recipe(epochs=1, batch_size=16, distillation=0.5), stage(), teacher)

    assert_equal(before, state_of(teacher, None))


@pytest.mark.parametrize("momentum", [0.1, None])
def test_the_second_pass_of_arm_leaves_the_running_statistics(momentum: float | None) -> None:
    """ARM and REINFORCE draw the same gates; ARM looks at the batch under another draw as well."""
    statistics = []
    for estimator in ("arm", "reinforce"):
        network = small.network()
        for norm in network.batch_norms.values():
            norm.momentum = momentum  # type: ignore[assignment]
        recipe = Recipe(epochs=1, batch_size=48, augmentation="none")
        fit(network, small.split(), recipe, stage(), gates=small.drop_stage(estimator))
        statistics.append(dict(network.named_buffers()))

    assert_equal(*statistics)


def test_a_later_stage_goes_on_where_the_schedule_is(monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    step = torch.optim.SGD.step

    def noting(optimizer: torch.optim.SGD, *args: Any) -> Any:
        rates.append(optimizer.param_groups[0]["lr"])
        return step(optimizer, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", noting)
    recipe = Recipe(epochs=4, batch_size=16, learning_rate=0.05, start=0.5, stop=0.75)

    fit(small.network(), small.split(), recipe, StageOptions("fine-tune", 1))

    assert rates == [learning_rate_at(recipe, step, 12) for step in (6, 7, 8)]


def poison(tensor: Tensor, step: int) -> Callable[[Progress], None]:
    """A progress callback that spoils a tensor after ``step`` steps, as an infinite gradient would."""

    def callback(progress: Progress) -> None:
        if progress.done == step:
            with torch.no_grad():
                tensor.view(-1)[0] = math.nan

    return callback


def test_a_learning_rate_that_is_too_high_is_named() -> None:
    recipe = Recipe(epochs=3, batch_size=16, learning_rate=1e25)

    with pytest.raises(TrainingDivergedError, match="stage 'dense'") as raised:
        fit(small.network(small.PERCEPTRON), small.split(), recipe, StageOptions("dense", 1))

    assert raised.value.exit_code == 1
    assert raised.value.hint is not None and "lower --learning-rate (now 1e+25)" in raised.value.hint


def test_a_learning_rate_is_not_blamed_for_what_was_there_before_the_first_step() -> None:
    network = small.network()
    with torch.no_grad():
        network.operators["stem"].weight.fill_(math.nan)  # type: ignore[union-attr, operator]

    with pytest.raises(TrainingDivergedError, match="at step 0 of stage 'dense'") as raised:
        fit(network, small.split(), RECIPE, StageOptions("dense", 1))

    assert "--learning-rate" not in str(raised.value.hint) and "weights" in str(raised.value.hint)


@pytest.mark.parametrize("step", [1, 4, STEPS])
def test_a_weight_that_becomes_nan_ends_training_and_reaches_no_checkpoint(tmp_path: Path, step: int) -> None:
    network = small.network()
    spoil = poison(network.operators["stem"].weight, step)  # type: ignore[arg-type]

    with pytest.raises(TrainingDivergedError, match=f"at step {step - 1} of stage 'search'"):
        fit(network, small.split(), RECIPE, stage(tmp_path, spoil))

    last = CheckpointFolder(tmp_path, "search").newest()
    assert (0 if last is None else last.step) == step - 1


def test_the_message_says_which_checkpoint_is_kept(tmp_path: Path) -> None:
    network = small.network()
    spoil = poison(network.operators["stem"].weight, 4)  # type: ignore[arg-type]

    with pytest.raises(TrainingDivergedError, match="the checkpoint before step 3 is kept"):
        fit(network, small.split(), RECIPE, stage(tmp_path, spoil))


def test_nothing_is_said_to_be_kept_where_nothing_was() -> None:
    network = small.network()
    spoil = poison(network.operators["stem"].weight, 4)  # type: ignore[arg-type]

    with pytest.raises(TrainingDivergedError) as raised:
        fit(network, small.split(), RECIPE, stage(progress=spoil))

    assert "kept" not in raised.value.message


def test_after_divergence_training_resumes_from_the_last_good_checkpoint(tmp_path: Path) -> None:
    unbroken, network = trained(RECIPE, stage(), None), small.network()
    spoil = poison(network.operators["stem"].weight, 4)  # type: ignore[arg-type]
    with pytest.raises(TrainingDivergedError):
        fit(network, small.split(), RECIPE, stage(tmp_path, spoil))

    resumed = trained(RECIPE, stage(tmp_path), None)

    assert_equal(unbroken, resumed)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_gate_that_becomes_nan_ends_training(tmp_path: Path, estimator: str, seconds: float) -> None:
    gates = small.drop_stage(estimator)
    options = stage(tmp_path, poison(gates.gates.logits, 3))
    options.checkpoint_seconds = seconds

    with pytest.raises(TrainingDivergedError, match="stage 'search'"):
        fit(small.network(), small.split(), RECIPE, options, gates=gates)


class NanPenalty(DropStage):
    """Gates whose penalty is not a number."""

    def penalty(self, step: int, total: int) -> Tensor:
        return super().penalty(step, total) * math.nan


def test_a_penalty_that_is_nan_ends_training_before_it_reaches_the_gates() -> None:
    gates = small.drop_stage()
    broken = NanPenalty(gates.gates, gates.weight, 3, "search")
    before = gates.gates.logits.detach().clone()

    with pytest.raises(TrainingDivergedError, match="the loss became nan at step 0"):
        fit(small.network(), small.split(), RECIPE, stage(), gates=broken)

    assert torch.equal(gates.gates.logits, before)


class FixedLogits(Network):
    """Gives the same logits whatever it sees; its parameters keep their gradients."""

    logits: Tensor

    def forward(self, batch: Tensor, gates: GateSample | None = None) -> Tensor:
        return self.logits[: len(batch)] + 0.0 * super().forward(batch).sum()


def fixed(logits: Tensor) -> FixedLogits:
    torch.manual_seed(0)
    network = FixedLogits(small.PERCEPTRON)
    network.logits = logits
    return network


def test_the_distillation_loss_is_its_formula() -> None:
    """(1 - w) CE + w T^2 KL(teacher || student), both at temperature T (Hinton et al. 2015)."""
    student, teacher, losses = torch.randn(12, 3), torch.randn(12, 3), []
    split, w, t = small.split(12), 0.3, 2.5
    recipe = Recipe(epochs=1, batch_size=12, augmentation="none", distillation=w, temperature=t)

    def note(values: dict[str, Any]) -> None:
        losses.append(values["loss"])

    options = StageOptions("dense", 1, metrics=note)
    fit(fixed(student), split, recipe, options, fixed(teacher).eval())

    order = torch.arange(12)[_order(split)]
    p, log_q = (teacher / t).softmax(1), (student / t).log_softmax(1)
    divergence = (p * (p.log() - log_q)).sum(1).mean()
    expected = (1 - w) * F.cross_entropy(student, split.labels[order]) + w * t**2 * divergence
    assert losses == [pytest.approx(float(expected), rel=1e-5)]


def _order(split: Any) -> Tensor:
    from edgekit.train.randomness import generator

    return torch.randperm(len(split), generator=generator(1, "dense", "order", 0))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    recipe, total = Recipe(epochs=1, learning_rate=0.2, warmup=0.1), 100

    rates = [learning_rate_at(recipe, step, total) for step in range(total + 1)]

    peak = rates.index(max(rates))
    assert peak == 9 and rates[0] == pytest.approx(0.02) and rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)


def test_the_learning_rate_is_half_of_its_peak_in_the_middle() -> None:
    assert learning_rate_at(Recipe(epochs=1, learning_rate=0.2), 50, 100) == pytest.approx(0.1)


@pytest.mark.parametrize(("epochs", "expected"), [(1.0, 3), (2.5, 8), (1e-6, 1), (0.5, 2)])
def test_a_stage_has_its_epochs_in_steps_and_at_least_one(epochs: float, expected: int) -> None:
    assert total_steps(small.split(48), Recipe(epochs=epochs, batch_size=16)) == expected


@given(
    epochs=st.floats(0.01, 20),
    cuts=st.lists(st.floats(0, 1), max_size=4).map(lambda shares: [0.0, *sorted(shares), 1.0]),
)
def test_stages_lie_within_the_schedule_and_leave_no_gap(epochs: float, cuts: list[float]) -> None:
    split, total = small.split(48), total_steps(small.split(48), Recipe(epochs=epochs, batch_size=16))

    stages = [
        stage_steps(split, Recipe(epochs=epochs, batch_size=16, start=start, stop=stop))
        for start, stop in itertools.pairwise(cuts)
    ]

    covered = {step for first, count in stages for step in range(first, first + count)}
    assert covered == set(range(total))


def test_evaluation_is_the_share_of_right_answers() -> None:
    split = small.split(9)
    logits = F.one_hot(split.labels, 3).float()
    logits[:3] = logits[:3].roll(1, 1)

    assert evaluate(fixed(logits), split) == pytest.approx(6 / 9)


def test_metrics_name_stage_step_and_what_the_gates_show() -> None:
    seen: list[dict[str, Any]] = []
    options = StageOptions("search", 3, metrics=seen.append, metrics_every=4)

    fit(small.network(), small.split(), RECIPE, options, gates=small.drop_stage())

    assert [values["step"] for values in seen] == [0, 4, 8]
    assert set(seen[0]) >= {"stage", "epoch", "loss", "accuracy", "lambda", "expected_us"}
