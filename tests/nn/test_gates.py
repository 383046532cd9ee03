"""Gates skip what they drop, multiply what they keep, and know their expected penalty exactly."""

from __future__ import annotations

from collections import Counter
from itertools import product
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from edgekit.errors import UsageError  # noqa: E402
from edgekit.nn.cut import Choice, cut_network, keep_everything  # noqa: E402
from edgekit.nn.estimators import ESTIMATORS, make_estimator  # noqa: E402
from edgekit.nn.families import multilayer_perceptron, residual_network  # noqa: E402
from edgekit.nn.gates import LOGIT_RANGE, GateOptions, Gates, Scope, drop_probabilities  # noqa: E402
from edgekit.nn.latency import KeptCounts  # noqa: E402
from edgekit.nn.network import GateSample, Network  # noqa: E402
from edgekit.nn.structure import Structure, analyse  # noqa: E402
from edgekit.types import NetworkSpec  # noqa: E402
from tests.nn.networks import (  # noqa: E402
    nested_network,
    random_images,
    random_latency,
    random_network,
    user_specs,
)

SCOPES: tuple[Scope, ...] = ("shared", "layer", "unit")
RESIDUAL = analyse(residual_network(8, (4, 4, 6), (1, 8, 8), 3), group_size=2)
NESTED = analyse(nested_network(), group_size=2)


