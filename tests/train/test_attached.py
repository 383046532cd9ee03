"""Gates on a user's own module: what stays the user's, and what a training loop sees of them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from torch import nn  # noqa: E402

import edgekit  # noqa: E402
from edgekit import errors  # noqa: E402
from tests.own_models import (  # noqa: E402
    GROUP_SIZE,
    IMAGE,
    MODELS,
    batch_for,
    learn,
    made_up_profile,
    plain,
    profile_of,
    residual,
    with_gates,
)

every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


class TestTheModuleStaysTheUsers:
    @every_model
    def test_its_parameters_are_the_same_objects(self, name: str) -> None:
        model = MODELS[name][0]()
        before = {key: id(value) for key, value in model.named_parameters()}

        edgekit.attach(
            model,
            profile_of(name),
            MODELS[name][1],
            penalty_per_ms=1.0,
            group_size=GROUP_SIZE,
        )

        assert {key: id(value) for key, value in model.named_parameters()} == before

    @every_model
    def test_its_state_has_the_same_keys(self, name: str) -> None:
        model, _ = with_gates(name)

        assert list(model.state_dict()) == list(MODELS[name][0]().state_dict())

    @every_model
    def test_its_output_in_eval_mode_is_unchanged(self, name: str) -> None:
        model, gates = with_gates(name)
        batch = batch_for(name)
        attached = model.eval()(batch)

        gates.detach()

        assert torch.equal(model(batch), attached)

    @every_model
    def test_detaching_gives_its_own_forward_back(self, name: str) -> None:
        model, gates = with_gates(name)
        plain_copy = MODELS[name][0]()
        plain_copy.load_state_dict(model.state_dict())
        batch = batch_for(name)

        gates.detach()

        assert torch.equal(model.train()(batch), plain_copy.train()(batch))

    def test_training_flags_are_left_alone(self) -> None:
        model = residual()
        model[1].eval()
        before = [part.training for part in model.modules()]

        edgekit.attach(model, made_up_profile(model, IMAGE), IMAGE, penalty_per_ms=1.0, group_size=GROUP_SIZE)

        assert [part.training for part in model.modules()] == before

    def test_a_forward_of_the_object_itself_comes_back(self) -> None:
        model = plain()
        own = nn.Sequential(*model).forward
        model.forward = own  # type: ignore[method-assign]
        gates = edgekit.attach(model, made_up_profile(model, IMAGE), IMAGE, penalty_per_ms=1.0, group_size=GROUP_SIZE)

        gates.detach()

        assert model.forward == own

    def test_the_end_of_with_detaches(self) -> None:
        model, gates = with_gates("plain")

        with gates:
            pass

        assert "forward" not in model.__dict__

    def test_detaching_twice_is_detaching_once(self) -> None:
        model, gates = with_gates("plain")

        gates.detach()
        gates.detach()

        assert "forward" not in model.__dict__

    def test_a_forward_that_was_replaced_since_is_not_thrown_away(self) -> None:
        model, gates = with_gates("plain")
        model.forward = lambda x: x  # type: ignore[method-assign]

        with pytest.raises(errors.UsageError, match="replaced after the gates"):
            gates.detach()

    def test_a_deep_copy_has_gates_of_its_own(self) -> None:
        model, gates = with_gates("residual")
        learn(model, gates, batch_for("residual"))

        other = copy.deepcopy(model)
        nn.init.zeros_(other.get_parameter("5.weight"))

        assert torch.equal(other(batch_for("residual")), other.get_parameter("5.bias").expand(5, 3))
        assert model.get_parameter("5.weight").abs().sum() > 0


class TestGatesInTraining:
    @every_model
    def test_the_loss_reaches_weights_and_gates(self, name: str) -> None:
        model, gates = with_gates(name, seed=3)
        model.train()(batch_for(name)).square().mean().backward()

        assert model.get_parameter("0.weight").grad is not None
        assert gates.learned.logits.grad is not None and gates.learned.logits.grad.abs().sum() > 0

    def test_a_skipped_block_has_no_gradient(self) -> None:
        model, gates = with_gates("residual")
        with torch.no_grad():
            gates.learned.logits[gates.learned.group_total] = -30.0

        model.train()(batch_for("residual")).sum().backward()

        assert all(parameter.grad is None for parameter in model[1].parameters())
        assert model[0].weight.grad is not None

    def test_a_skipped_block_does_not_see_the_batch(self) -> None:
        model, gates = with_gates("residual")
        with torch.no_grad():
            gates.learned.logits[gates.learned.group_total] = -30.0

        model.train()(batch_for("residual"))

        assert int(model.get_buffer("1.branch.1.num_batches_tracked")) == 0

    def test_each_forward_is_another_draw(self) -> None:
        model, _ = with_gates("residual")
        batch = batch_for("residual")

        first, second = model.train()(batch), model(batch)

        assert not torch.allclose(first, second)

    def test_the_penalty_alone_brings_the_expected_time_to_the_budget(self) -> None:
        _, gates = with_gates("residual", steps=60)
        for _ in range(90):
            torch.autograd.backward(gates.penalty())
            gates.step()

        assert gates.budget_us is not None
        assert gates.expected_us <= 1.05 * gates.budget_us < 0.6 * gates.dense_us

    def test_a_fixed_penalty_is_its_weight_times_the_expected_milliseconds(self) -> None:
        _, gates = with_gates("plain", penalty_per_ms=7.0)

        assert float(gates.penalty().detach()) == pytest.approx(7.0 * gates.expected_us / 1000, rel=1e-5)

    def test_the_penalty_may_be_asked_for_often_in_one_step(self) -> None:
        _, gates = with_gates("plain", steps=2)
        torch.autograd.backward(gates.penalty())
        gates.step()

        first, second = float(gates.penalty().detach()), float(gates.penalty().detach())

        assert first == second > 0

    def test_a_step_needs_a_gradient(self) -> None:
        _, gates = with_gates("plain")

        with pytest.raises(errors.UsageError, match="no gradient"):
            gates.step()

    def test_a_gradient_that_is_not_finite_changes_nothing(self) -> None:
        _, gates = with_gates("plain")
        before = gates.learned.logits.detach().clone()
        torch.autograd.backward(gates.penalty() * float("inf"))

        gates.step()

        assert torch.equal(gates.learned.logits.detach(), before)

    def test_a_gate_that_is_closed_is_told_as_dropped(self) -> None:
        _, gates = with_gates("residual")
        with torch.no_grad():
            gates.learned.logits[gates.learned.group_total] = -30.0

        assert gates.drop_probabilities()["1.branch.0"] == pytest.approx(1.0, abs=1e-6)

    def test_a_loop_goes_on_from_a_saved_state_as_if_it_had_never_stopped(self) -> None:
        model, gates = with_gates("residual")
        batch = batch_for("residual")
        learn(model, gates, batch, steps=3)
        saved = copy.deepcopy(gates.state_dict())
        weights = copy.deepcopy(model.state_dict())
        learn(model, gates, batch, steps=2)

        other, resumed = with_gates("residual")
        other.load_state_dict(weights)
        resumed.load_state_dict(saved)
        learn(other, resumed, batch, steps=2)

        assert torch.equal(resumed.learned.logits, gates.learned.logits)
        assert resumed.penalty_weight == gates.penalty_weight

    def test_the_state_is_tensors_and_numbers(self, tmp_path: Path) -> None:
        model, gates = with_gates("plain")
        learn(model, gates, batch_for("plain"))

        torch.save(gates.state_dict(), tmp_path / "gates.pt")

        assert torch.load(tmp_path / "gates.pt", weights_only=True)["steps_done"] == 1

    def test_the_state_of_other_gates_is_refused(self) -> None:
        _, gates = with_gates("plain")
        _, other = with_gates("residual")

        with pytest.raises(errors.UsageError, match=r"shape \(\d+,\); these gates have"):
            gates.load_state_dict(other.state_dict())

    def test_dropout_is_warned_of(self) -> None:
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))

        with pytest.warns(UserWarning, match="dropout is left out in training: 2"):
            edgekit.attach(model, made_up_profile(model, (6,)), (6,), penalty_per_ms=1.0, group_size=GROUP_SIZE)

    def test_dropout_of_nothing_is_not_warned_of(self) -> None:
        model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.0), nn.Linear(16, 3))
        profile = made_up_profile(model, (6,))

        with warnings.catch_warnings():
            warnings.simplefilter("error")
            gates = edgekit.attach(model, profile, (6,), penalty_per_ms=1.0, group_size=GROUP_SIZE)

        assert gates.learned.unit_count == 4
