"""Which channels hang together and which blocks can be dropped, in the known families and in odd graphs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from edgekit.nn.families import multilayer_perceptron, residual_network, separable_network
from edgekit.nn.structure import ChannelSpace, Structure, analyse, default_group_size
from edgekit.types import INPUT, NetworkSpec
from tests.nn.networks import (
    Graph,
    family_specs,
    identity_block,
    nested_block,
    nested_network,
    pre_activation_block,
    user_specs,
)


def _space(structure: Structure, layer: str) -> ChannelSpace:
    """The space that a layer writes."""
    return structure.spaces[structure.output_space[layer]]


def _finish(graph: Graph, x: str) -> NetworkSpec:
    graph.dense("classifier", graph.global_pool("pool", x), 2, activation="none")
    return graph.spec()


def test_a_residual_network_has_a_trunk_in_each_stage_and_a_space_in_each_block() -> None:
    structure = analyse(residual_network(14, (32, 64, 128), (1, 28, 28), 10))

    trunks = [space.writers for space in structure.spaces if space.is_trunk]
    assert trunks == [
        ("stem", "stage1.block1.conv2", "stage1.block2.conv2"),
        ("stage2.block1.conv2", "stage2.block1.shortcut", "stage2.block2.conv2"),
        ("stage3.block1.conv2", "stage3.block1.shortcut", "stage3.block2.conv2"),
    ]
    inside = [space.name for space in structure.spaces if space.is_droppable and not space.is_trunk]
    assert inside == [f"stage{stage}.block{block}.conv1" for stage in (1, 2, 3) for block in (1, 2)]


def test_every_block_of_a_residual_network_can_be_dropped() -> None:
    structure = analyse(residual_network(8, (8, 16, 32), (1, 28, 28), 10))

    assert [(block.branch, block.shortcut, block.writer) for block in structure.blocks] == [
        (("stage1.block1.conv1", "stage1.block1.conv2"), "stem", "stage1.block1.conv2"),
        (("stage2.block1.conv1", "stage2.block1.conv2"), "stage2.block1.shortcut", "stage2.block1.conv2"),
        (("stage3.block1.conv1", "stage3.block1.conv2"), "stage3.block1.shortcut", "stage3.block1.conv2"),
    ]


def test_a_depthwise_convolution_shares_its_channels_with_the_layer_before() -> None:
    structure = analyse(separable_network((8, 16), (3, 8, 8), 10))

    assert _space(structure, "stem").writers == ("stem", "pair1.depthwise")
    assert not structure.blocks


def test_a_perceptron_has_a_space_in_each_hidden_layer() -> None:
    structure = analyse(multilayer_perceptron([16, 24], (1, 4, 4), 10))

    assert [space.name for space in structure.spaces if space.is_droppable] == ["hidden1", "hidden2"]


def test_input_and_output_are_never_droppable() -> None:
    structure = analyse(multilayer_perceptron([16], (32,), 10))

    reasons = [space.locked for space in structure.spaces]
    assert reasons == ["it is the network's input", None, "it is the network's output"]


def test_a_depthwise_convolution_on_the_input_is_locked_with_it() -> None:
    graph = Graph((4, 6, 6))
    structure = analyse(_finish(graph, graph.conv("conv", graph.depthwise("depthwise", INPUT), 4)), group_size=1)

    assert _space(structure, "depthwise").locked == "it is the network's input"


def test_a_grouped_convolution_locks_both_its_sides_with_the_reason() -> None:
    graph = Graph((1, 6, 6))
    x = graph.conv("grouped", graph.conv("stem", INPUT, 4), 4, groups=2)
    structure = analyse(_finish(graph, x), group_size=1)

    for layer in ("stem", "grouped"):
        assert _space(structure, layer).locked == "the grouped convolution 'grouped' ties channels across groups"


def test_the_first_reason_for_a_lock_is_kept() -> None:
    graph = Graph((4, 6, 6))
    structure = analyse(_finish(graph, graph.conv("grouped", INPUT, 4, groups=2)), group_size=1)

    assert structure.spaces[0].locked == "it is the network's input"


def test_a_flattened_map_gives_each_channel_as_many_features_as_it_has_pixels() -> None:
    graph = Graph((1, 6, 6))
    x = graph.scale("norm", graph.flatten("flatten", graph.conv("conv", INPUT, 4)))
    graph.dense("classifier", x, 2, activation="none")
    structure = analyse(graph.spec(), group_size=1)

    assert structure.input_span["classifier"] == structure.output_span("norm") == 36
    assert _space(structure, "norm").size == 4
    assert _space(structure, "norm").writers == ("conv", "norm")


def test_adding_flattened_maps_to_plain_features_locks_both() -> None:
    graph = Graph((1, 2, 2))
    x = graph.flatten("flatten", graph.conv("conv", INPUT, 4))
    graph.add("add", x, graph.dense("dense", x, 16))
    graph.dense("classifier", "add", 2, activation="none")
    structure = analyse(graph.spec(), group_size=1)

    assert _space(structure, "conv").locked == _space(structure, "dense").locked
    assert "'add' adds flattened maps" in str(_space(structure, "dense").locked)
    assert (_space(structure, "conv").size, _space(structure, "dense").size) == (4, 16)


def test_a_block_inside_a_block_is_found_with_the_outer_one() -> None:
    structure = analyse(nested_network(), group_size=2)

    inner, outer = structure.blocks
    assert inner.branch == ("outer.inner.conv1", "outer.inner.conv2")
    assert outer.branch == ("outer.first", *inner.branch, "outer.inner.add", "outer.last")
    assert structure.guards("outer.inner.conv1") == (0, 1)
    assert structure.guards("outer.last") == (1,)


def test_a_space_inside_a_block_goes_with_it() -> None:
    structure = analyse(nested_network(), group_size=2)

    guards = {space.name: structure.guards_of_space(index) for index, space in enumerate(structure.spaces)}
    assert guards["outer.inner.conv1"] == (0, 1)
    assert guards["outer.first"] == (1,)
    assert guards["stem"] == ()


def test_a_branch_that_ends_in_an_inner_add_is_no_block() -> None:
    """No single layer silences it: the inner shortcut would still be added."""
    graph = Graph((1, 6, 6))
    x = graph.conv("stem", INPUT, 4)
    y = identity_block(graph, "inner", graph.conv("first", x, 4))
    structure = analyse(_finish(graph, graph.add("outer", y, x)))

    assert [block.add for block in structure.blocks] == ["inner.add"]


@pytest.mark.parametrize("is_swapped", [False, True])
def test_of_two_adds_in_a_row_each_drops_its_own_branch(is_swapped: bool) -> None:
    graph = Graph((1, 6, 6))
    x = graph.conv("stem", INPUT, 4)
    a, b = (graph.conv(name, x, 4, activation="none") for name in ("a", "b"))
    first = graph.add("first", x, a, activation="none")
    second = graph.add("second", b, first) if is_swapped else graph.add("second", first, b)
    structure = analyse(_finish(graph, second))

    assert [(block.branch, block.shortcut) for block in structure.blocks] == [(("a",), "stem"), (("b",), "first")]


def test_a_branch_that_is_read_from_outside_is_no_block() -> None:
    graph = Graph((1, 6, 6))
    x = identity_block(graph, "block", graph.conv("stem", INPUT, 4))
    structure = analyse(_finish(graph, graph.add("outside", x, graph.conv("reader", "block.conv1", 4))))

    assert "block.add" not in {block.add for block in structure.blocks}


def test_a_normalisation_at_the_end_of_a_branch_is_what_silences_it() -> None:
    graph = Graph((1, 6, 6))
    structure = analyse(_finish(graph, pre_activation_block(graph, "block", graph.conv("stem", INPUT, 4))))

    assert structure.blocks[0].writer == "block.norm2"


def test_a_branch_without_a_convolution_is_no_block() -> None:
    graph = Graph((1, 6, 6))
    x = graph.conv("stem", INPUT, 4)
    structure = analyse(_finish(graph, graph.add("add", graph.scale("scale", x), x)))

    assert not structure.blocks


def test_an_add_that_ends_the_network_always_stays() -> None:
    graph = Graph((4, 6, 6))
    identity_block(graph, "block", INPUT)

    assert not analyse(graph.spec()).blocks


def test_adding_a_layer_to_itself_is_no_block() -> None:
    graph = Graph((1, 6, 6))
    x = graph.conv("stem", INPUT, 4)

    assert not analyse(_finish(graph, graph.add("twice", x, x))).blocks


def test_an_add_of_three_is_one_trunk_and_no_block() -> None:
    graph = Graph((1, 6, 6))
    x = graph.conv("stem", INPUT, 4)
    a, b = (graph.conv(name, x, 4, activation="none") for name in ("a", "b"))
    structure = analyse(_finish(graph, graph.add("add", x, a, b)))

    assert _space(structure, "stem").writers == ("stem", "a", "b")
    assert not structure.blocks


def test_the_longer_way_around_is_the_branch() -> None:
    graph = Graph((1, 6, 6))
    x = nested_block(graph, "outer", graph.conv("stem", INPUT, 4))
    shortcut = graph.conv("shortcut", x, 6, kernel=1, activation="none")
    y = graph.conv("second", graph.conv("first", x, 6), 6, activation="none")
    structure = analyse(_finish(graph, graph.add("add", shortcut, y)))

    assert structure.blocks[-1].branch == ("first", "second")


@pytest.mark.parametrize(("channels", "size"), [(8, 8), (63, 8), (64, 16), (512, 16)])
def test_groups_are_as_wide_as_the_blocks_of_kernels(channels: int, size: int) -> None:
    assert default_group_size(channels) == size


@settings(max_examples=50)
@given(st.integers(1, 40), st.integers(1, 12))
def test_groups_cover_every_channel_once(size: int, group_size: int) -> None:
    space = ChannelSpace("space", size, ("writer",), is_trunk=False, group_size=group_size)

    channels = [channel for group in range(space.group_count) for channel in space.channels_of_group(group)]

    assert channels == list(range(size))
    assert space.width(space.group_count) == size


@settings(max_examples=50)
@given(st.one_of(family_specs(), user_specs()))
def test_every_tensor_is_as_wide_as_its_space_says(spec: NetworkSpec) -> None:
    structure = analyse(spec, group_size=2)

    for layer in spec.layers:
        source = structure.spaces[structure.input_space[layer.name]]
        assert layer.unit.input_shape[0] == source.size * structure.input_span[layer.name]
        if layer.unit.has_weights:
            target = _space(structure, layer.name)
            assert layer.name in target.writers
            assert layer.unit.output_shape[0] == target.size * structure.output_span(layer.name)
