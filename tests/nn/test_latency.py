"""The latency of a choice is the sum of its grids, its expectation the mean over all states; smooth grids keep ends."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from edgekit.nn.families import multilayer_perceptron, residual_network  # noqa: E402
from edgekit.nn.latency import ExpectedLatency, FloatGrid, KeptCounts, LatencyModel, LayerGrid  # noqa: E402
from edgekit.nn.structure import Structure, analyse  # noqa: E402
from tests.nn.networks import nested_network, random_latency  # noqa: E402

PERCEPTRON = analyse(multilayer_perceptron([4, 6], (5,), 3), group_size=2)
RESIDUAL = analyse(residual_network(8, (4, 4, 4), (1, 8, 8), 3), group_size=2)
NESTED = analyse(nested_network(), group_size=2)
# By kept groups: the first hidden layer has 2 groups, the second 3.
GRIDS = (
    LayerGrid("hidden1", np.array([[1.0, 2.0]])),
    LayerGrid("hidden2", np.array([[3.0, 5.0, 7.0], [11.0, 13.0, 17.0]])),
    LayerGrid("classifier", np.array([[19.0], [23.0], [29.0]])),
)


def _groups(structure: Structure, **kept: int) -> tuple[int, ...]:
    """Kept groups by space name; all of those that are not named."""
    return tuple(kept.get(space.name, space.group_count) for space in structure.spaces)


def _enumerate(model: LatencyModel, keep_groups: Sequence[Sequence[float]], keep_blocks: Sequence[float]) -> float:
    """E[time] as the sum over every state of groups and blocks."""
    counts = [len(space) for space in keep_groups]
    chances = [*(chance for space in keep_groups for chance in space), *keep_blocks]
    total = 0.0
    for state in product((0, 1), repeat=len(chances)):
        probability = np.prod([c if kept else 1 - c for c, kept in zip(chances, state, strict=True)])
        bits = iter(state)
        groups = [max(1, sum(next(bits) for _ in range(count))) if count else 1 for count in counts]
        total += float(probability) * model.latency_us(KeptCounts(tuple(groups), tuple(map(bool, bits))))
    return total


def _expected(model: LatencyModel, keep_groups: Sequence[Sequence[float]], keep_blocks: Sequence[float]) -> float:
    widest = max(map(len, keep_groups))
    keep, mask = torch.zeros(2, len(keep_groups), widest, dtype=torch.float64)
    for index, space in enumerate(keep_groups):
        keep[index, : len(space)] = torch.tensor(space, dtype=torch.float64)
        mask[index, : len(space)] = 1
    return float(ExpectedLatency(model)(keep, mask, torch.tensor(keep_blocks, dtype=torch.float64)))


def _chances(data: st.DataObject, structure: Structure) -> tuple[list[list[float]], list[float]]:
    chance = st.floats(0, 1)
    groups = [
        data.draw(st.lists(chance, min_size=count, max_size=count))
        for count in (space.group_count if space.is_droppable else 0 for space in structure.spaces)
    ]
    blocks = len(structure.blocks)
    return groups, data.draw(st.lists(chance, min_size=blocks, max_size=blocks))


def test_the_latency_of_a_choice_is_the_sum_of_its_grids() -> None:
    model = LatencyModel(PERCEPTRON, GRIDS, overhead_us=100.0, scale=10.0)

    latency_us = model.latency_us(KeptCounts(_groups(PERCEPTRON, hidden1=2, hidden2=1), ()))

    assert latency_us == 100.0 + 10.0 * (2.0 + 11.0 + 19.0)


def test_everything_kept_costs_the_last_corner_of_every_grid() -> None:
    model = LatencyModel(PERCEPTRON, GRIDS)

    assert model.latency_us(model.full()) == 2.0 + 17.0 + 29.0


def test_the_smallest_choice_costs_the_first_corner_of_every_grid() -> None:
    model = LatencyModel(PERCEPTRON, GRIDS)

    assert model.latency_us(model.smallest()) == 1.0 + 3.0 + 19.0


def test_layers_of_a_dropped_block_cost_nothing() -> None:
    model = random_latency(RESIDUAL)
    everything = model.full()
    first_dropped = KeptCounts(everything.groups, (False, True, True))

    saved_us = model.layer_us(everything) - model.layer_us(first_dropped)

    names = [layer.name for layer in RESIDUAL.spec.layers]
    assert {name for name, us in zip(names, saved_us, strict=True) if us > 0} == {
        "stage1.block1.conv1",
        "stage1.block1.conv2",
        "stage1.block1.add",
    }
    assert model.layer_us(first_dropped).min() >= 0


@pytest.mark.parametrize("structure", [PERCEPTRON, RESIDUAL], ids=["perceptron", "residual"])
def test_a_correction_moves_the_prediction_to_what_was_measured(structure: Structure) -> None:
    model = random_latency(structure)
    predicted_us = model.latency_us(model.full())

    moved = model.scaled_to(measured_us=1.25 * predicted_us, predicted_us=predicted_us)

    assert moved.latency_us(moved.smallest()) == pytest.approx(1.25 * model.latency_us(model.smallest()))


@settings(max_examples=25)
@given(st.data(), st.integers(0, 99))
def test_the_expectation_over_channel_groups_is_exact(data: st.DataObject, seed: int) -> None:
    model = random_latency(PERCEPTRON, seed)
    groups, blocks = _chances(data, PERCEPTRON)

    assert _expected(model, groups, blocks) == pytest.approx(_enumerate(model, groups, blocks), rel=1e-12)


@settings(max_examples=8)
@given(st.data(), st.integers(0, 99))
def test_the_expectation_over_groups_and_nested_blocks_is_exact(data: st.DataObject, seed: int) -> None:
    model = random_latency(NESTED, seed)
    groups, blocks = _chances(data, NESTED)

    assert _expected(model, groups, blocks) == pytest.approx(_enumerate(model, groups, blocks), rel=1e-12)


@settings(max_examples=20)
@given(st.data(), st.integers(0, 99))
def test_the_gradient_of_the_expectation_is_that_of_finite_differences(data: st.DataObject, seed: int) -> None:
    expected = ExpectedLatency(random_latency(RESIDUAL, seed))
    shape = (len(RESIDUAL.spaces), 2)
    mask = torch.tensor([[float(space.is_droppable)] * 2 for space in RESIDUAL.spaces], dtype=torch.float64)
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 2**31)))
    groups = torch.rand(*shape, dtype=torch.float64, generator=generator).requires_grad_()
    blocks = torch.rand(len(RESIDUAL.blocks), dtype=torch.float64, generator=generator).requires_grad_()

    assert torch.autograd.gradcheck(lambda g, b: expected(g, mask, b), (groups, blocks))


def test_certain_gates_give_the_latency_of_that_choice() -> None:
    model = LatencyModel(PERCEPTRON, GRIDS, overhead_us=5.0)

    expected_us = _expected(model, [[], [1.0, 0.0], [0.0, 1.0, 1.0], []], [])

    assert expected_us == 5.0 + 1.0 + 5.0 + 23.0


def test_a_space_whose_groups_are_all_dropped_still_costs_one() -> None:
    model = LatencyModel(PERCEPTRON, GRIDS)

    assert _expected(model, [[], [0.0, 0.0], [0.0, 0.0, 0.0], []], []) == model.latency_us(model.smallest())


@st.composite
def measured_grids(draw: st.DrawFn) -> FloatGrid:
    """Times as kernels have them: any, zero included, not even monotone."""
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    times = draw(st.lists(st.floats(0, 1e4), min_size=rows * columns, max_size=rows * columns))
    return np.array(times).reshape(rows, columns)


def _smooth(us: FloatGrid) -> FloatGrid:
    """The smooth grid of a layer that has 5 groups on either side."""
    structure = analyse(multilayer_perceptron([5, 5], (3,), 2), group_size=1)
    return LatencyModel(structure, [LayerGrid("hidden2", us)]).smoothed().grids[0].us


@settings(max_examples=100)
@given(measured_grids())
def test_smooth_grids_keep_the_time_of_the_dense_layer(us: FloatGrid) -> None:
    assert _smooth(us)[-1, -1] == pytest.approx(us[-1, -1], abs=1e-9)


@settings(max_examples=100)
@given(measured_grids())
def test_smooth_grids_are_never_negative_and_never_fall(us: FloatGrid) -> None:
    smooth = _smooth(us)

    rounding_us = 1e-9 * max(1.0, float(smooth.max()))
    assert smooth.min() >= -rounding_us
    assert np.diff(smooth, axis=0).min(initial=0) >= -rounding_us
    assert np.diff(smooth, axis=1).min(initial=0) >= -rounding_us


@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=4, max_size=4).filter(any))
def test_a_grid_of_the_smooth_form_is_kept_as_it_is(coefficients: list[float]) -> None:
    rows, columns = np.meshgrid(np.arange(1, 5), np.arange(1, 4), indexing="ij")
    c0, c1, c2, c3 = coefficients
    us = c0 + c1 * rows + c2 * columns + c3 * rows * columns

    np.testing.assert_allclose(_smooth(us), us, rtol=1e-6, atol=1e-9)


def test_a_staircase_becomes_a_slope_that_every_gate_feels() -> None:
    staircase = np.array([[10.0, 10.0, 10.0, 40.0, 40.0]])

    assert np.diff(_smooth(staircase)).min() > 0


def test_a_smoothed_model_costs_the_same_when_dense() -> None:
    model = random_latency(RESIDUAL)

    assert model.smoothed().latency_us(model.full()) == pytest.approx(model.latency_us(model.full()))
