"""A network computes what torch computes layer by layer, and gates change it as their formulas say."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgekit.nn.modules import LayerModules, make_modules  # noqa: E402
from edgekit.nn.network import GateSample, Network, clone  # noqa: E402
from edgekit.types import INPUT, Layer, NetworkSpec, UnitKind, UnitSpec  # noqa: E402
from tests.nn.networks import (  # noqa: E402
    Graph,
    family_specs,
    identity_block,
    random_images,
    random_network,
    user_specs,
)


def _one_layer(unit: UnitSpec, modules: LayerModules | None = None) -> Network:
    modules = modules or LayerModules()
    layer = Layer(name="one", unit=unit, inputs=(INPUT,), batch_norm=modules.batch_norm is not None)
    return Network(NetworkSpec(name="test", input_shape=unit.input_shape, layers=(layer,)), {"one": modules})


def _conv_unit(**changes: Any) -> UnitSpec:
    fields = {"input_shape": (3, 6, 6), "output_shape": (4, 4, 4), "kernel": (3, 3), **changes}
    return UnitSpec(kind="conv", **fields)


def _pool_unit(kind: UnitKind, padding: tuple[int, int, int, int], size: tuple[int, int]) -> UnitSpec:
    return UnitSpec(
        kind=kind, input_shape=(3, 6, 6), output_shape=(3, *size), kernel=(3, 3), stride=(2, 2), padding=padding
    )


def _images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def _trained_norm(**options: Any) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(4, **options)
    norm.running_mean = torch.linspace(-1, 1, 4)
    norm.running_var = torch.linspace(0.5, 2, 4)
    if norm.affine:
        nn.init.uniform_(norm.weight, -1, 1)
        nn.init.uniform_(norm.bias, -1, 1)
    return norm


def test_a_residual_network_computes_what_its_modules_compute_by_hand() -> None:
    graph = Graph((3, 6, 6))
    x = identity_block(graph, "block", graph.conv("stem", INPUT, 4, activation="relu6"))
    graph.dense("classifier", graph.flatten("flatten", graph.pool("pool", x)), 2, activation="none")
    network, images = random_network(graph.spec()), _images()

    def convolve(name: str, x: Tensor) -> Tensor:
        parts = network.layer_modules[name]
        return parts.batch_norm(F.conv2d(x, parts.operator.weight, padding=1))  # type: ignore[misc, union-attr]

    x0 = convolve("stem", images).clamp(0, 6)
    x1 = F.relu(x0 + convolve("block.conv2", F.relu(convolve("block.conv1", x0))))
    expected = network.layer_modules["classifier"].operator(F.max_pool2d(x1, 3, 2, 1).flatten(1))  # type: ignore[misc]
    torch.testing.assert_close(network(images), expected)


@settings(max_examples=30)
@given(st.tuples(*[st.integers(0, 3)] * 4), st.integers(1, 2), st.integers(1, 2))
def test_a_convolution_pads_each_side_by_its_own(padding: tuple[int, int, int, int], stride: int, step: int) -> None:
    conv = nn.Conv2d(3, 4, 3)
    unit = _conv_unit(padding=padding, stride=(stride, stride), dilation=(step, step))
    top, left, bottom, right = padding

    actual = _one_layer(unit, LayerModules(conv))(_images())

    padded = F.pad(_images(), (left, right, top, bottom))
    torch.testing.assert_close(actual, F.conv2d(padded, conv.weight, conv.bias, stride, 0, step))


def test_a_grouped_convolution_keeps_its_groups() -> None:
    conv = nn.Conv2d(3, 6, 3, groups=3)
    unit = _conv_unit(output_shape=(6, 4, 4), groups=3)

    torch.testing.assert_close(_one_layer(unit, LayerModules(conv))(_images()), conv(_images()))


def test_max_pooling_never_picks_the_padding() -> None:
    unit = _pool_unit("max_pool", padding=(0, 0, 1, 1), size=(3, 3))
    images = -_images().abs() - 1

    expected = F.max_pool2d(images, 3, 2, ceil_mode=True)
    torch.testing.assert_close(_one_layer(unit)(images), expected)


def test_average_pooling_counts_the_padding() -> None:
    unit = _pool_unit("average_pool", padding=(1, 1, 1, 1), size=(3, 3))

    expected = F.avg_pool2d(_images(), 3, 2, 1, count_include_pad=True)
    torch.testing.assert_close(_one_layer(unit)(_images()), expected)


def test_a_scale_normalises_even_where_its_spec_does_not_say_so() -> None:
    unit = UnitSpec(kind="scale", input_shape=(3, 6, 6), output_shape=(3, 6, 6))

    modules = make_modules(Layer(name="one", unit=unit, inputs=(INPUT,)))

    assert isinstance(modules.batch_norm, nn.BatchNorm2d)


@pytest.mark.parametrize("is_training", [False, True])
@pytest.mark.parametrize("batch_norm", ["none", "affine", "plain"])
@pytest.mark.parametrize("bias", [False, True])
def test_a_multiplier_multiplies_the_output_before_the_activation(
    batch_norm: str, bias: bool, is_training: bool
) -> None:
    norm = None if batch_norm == "none" else _trained_norm(affine=batch_norm == "affine")
    network = _one_layer(_conv_unit(), LayerModules(nn.Conv2d(3, 4, 3, bias=bias), norm)).train(is_training)
    multiplier = torch.tensor([0.0, 0.5, 1.0, 2.0])

    actual = network(_images(), GateSample({"one": multiplier}))

    torch.testing.assert_close(actual, network(_images()) * multiplier.reshape(1, 4, 1, 1))


@pytest.mark.parametrize("batch_norm", [False, True])
def test_one_multiplier_may_serve_all_channels(batch_norm: bool) -> None:
    modules = LayerModules(nn.Conv2d(3, 4, 3), _trained_norm() if batch_norm else None)
    network = _one_layer(_conv_unit(), modules).eval()

    actual = network(_images(), GateSample({"one": torch.tensor(0.25)}))

    torch.testing.assert_close(actual, network(_images()) * 0.25)


def test_a_multiplier_leaves_the_running_statistics_alone() -> None:
    gated, plain = (_one_layer(_conv_unit(), LayerModules(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))) for _ in range(2))
    gated.load_state_dict(plain.state_dict())

    plain.train()(_images())
    gated.train()(_images(), GateSample({"one": torch.tensor([0.0, 0.1, 2.0, 1.0])}))

    for name, value in plain.named_buffers():
        torch.testing.assert_close(dict(gated.named_buffers())[name], value)


@pytest.mark.parametrize("momentum", [None, 0.0, 0.1, 0.7])
def test_running_statistics_move_as_those_of_torch(momentum: float | None) -> None:
    own, reference = nn.BatchNorm2d(3, momentum=momentum), nn.BatchNorm2d(3, momentum=momentum)
    unit = UnitSpec(kind="scale", input_shape=(3, 6, 6), output_shape=(3, 6, 6))
    network = _one_layer(unit, LayerModules(batch_norm=own)).train()

    for seed in range(3):
        batch = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) + seed
        network(batch)
        reference(batch)

    torch.testing.assert_close(own.running_mean, reference.running_mean)
    torch.testing.assert_close(own.running_var, reference.running_var)


def test_a_skipped_block_passes_its_shortcut_through_the_activation_of_the_add() -> None:
    graph = Graph((3, 6, 6))
    graph.conv("stem", INPUT, 4, activation="none")
    identity_block(graph, "block", "stem")
    network = random_network(graph.spec())
    sample = GateSample(skipped=frozenset({"block.conv1", "block.conv2"}), bypass={"block.add": "stem"})

    actual = network(_images(), sample)

    stem = Network(
        NetworkSpec(name="stem", input_shape=(3, 6, 6), layers=graph.spec().layers[:1]), network.layer_modules
    )
    torch.testing.assert_close(actual, F.relu(stem.eval()(_images())))


def test_parameters_are_shared_with_the_modules_that_were_given() -> None:
    conv = nn.Conv2d(3, 4, 3)
    network = _one_layer(_conv_unit(), LayerModules(conv))

    network(_images()).sum().backward()

    assert conv.weight.grad is not None
    assert next(network.parameters()) is conv.weight


@settings(max_examples=20)
@given(st.one_of(family_specs(), user_specs()))
def test_a_clone_computes_the_same(spec: NetworkSpec) -> None:
    network, images = random_network(spec), random_images(spec)

    assert torch.equal(clone(network)(images), network(images))


def test_a_clone_has_parameters_of_its_own() -> None:
    network = _one_layer(_conv_unit(), LayerModules(nn.Conv2d(3, 4, 3)))

    copy = clone(network)
    before = network(_images())
    for parameter in copy.parameters():
        parameter.data.zero_()

    assert torch.equal(network(_images()), before)
    assert not copy(_images()).any()


def test_a_clone_keeps_what_only_the_modules_of_the_user_know() -> None:
    modules = LayerModules(nn.Conv2d(3, 4, 3, bias=True), _trained_norm(eps=0.3, momentum=0.9))
    network = _one_layer(_conv_unit(), modules).eval()

    copy = clone(network)

    assert not copy.training
    torch.testing.assert_close(copy(_images()), network(_images()))