class OperatorCount(TorchDispatchMode):
    """Counts the operators that really run, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.counts[str(func.overloadpacket)] += 1
        return func(*args, **(kwargs or {}))


def _make_gates(structure: Structure, estimator: str = "hard-concrete", **options: Any) -> Gates:
    return Gates(structure, random_latency(structure), make_estimator(estimator), GateOptions(**options))


def _without_block(structure: Structure, add: str, estimator: str = "hard-concrete") -> GateSample:
    """All gates open but that of one block."""
    gates = _make_gates(structure, estimator)
    open_groups = torch.ones(gates.group_total)
    blocks = torch.tensor([float(block.add != add) for block in structure.blocks])
    return gates.sample_of(torch.cat([open_groups, blocks]))


def _train(network: Network, sample: GateSample | None = None) -> Counter[str]:
    """One forward and backward pass in training mode; the operators that ran."""
    network.train()
    images = random_images(network.spec, count=5)
    with OperatorCount() as operators:
        logits = network(images) if sample is None else network(images, sample)
        logits.square().sum().backward()
    return operators.counts


def _gradients(network: Network, spec: NetworkSpec) -> dict[str, Tensor | None]:
    """Gradients of all parameters of the layers of ``spec``."""
    kept = {layer.name.replace(".", "/") for layer in spec.layers}
    named = ((name, value) for name, value in network.named_parameters() if name.split(".")[1] in kept)
    return {name: value.grad for name, value in named}


@pytest.mark.parametrize("add", [block.add for block in RESIDUAL.blocks])
def test_a_dropped_block_runs_no_convolution_and_no_normalisation_forward_or_backward(add: str) -> None:
    network = random_network(RESIDUAL.spec)
    cut = cut_network(network, RESIDUAL, Choice(keep_everything(RESIDUAL).channels, frozenset({add})))

    gated_counts, cut_counts = _train(network, _without_block(RESIDUAL, add)), _train(cut)

    names = ["convolution", "convolution_backward", "native_batch_norm", "native_batch_norm_backward"]
    for name in names:
        assert gated_counts[f"aten.{name}"] == cut_counts[f"aten.{name}"] > 0


@pytest.mark.parametrize("structure", [RESIDUAL, NESTED], ids=["residual", "nested"])
def test_parameters_of_a_dropped_block_have_no_gradient(structure: Structure) -> None:
    network, block = random_network(structure.spec), structure.blocks[-1]
    branch = {name.replace(".", "/") for name in block.branch}

    _train(network, _without_block(structure, block.add))

    without_gradient = {name.split(".")[1] for name, value in network.named_parameters() if value.grad is None}
    assert without_gradient == {x for x in branch if x in network.operators}


@pytest.mark.parametrize("add", [block.add for block in (*RESIDUAL.blocks, *NESTED.blocks)])
def test_all_other_gradients_are_those_of_a_network_without_the_block(add: str) -> None:
    structure = RESIDUAL if any(block.add == add for block in RESIDUAL.blocks) else NESTED
    network = random_network(structure.spec)
    cut = cut_network(network, structure, Choice(keep_everything(structure).channels, frozenset({add})))

    _train(network, _without_block(structure, add))
    _train(cut)

    actual, expected = _gradients(network, cut.spec), _gradients(cut, cut.spec)
    assert actual.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, msg=name)


def test_running_statistics_of_a_dropped_block_stand_still() -> None:
    network = random_network(RESIDUAL.spec)
    before = {name: value.clone() for name, value in network.named_buffers()}
    branch = {name.replace(".", "/") for name in RESIDUAL.blocks[0].branch}

    _train(network, _without_block(RESIDUAL, RESIDUAL.blocks[0].add))

    moved = {name.split(".")[1] for name, value in network.named_buffers() if not torch.equal(value, before[name])}
    assert moved == {name for name in network.batch_norms if name not in branch}


def test_straight_through_runs_a_dropped_block_since_its_gate_learns_from_the_output() -> None:
    sample = _without_block(RESIDUAL, RESIDUAL.blocks[0].add, "straight-through")

    assert not sample.skipped
    assert float(sample.multipliers[RESIDUAL.blocks[0].writer].abs().max()) == 0


def test_all_writers_of_a_space_get_the_same_factors() -> None:
    gates = _make_gates(RESIDUAL)
    z = torch.arange(1.0, gates.unit_count + 1)
    z[gates.group_total :] = 1

    multipliers = gates.sample_of(z).multipliers

    trunk = next(space for space in RESIDUAL.spaces if space.is_trunk)
    assert trunk.writers == ("stem", "stage1.block1.conv2")
    assert multipliers["stem"].tolist() == multipliers["stage1.block1.conv2"].tolist() == [1, 1, 2, 2]


def test_kept_units_are_multiplied_by_the_high_coefficient() -> None:
    gates = _make_gates(RESIDUAL, high=1.5)

    multipliers = gates.sample_of(torch.ones(gates.unit_count)).multipliers

    assert multipliers["stem"].tolist() == [1.5] * 4
    assert multipliers["stage1.block1.conv2"].tolist() == [1.5 * 1.5] * 4


@settings(max_examples=15)
@given(user_specs(), st.integers(0, 1000))
def test_the_gradient_of_the_loss_reaches_the_logits(spec: NetworkSpec, seed: int) -> None:
    structure = analyse(spec, group_size=2)
    gates = _make_gates(structure)
    network, images = random_network(spec).double(), random_images(spec, count=2).double()
    uniform = torch.rand(gates.unit_count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def loss(logits: Tensor) -> Tensor:
        return network(images, gates.sample_of(gates.estimator.draw(logits, uniform))).square().sum()

    direction = torch.randn(gates.unit_count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    logits, step = gates.unit_logits().detach().double().requires_grad_(), 1e-6
    (gradient,) = torch.autograd.grad(loss(logits), logits)
    difference = float((loss(logits + step * direction) - loss(logits - step * direction)).detach()) / (2 * step)
    assert float(gradient @ direction) == pytest.approx(difference, rel=1e-3, abs=1e-3)


def _enumerate_penalty_us(gates: Gates, keep: Tensor) -> float:
    """E[|high| kept time + |low| dropped time] as the sum over every state of the units, one group always kept."""
    model, low, high = gates.latency.smoothed(), abs(gates.options.low), abs(gates.options.high)
    total = 0.0
    for state in product((0, 1), repeat=gates.unit_count):
        probability = float(np.prod([p if kept else 1 - p for p, kept in zip(keep.tolist(), state, strict=True)]))
        groups = [
            max(1, sum(state[gates.offsets[i] : gates.offsets[i] + space.group_count])) if space.is_droppable else 1
            for i, space in enumerate(gates.structure.spaces)
        ]
        kept_us = model.latency_us(KeptCounts(tuple(groups), tuple(map(bool, state[gates.group_total :]))))
        total += probability * (high * kept_us + low * (gates.dense_us() - kept_us))
    return total


@pytest.mark.parametrize("estimator", sorted(ESTIMATORS))
@pytest.mark.parametrize("scope", SCOPES)
def test_the_expected_penalty_is_the_mean_over_all_states(scope: Scope, estimator: str) -> None:
    gates = _random_logits(_make_gates(NESTED, estimator, scope=scope))

    expected_us = _enumerate_penalty_us(gates, gates.keep_probabilities().detach())

    assert float(gates.expected_penalty_us().detach()) == pytest.approx(expected_us, rel=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.0, 2.0), (0.25, 1.0), (-0.5, 0.75), (-1.0, 0.0)])
def test_the_penalty_of_other_coefficients_is_the_mean_over_all_states(low: float, high: float) -> None:
    gates = _random_logits(_make_gates(NESTED, low=low, high=high))

    expected_us = _enumerate_penalty_us(gates, gates.keep_probabilities().detach())

    assert float(gates.expected_penalty_us().detach()) == pytest.approx(expected_us, rel=1e-12)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.5, 0.75), (0.2, 3.0)])
def test_the_penalty_of_blocks_is_the_sum_of_coefficient_times_time(low: float, high: float) -> None:
    """sum_i |d_i t_i| word for word, where each block has one time: no channels can be dropped."""
    structure = analyse(residual_network(8, (4, 4, 6), (1, 8, 8), 3), group_size=8)
    gates = _random_logits(_make_gates(structure, low=low, high=high))
    everything = gates.latency.full()
    layer_us = dict(zip((x.name for x in structure.spec.layers), gates.latency.layer_us(everything), strict=True))
    t = [sum(layer_us[name] for name in (*block.branch, block.add)) for block in structure.blocks]

    expected_us = abs(high) * (gates.dense_us() - sum(t))
    for keep, t_i in zip(gates.keep_probabilities().tolist(), t, strict=True):
        expected_us += keep * abs(high * t_i) + (1 - keep) * abs(low * t_i)

    assert float(gates.expected_penalty_us().detach()) == pytest.approx(expected_us, rel=1e-12)


@pytest.mark.parametrize("scope", SCOPES)
def test_the_gradient_of_the_penalty_is_that_of_finite_differences(scope: Scope) -> None:
    gates = _random_logits(_make_gates(RESIDUAL, scope=scope, low=0.1, high=0.9))

    def penalty_us(logits: Tensor) -> Tensor:
        result: Tensor = torch.func.functional_call(_Penalty(gates), {"gates.logits": logits}, ())
        return result

    assert torch.autograd.gradcheck(penalty_us, (gates.logits.detach().clone().requires_grad_(),))


class _Penalty(torch.nn.Module):
    def __init__(self, gates: Gates) -> None:
        super().__init__()
        self.gates = gates

    def forward(self) -> Tensor:
        return self.gates.expected_penalty_us()


def _random_logits(gates: Gates) -> Gates:
    gates.double()
    torch.nn.init.uniform_(gates.logits, -2, 3, generator=torch.Generator().manual_seed(3))
    return gates


def test_a_network_without_blocks_has_an_expected_latency() -> None:
    gates = _random_logits(_make_gates(analyse(multilayer_perceptron([4, 6], (5,), 3), group_size=2)))

    expected_us = _enumerate_penalty_us(gates, gates.keep_probabilities().detach())

    assert float(gates.expected_latency().detach()) == pytest.approx(expected_us, rel=1e-12)


def test_open_gates_expect_the_dense_latency() -> None:
    gates = _make_gates(RESIDUAL, group_logit=30.0, block_logit=30.0).double()

    assert float(gates.expected_latency().detach()) == pytest.approx(gates.dense_us(), rel=1e-9)


@pytest.mark.parametrize(
    ("scope", "count"),
    [("shared", 1), ("layer", 6 + 3), ("unit", 2 + 2 + 2 + 2 + 3 + 3 + 3)],
)
def test_the_scope_says_how_many_probabilities_are_learned(scope: Scope, count: int) -> None:
    assert len(_make_gates(RESIDUAL, scope=scope).logits) == count


def test_units_of_one_layer_share_their_probability_if_asked_to() -> None:
    gates = _random_logits(_make_gates(RESIDUAL, scope="layer"))

    keep = gates.keep_probabilities()

    assert keep[:2].unique().numel() == 1
    assert keep.unique().numel() == len(gates.logits)


@pytest.mark.parametrize("scope", ["layer", "unit"])
def test_groups_and_blocks_start_at_their_own_logits(scope: Scope) -> None:
    gates = _make_gates(RESIDUAL, scope=scope, group_logit=1.0, block_logit=2.0)

    assert gates.unit_logits().tolist() == [1.0] * gates.group_total + [2.0] * gates.block_total


def test_a_shared_logit_starts_at_the_mean() -> None:
    gates = _make_gates(RESIDUAL, scope="shared", group_logit=1.0, block_logit=2.0)

    mean = (gates.group_total * 1.0 + gates.block_total * 2.0) / gates.unit_count
    assert float(gates.logits.detach()) == pytest.approx(mean)


def test_the_same_seed_draws_the_same_gates() -> None:
    gates = _make_gates(RESIDUAL)

    first, second = (gates.draw_units(torch.Generator().manual_seed(5))[0] for _ in range(2))

    assert torch.equal(first, second)


def test_logits_are_kept_where_their_gradient_is_alive() -> None:
    gates = _make_gates(RESIDUAL, group_logit=50.0, block_logit=-50.0)

    gates.clamp()

    assert set(gates.logits.tolist()) == set(LOGIT_RANGE)


def test_a_layer_is_dropped_with_its_channels_or_with_its_block() -> None:
    gates = _make_gates(RESIDUAL, "straight-through", group_logit=0.0, block_logit=0.0)

    probabilities = drop_probabilities(gates)

    assert probabilities["stem"] == pytest.approx(0.5)
    assert probabilities["stage1.block1.conv1"] == pytest.approx(1 - 0.5 * 0.5)
    assert "classifier" not in probabilities


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (1.0, 0.0), (0.0, float("inf")), (float("nan"), 1.0)])
def test_coefficients_that_cannot_tell_kept_from_dropped_are_refused(low: float, high: float) -> None:
    with pytest.raises(UsageError, match="low must be below high"):
        GateOptions(low=low, high=high)
