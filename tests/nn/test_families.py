"""The networks that edgekit knows by name have the depth, width and shapes that their names promise."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from edgekit.errors import UsageError
from edgekit.nn.families import multilayer_perceptron, named_network, residual_network, scale_widths
from edgekit.types import INPUT, NetworkSpec
from tests.nn.networks import family_specs


def _widths(spec: NetworkSpec) -> list[int]:
    return [layer.unit.output_shape[0] for layer in spec.layers if layer.unit.kind in ("conv", "dense")]


@pytest.mark.parametrize("depth", [8, 14, 20, 56])
def test_a_residual_network_has_as_many_layers_as_its_name_says(depth: int) -> None:
    spec = named_network(f"resnet{depth}", (3, 32, 32), 10)

    weighted = [layer for layer in spec.layers if layer.unit.kind in ("conv", "dense")]
    assert len([layer for layer in weighted if not layer.name.endswith("shortcut")]) == depth


def test_the_parameters_of_a_residual_network_are_those_counted_by_hand() -> None:
    spec = residual_network(8, (4, 4, 8), (1, 8, 8), 10)

    stem, same, wider = 9 * 4 + 4, 9 * 4 * 4 + 4, 9 * 4 * 8 + 8
    projections = (4 * 4 + 4) + (4 * 8 + 8)
    assert spec.parameter_count == stem + 4 * same + wider + (9 * 8 * 8 + 8) + projections + (8 * 10 + 10)


def test_a_mobile_network_alternates_depthwise_and_pointwise_convolutions() -> None:
    spec = named_network("mobilenet", (3, 32, 32), 10)

    convolutions = [layer.unit for layer in spec.layers if layer.unit.kind == "conv"][1:]
    assert [unit.is_depthwise for unit in convolutions] == [True, False] * 4
    assert [unit.output_shape[1] for unit in convolutions] == [16, 16, 8, 8, 8, 8, 4, 4]


def test_a_perceptron_flattens_an_image_first() -> None:
    spec = named_network("mlp-20-30", (1, 4, 4), 10)

    assert [layer.unit.output_shape for layer in spec.layers] == [(16,), (20,), (30,), (10,)]


def test_a_perceptron_reads_features_as_they_are() -> None:
    spec = multilayer_perceptron([20], (7,), 10)

    assert [layer.inputs for layer in spec.layers] == [(INPUT,), ("hidden1",)]


@pytest.mark.parametrize("name", ["resnet8", "resnet14-w0.5", "mobilenet", "mobilenet-w2", "mlp-8"])
def test_a_network_is_called_what_it_was_asked_for_as(name: str) -> None:
    assert named_network(name, (1, 8, 8), 10).name == name


def test_a_width_factor_scales_every_width() -> None:
    assert _widths(named_network("resnet8-w0.5", (1, 8, 8), 10)) == [16, 16, 16, 32, 32, 32, 64, 64, 64, 10]


def test_widths_are_rounded_to_multiples_and_never_vanish() -> None:
    assert scale_widths((32, 64, 128), 0.3) == (8, 16, 40)
    assert scale_widths((32,), 0.01) == (8,)


@pytest.mark.parametrize(
    "name", ["", "resnet", "resnet8-w", "resnet14-w0.5x", "mlp", "mlp-", "mlp-16-w0.5", "lenet", "RESNET8", "resnet8\n"]
)
def test_an_unknown_name_is_refused_with_the_known_ones(name: str) -> None:
    with pytest.raises(UsageError, match="no network is called") as caught:
        named_network(name, (1, 8, 8), 10)

    assert "resnet14" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["resnet2", "resnet9", "resnet0"])
def test_a_depth_that_does_not_exist_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        named_network(name, (1, 8, 8), 10)


@pytest.mark.parametrize("name", ["resnet8-w0", "mobilenet-w0.0"])
def test_a_network_of_no_width_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="0 times as wide"):
        named_network(name, (1, 8, 8), 10)


def test_a_hidden_layer_without_neurons_is_refused() -> None:
    with pytest.raises(UsageError, match="0 neurons"):
        named_network("mlp-16-0", (1, 8, 8), 10)


@pytest.mark.parametrize("name", ["resnet8", "mobilenet"])
def test_a_convolutional_network_refuses_features(name: str) -> None:
    with pytest.raises(UsageError, match=r"inputs of shape \(16,\)"):
        named_network(name, (16,), 10)


@settings(max_examples=50)
@given(family_specs())
def test_every_layer_reads_what_was_written_before_it(spec: NetworkSpec) -> None:
    shapes = {INPUT: spec.input_shape}
    for layer in spec.layers:
        assert {shapes[name] for name in layer.inputs} == {layer.unit.input_shape}
        shapes[layer.name] = layer.unit.output_shape

    assert spec.output.unit.output_shape == (3,)
