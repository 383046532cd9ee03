"""The weight of the penalty follows the expected latency to the budget, or stays what it was set to."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekit.nn.gates import GateOptions
from edgekit.train.drop import DropStage, DualAscent, FixedWeight
from tests.train import small


def descend(stage: DropStage, steps: int) -> list[float]:
    """Train gates on a task that likes every unit to stay, some more than others; returns lambda by step."""
    generator = torch.Generator().manual_seed(1)
    worth = torch.rand(stage.gates.unit_count, generator=generator)
    weights = []
    for step in range(steps):
        task = (worth * (1 - stage.gates.keep_probabilities())).sum()
        loss = task + stage.penalty(step, steps)
        stage.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        stage.update()
        weights.append(stage.penalty_per_ms)
    return weights


def expected_us(stage: DropStage) -> float:
    return float(stage.gates.expected_latency().detach())


def dual_ascent(share: float) -> DropStage:
    stage = small.drop_stage()
    stage.weight = DualAscent(start_us=expected_us(stage), budget_us=share * 1000.0, dense_us=1000.0)
    return stage


@pytest.mark.parametrize("share", [0.35, 0.5, 0.7])
def test_dual_ascent_brings_the_expected_latency_to_the_budget(share: float) -> None:
    stage = dual_ascent(share)

    descend(stage, 400)

    assert expected_us(stage) == pytest.approx(share * 1000.0, rel=0.12)


def test_lambda_is_never_negative() -> None:
    weights = descend(dual_ascent(0.5), 200)

    assert min(weights) >= 0 and max(weights) > 0


@given(expected_us=st.lists(st.floats(0, 3000), min_size=1, max_size=50), budget_us=st.floats(1, 2000))
def test_no_course_of_the_latency_makes_lambda_negative(expected_us: list[float], budget_us: float) -> None:
    weight = DualAscent(start_us=1500.0, budget_us=budget_us, dense_us=2000.0)

    weights = [weight.at(us, step, len(expected_us)) for step, us in enumerate(expected_us)]

    assert min(weights) >= 0


def test_lambda_rises_while_the_budget_is_missed_and_rests_when_it_is_met() -> None:
    weight = DualAscent(start_us=500.0, budget_us=500.0, dense_us=1000.0)

    missed = [weight.at(800.0, step, 100) for step in range(5)]
    met = [weight.at(100.0, step, 100) for step in range(5, 60)]

    assert missed == sorted(missed) and missed[0] < missed[-1] and met[-1] == 0.0


def test_the_wanted_latency_falls_linearly_from_the_start() -> None:
    """Halfway through the annealing, an expected latency halfway between start and budget is what is wanted."""
    weight = DualAscent(start_us=900.0, budget_us=500.0, dense_us=1000.0, anneal=0.4)

    assert weight.at(700.0, 20, 100) == 0.0 < weight.at(701.0, 20, 100)


def test_a_fixed_lambda_stays_what_it_was_set_to() -> None:
    weights = descend(small.drop_stage(weight=FixedWeight(3.5)), 20)

    assert set(weights) == {3.5}


def test_a_larger_lambda_keeps_less() -> None:
    lenient, strict = small.drop_stage(weight=FixedWeight(0.1)), small.drop_stage(weight=FixedWeight(50.0))

    for stage in (lenient, strict):
        descend(stage, 100)

    assert expected_us(strict) < 0.8 * expected_us(lenient)


def test_the_penalty_is_lambda_times_the_expected_time_in_milliseconds() -> None:
    stage = small.drop_stage(weight=FixedWeight(2.0))

    penalty = float(stage.penalty(0, 10).detach())

    assert penalty == pytest.approx(2.0 * expected_us(stage) / 1000)


def test_coefficients_weigh_what_is_kept_and_what_is_dropped() -> None:
    stage = small.drop_stage(weight=FixedWeight(1.0), options=GateOptions(low=0.25, high=2.0))
    kept_us = expected_us(stage)

    assert float(stage.penalty(0, 10).detach()) * 1000 == pytest.approx(
        2.0 * kept_us + 0.25 * (1000.0 - kept_us), rel=1e-5
    )


@pytest.mark.parametrize("estimator", ["hard-concrete", "straight-through", "arm", "reinforce"])
def test_a_restored_stage_goes_on_as_the_saved_one(estimator: str) -> None:
    saved = small.drop_stage(estimator, DualAscent(start_us=900.0, budget_us=400.0, dense_us=1000.0))
    descend(saved, 10)
    restored = small.drop_stage(estimator, DualAscent(start_us=900.0, budget_us=400.0, dense_us=1000.0))

    tensors, facts = saved.state()
    restored.restore({name: tensor.clone() for name, tensor in tensors.items()}, facts)

    assert descend(restored, 10) == descend(saved, 10)


def test_the_draw_of_a_step_depends_on_seed_and_step_alone() -> None:
    first, second = small.drop_stage(), small.drop_stage()
    first.sample(3)

    draws = [stage.sample(8).multipliers["stem"] for stage in (first, second)]

    assert torch.equal(*draws) and not torch.equal(draws[0], first.sample(9).multipliers["stem"])
