"""Every estimator draws with the probability that it states, and those that claim no bias have none."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from torch import Tensor  # noqa: E402

from edgekit.errors import UsageError  # noqa: E402
from edgekit.nn.estimators import ESTIMATORS, Estimator, Reinforce, make_estimator  # noqa: E402
from tests.benchmarks.ten_units import UNIT_COUNT, TenUnits, draw_noise  # noqa: E402

LOGITS = torch.linspace(-4, 4, UNIT_COUNT, dtype=torch.float64)


def _loss(z: Tensor) -> Tensor:
    return (z.sum() - 3) ** 2


def _score(estimator: Estimator, logits: Tensor, uniform: Tensor) -> Tensor | None:
    return estimator.score_gradient(logits, uniform, _loss(estimator.draw(logits, uniform)), _loss)


def _standard_scores(estimates: Tensor, expected: Tensor) -> Tensor:
    """(mean - expected) in standard errors, by unit."""
    return (estimates.mean(0) - expected) / (estimates.std(0) / math.sqrt(len(estimates)))


class EstimatorConformance:
    """What every estimator must do; a new one gets the suite by naming itself."""

    name: str

    @pytest.fixture
    def estimator(self) -> Estimator:
        return make_estimator(self.name)

    def test_it_knows_its_name(self, estimator: Estimator) -> None:
        assert estimator.name == self.name

    def test_keep_variables_lie_between_0_and_1(self, estimator: Estimator) -> None:
        z = estimator.draw(LOGITS.expand(500, -1), draw_noise(500, seed=1))

        assert 0 <= float(z.min()) <= float(z.max()) <= 1

    def test_units_are_kept_as_often_as_it_says(self, estimator: Estimator) -> None:
        z = estimator.draw(LOGITS.expand(20_000, -1), draw_noise(20_000, seed=2))

        scores = _standard_scores((z > 0).double(), estimator.keep_probability(LOGITS))
        assert float(scores.abs().max()) < 3.5

    def test_a_higher_logit_is_kept_more_often(self, estimator: Estimator) -> None:
        keep = estimator.keep_probability(LOGITS)

        assert bool((keep.diff() > 0).all())
        assert 0 < float(keep.min()) < float(keep.max()) < 1

    def test_the_keep_probability_has_the_gradient_that_it_should(self, estimator: Estimator) -> None:
        logits = LOGITS.clone().requires_grad_()

        assert torch.autograd.gradcheck(estimator.keep_probability, (logits,))

    def test_the_same_noise_draws_the_same(self, estimator: Estimator) -> None:
        uniform = draw_noise(5, seed=3)

        assert torch.equal(estimator.draw(LOGITS, uniform), estimator.draw(LOGITS, uniform))

    @pytest.mark.parametrize("value", [0.0, 1 - 2**-24])
    def test_the_ends_of_the_noise_draw_finite_values(self, estimator: Estimator, value: float) -> None:
        z = estimator.draw(LOGITS.float(), torch.full((UNIT_COUNT,), value))

        assert bool(z.isfinite().all())

    def test_the_gradient_comes_from_backpropagation_or_from_a_score_but_not_both(self, estimator: Estimator) -> None:
        logits = LOGITS.clone().requires_grad_()
        uniform = draw_noise(1, seed=4)[0]

        is_pathwise = estimator.draw(logits, uniform).requires_grad
        assert is_pathwise == (_score(estimator, logits, uniform) is None)

    def test_a_dropped_unit_may_be_left_out_if_and_only_if_it_sends_no_gradient_back(
        self, estimator: Estimator
    ) -> None:
        logits = LOGITS.clone().requires_grad_()
        z = estimator.draw(logits, draw_noise(1, seed=5)[0])

        gradient = torch.autograd.grad(z.sum(), logits)[0] if z.requires_grad else torch.zeros_like(z)

        is_dropped = z.detach() < 1e-9
        assert bool(is_dropped.any())
        assert estimator.skips_exactly == (not gradient[is_dropped].any())

    def test_restored_memory_gives_the_same_next_gradient(self, estimator: Estimator) -> None:
        noise = draw_noise(6, seed=6)
        for uniform in noise[:5]:
            _score(estimator, LOGITS, uniform)
        other = make_estimator(self.name)

        other.restore(estimator.memory())

        first, second = (_score(each, LOGITS, noise[5]) for each in (estimator, other))
        assert (first is None and second is None) or torch.equal(first, second)

    def test_its_mean_gradient_is_exact_if_and_only_if_it_claims_to_be(self, estimator: Estimator) -> None:
        problem = TenUnits()

        estimates = problem.sampled_gradients(estimator, draw_noise(8_000, seed=7))

        scores = _standard_scores(estimates, problem.exact_gradient(estimator))
        assert estimator.is_unbiased == (float(scores.abs().max()) < 3)


class TestHardConcrete(EstimatorConformance):
    name = "hard-concrete"

    def test_it_leaves_units_half_open_too(self, estimator: Estimator) -> None:
        z = estimator.draw(LOGITS, draw_noise(50, seed=8))

        assert bool(((z > 0) & (z < 1)).any())


class TestStraightThrough(EstimatorConformance):
    name = "straight-through"

    def test_its_draws_are_hard(self, estimator: Estimator) -> None:
        z = estimator.draw(LOGITS, draw_noise(50, seed=8))

        assert set(z.round(decimals=12).unique().tolist()) == {0.0, 1.0}


class TestArm(EstimatorConformance):
    name = "arm"


class TestReinforce(EstimatorConformance):
    name = "reinforce"

    def test_its_first_step_is_unbiased_too(self) -> None:
        problem = TenUnits()

        first = [problem.sampled_gradients(Reinforce(), uniform[None]) for uniform in draw_noise(4_000, seed=9)]

        exact = problem.exact_gradient(Reinforce())
        assert float(_standard_scores(torch.cat(first), exact).abs().max()) < 3

    def test_the_baseline_is_a_running_mean_of_earlier_losses(self) -> None:
        estimator, uniform = Reinforce(decay=0.5), torch.full((2,), 0.5)
        for loss in (4.0, 8.0):
            estimator.score_gradient(torch.ones(2), uniform, torch.tensor(loss), _loss)

        assert estimator.memory() == {"baseline": 6.0}

    def test_a_baseline_lowers_the_variance(self) -> None:
        problem, noise = TenUnits(), draw_noise(2_000, seed=10)

        with_baseline = problem.sampled_gradients(Reinforce(), noise)
        without = torch.cat([problem.sampled_gradients(Reinforce(), uniform[None]) for uniform in noise])

        assert float(with_baseline.var(0).sum()) < float(without.var(0).sum())


def test_every_estimator_passes_the_suite() -> None:
    assert {suite.name for suite in EstimatorConformance.__subclasses__()} == set(ESTIMATORS)


def test_an_unknown_estimator_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="'gumbel'") as caught:
        make_estimator("gumbel")

    assert "hard-concrete" in str(caught.value.hint)
