"""A network that was cut computes what the same network computes with its dropped units masked."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from edgekit.nn.cut import Choice, cut_network, cut_spec, keep_everything, kept_names, resized_unit  # noqa: E402
from edgekit.nn.estimators import make_estimator  # noqa: E402
from edgekit.nn.families import residual_network  # noqa: E402
from edgekit.nn.gates import GateOptions, Gates  # noqa: E402
from edgekit.nn.modules import LayerModules  # noqa: E402
from edgekit.nn.network import GateSample, Network  # noqa: E402
from edgekit.nn.structure import Structure, analyse  # noqa: E402
from edgekit.types import INPUT, NetworkSpec  # noqa: E402
from tests.nn.networks import (  # noqa: E402
    Graph,
    choices,
    family_specs,
    identity_block,
    random_images,
    random_latency,
    random_network,
    user_specs,
)


def _mask(structure: Structure, choice: Choice, estimator: str = "hard-concrete", high: float = 1.0) -> GateSample:
    """The gates of a choice: 1 for what it keeps, 0 for all else."""
    gates = Gates(structure, random_latency(structure), make_estimator(estimator), GateOptions(high=high))
    kept = [
        float(space.channels_of_group(group)[0] in choice.channels[index])
        for index, space in enumerate(structure.spaces)
        if space.is_droppable
        for group in range(space.group_count)
    ]
    kept += [float(block.add not in choice.dropped) for block in structure.blocks]
    return gates.sample_of(torch.tensor(kept))


def _assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    actual, expected = actual.detach(), expected.detach()
    assert float((actual - expected).abs().max()) <= tolerance * max(1.0, float(expected.abs().max()))


@settings(max_examples=120)
@given(st.data(), st.one_of(family_specs(), user_specs()), st.integers(1, 3))
def test_a_cut_network_equals_the_masked_one(data: st.DataObject, spec: NetworkSpec, group_size: int) -> None:
    structure = analyse(spec, group_size)
    choice = data.draw(choices(structure))
    network, images = random_network(spec), random_images(spec)

    small = cut_network(network, structure, choice)

    _assert_close(small(images), network(images, _mask(structure, choice)))


@settings(max_examples=40)
@given(st.data(), st.one_of(family_specs(), user_specs()))
def test_multiplying_a_branch_by_zero_equals_cutting_it(data: st.DataObject, spec: NetworkSpec) -> None:
    structure = analyse(spec, group_size=2)
    choice = data.draw(choices(structure))
    network, images = random_network(spec), random_images(spec)
    mask = _mask(structure, choice, estimator="straight-through")

    small = cut_network(network, structure, choice)

    assert not mask.skipped
    _assert_close(small(images), network(images, mask))


@settings(max_examples=40)
@given(st.data(), st.one_of(family_specs(), user_specs()), st.floats(0.5, 1.5))
def test_the_gain_is_the_coefficient_that_kept_units_had(data: st.DataObject, spec: NetworkSpec, gain: float) -> None:
    structure = analyse(spec, group_size=2)
    choice = data.draw(choices(structure))
    network, images = random_network(spec), random_images(spec)

    small = cut_network(network, structure, choice, gain)

    _assert_close(small(images), network(images, _mask(structure, choice, high=gain)))


@settings(max_examples=30)
@given(st.one_of(family_specs(), user_specs()))
def test_keeping_everything_changes_nothing(spec: NetworkSpec) -> None:
    structure = analyse(spec)

    assert cut_spec(structure, keep_everything(structure)) == spec


@settings(max_examples=40)
@given(st.data(), st.one_of(family_specs(), user_specs()))
def test_every_layer_of_a_cut_spec_fits_the_layers_that_it_reads(data: st.DataObject, spec: NetworkSpec) -> None:
    structure = analyse(spec, group_size=2)

    small = cut_spec(structure, data.draw(choices(structure)))

    shapes = {INPUT: small.input_shape}
    for layer in small.layers:
        assert {shapes[name] for name in layer.inputs} == {layer.unit.input_shape}
        shapes[layer.name] = layer.unit.output_shape


def test_a_cut_normalisation_with_a_plain_mean_goes_on_counting() -> None:
    """With a ``momentum`` of None the next batch weighs one part in as many as were seen."""
    spec = residual_network(8, (8, 8, 8), (1, 8, 8), 3)
    network, structure = random_network(spec), analyse(spec, group_size=4)
    for norm in network.batch_norms.values():
        norm.momentum, norm.num_batches_tracked = None, torch.tensor(7)  # type: ignore[assignment]

    small = cut_network(network, structure, keep_everything(structure))

    assert {(norm.momentum, int(norm.num_batches_tracked)) for norm in small.batch_norms.values()} == {(None, 7)}  # type: ignore[arg-type]


def test_a_cut_network_holds_no_more_parameters_than_its_spec_says() -> None:
    spec = residual_network(8, (8, 8, 8), (1, 8, 8), 3)
    structure = analyse(spec, group_size=4)
    choice = Choice(tuple(tuple(range(4)) if s.is_droppable else tuple(range(s.size)) for s in structure.spaces))

    small = cut_network(random_network(spec), structure, choice)

    sizes = {name: tuple(p.operator.weight.shape) for name, p in small.layer_modules.items() if p.operator is not None}
    assert sizes == {x.name: x.unit.weight_shape for x in small.spec.layers if x.unit.has_weights}


def test_a_depthwise_convolution_can_be_cut_to_one_channel() -> None:
    graph = Graph((1, 6, 6))
    x = graph.depthwise("depthwise", graph.conv("stem", INPUT, 3))
    graph.dense("classifier", graph.global_pool("pool", x), 2, activation="none")
    structure = analyse(graph.spec(), group_size=1)
    network, images = random_network(graph.spec()), random_images(graph.spec())
    stem = structure.output_space["stem"]
    choice = Choice(tuple((2,) if i == stem else tuple(range(s.size)) for i, s in enumerate(structure.spaces)))

    small = cut_network(network, structure, choice)

    assert small.spec.layer("depthwise").unit.groups == 1
    _assert_close(small(images), network(images, _mask(structure, choice)))


def test_a_bias_below_a_normalisation_survives_the_cut() -> None:
    graph = Graph((2, 5, 5))
    graph.dense("classifier", graph.global_pool("pool", graph.conv("conv", INPUT, 4)), 2, activation="none")
    network = random_network(graph.spec())
    with_bias = nn.Conv2d(2, 4, 3, bias=True)
    modules = {**network.layer_modules, "conv": LayerModules(with_bias, network.layer_modules["conv"].batch_norm)}
    _assert_cut_of_modules_equals_mask(graph.spec(), modules)


def test_a_layer_without_bias_stays_without_one() -> None:
    graph = Graph((2, 5, 5), batch_norm=False)
    graph.dense("classifier", graph.global_pool("pool", graph.conv("conv", INPUT, 4)), 2, activation="none")
    network = random_network(graph.spec())
    modules = {**network.layer_modules, "conv": LayerModules(nn.Conv2d(2, 4, 3, bias=False))}
    _assert_cut_of_modules_equals_mask(graph.spec(), modules)


@pytest.mark.parametrize("high", [1.0, 0.5])
def test_a_normalisation_without_scale_and_shift_is_cut_like_any_other(high: float) -> None:
    graph = Graph((2, 5, 5))
    graph.dense("classifier", graph.global_pool("pool", graph.conv("conv", INPUT, 4)), 2, activation="none")
    network = random_network(graph.spec())
    norm = nn.BatchNorm2d(4, eps=1e-2, affine=False)
    modules = {**network.layer_modules, "conv": LayerModules(network.layer_modules["conv"].operator, norm)}
    _assert_cut_of_modules_equals_mask(graph.spec(), modules, high)


def _assert_cut_of_modules_equals_mask(spec: NetworkSpec, modules: dict[str, LayerModules], high: float = 1.0) -> None:
    """For the choice that keeps every second group of two channels."""
    network, structure = Network(spec, modules).eval(), analyse(spec, group_size=2)
    kept = [[0, 1] if space.is_droppable else range(space.size) for space in structure.spaces]
    choice, images = Choice(tuple(map(tuple, kept))), random_images(spec)

    small = cut_network(network, structure, choice, gain=high)

    _assert_close(small(images), network(images, _mask(structure, choice, high=high)))


def test_a_cut_network_shares_no_memory_with_its_source() -> None:
    spec = residual_network(8, (8, 8, 8), (1, 8, 8), 3)
    network = random_network(spec)
    before = {name: value.clone() for name, value in network.state_dict().items()}

    small = cut_network(network, analyse(spec), keep_everything(analyse(spec)))
    for value in small.state_dict().values():
        value.zero_()

    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_cut_network_stays_in_the_mode_of_its_source() -> None:
    spec = residual_network(8, (8, 8, 8), (1, 8, 8), 3)
    structure = analyse(spec)

    assert cut_network(Network(spec).train(), structure, keep_everything(structure)).training
    assert not cut_network(Network(spec).eval(), structure, keep_everything(structure)).training


def test_a_dropped_block_leaves_no_layer_where_its_activation_was_done_before() -> None:
    graph = Graph((1, 6, 6))
    x = identity_block(graph, "block", graph.conv("stem", INPUT, 4))
    graph.dense("classifier", graph.global_pool("pool", x), 2, activation="none")
    structure = analyse(graph.spec())

    small = cut_spec(structure, Choice(keep_everything(structure).channels, frozenset({"block.add"})))

    assert [layer.name for layer in small.layers] == ["stem", "pool", "classifier"]


def test_a_dropped_block_hands_its_activation_to_a_shortcut_that_has_none() -> None:
    spec = residual_network(8, (8, 8, 8), (1, 8, 8), 3)
    structure = analyse(spec)

    small = cut_spec(structure, Choice(keep_everything(structure).channels, frozenset({"stage2.block1.add"})))

    assert small.layer("stage2.block1.shortcut").unit.activation == "relu"
    assert small.layer("stage3.block1.conv1").inputs == ("stage2.block1.shortcut",)


def test_a_dropped_block_keeps_its_activation_as_a_layer_where_the_shortcut_is_read_elsewhere() -> None:
    graph = Graph((1, 6, 6))
    x = graph.conv("stem", INPUT, 4, activation="none")
    y = identity_block(graph, "block", x)
    x = graph.add("later", x, y, activation="none")
    graph.dense("classifier", graph.global_pool("pool", x), 2, activation="none")
    structure = analyse(graph.spec())

    small = cut_spec(structure, Choice(keep_everything(structure).channels, frozenset({"block.add"})))

    assert small.layer("block.add").unit.kind == "activation"
    assert small.layer("later").inputs == ("stem", "block.add")


def test_a_flattened_channel_takes_all_its_features_along() -> None:
    graph = Graph((1, 6, 6))
    x = graph.flatten("flatten", graph.conv("conv", INPUT, 4))
    graph.dense("classifier", x, 2, activation="none")
    structure = analyse(graph.spec(), group_size=1)

    unit = resized_unit(graph.spec().layer("classifier"), structure, input_channels=3, output_channels=2)

    assert unit.input_shape == (3 * 36,)


def test_the_report_counts_nothing_for_layers_that_are_gone() -> None:
    spec = residual_network(8, (8, 8, 8), (1, 8, 8), 3)
    structure = analyse(spec)
    choice = Choice(keep_everything(structure).channels, frozenset({"stage1.block1.add"}))

    kept = kept_names(structure, choice)

    assert {name for name, count in kept.items() if count == 0} == {
        "stage1.block1.conv1",
        "stage1.block1.conv2",
        "stage1.block1.add",
    }
