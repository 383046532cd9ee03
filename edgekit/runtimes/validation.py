"""What every writer checks before it writes: that a network is whole and that its shapes follow from its operators.

No runtime is known here; what a single runtime cannot execute is refused by its own writer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit.errors import UnsupportedModelError
from edgekit.runtimes._base import FoldedNetwork, LayerWeights
from edgekit.types import INPUT, Layer, Shape, UnitSpec

_WINDOWED = ("conv", "max_pool", "average_pool")
_CAN_ACTIVATE = ("conv", "dense", "scale", "add", "activation")
_BITS = ((32, 32), (8, 8))


def check_network(network: FoldedNetwork, runtime: str) -> None:
    """Raise UnsupportedModelError, naming the layer, unless ``network`` can be written as it stands.

    ``runtime`` is only named in messages.
    """
    shapes: dict[str, Shape] = {INPUT: network.spec.input_shape}
    if not network.spec.layers:
        raise UnsupportedModelError(f"network {network.spec.name!r} has no layers")
    for layer in network.spec.layers:
        _check_bits(layer, runtime)
        _check_inputs(layer, shapes)
        _check_output(layer)
        _check_weights(layer, network.weights)
        shapes[layer.name] = layer.unit.output_shape


def output_shape(unit: UnitSpec) -> Shape:
    """The shape that ``unit`` makes of its input shape; for dense and conv the channels are taken as they are."""
    shape = unit.input_shape
    if unit.kind in _WINDOWED:
        channels = unit.output_shape[0] if unit.kind == "conv" else shape[0]
        return (channels, *(_window_count(unit, axis) for axis in (0, 1)))
    if unit.kind == "dense":
        return unit.output_shape[:1]
    if unit.kind == "global_average_pool":
        return shape[:1]
    return (int(np.prod(shape)),) if unit.kind == "flatten" else shape


def _window_count(unit: UnitSpec, axis: int) -> int:
    reach = unit.dilation[axis] * (unit.kernel[axis] - 1) + 1
    padded = unit.input_shape[1 + axis] + unit.padding[axis] + unit.padding[axis + 2]
    return (padded - reach) // unit.stride[axis] + 1


def _check_bits(layer: Layer, runtime: str) -> None:
    bits = (layer.unit.weight_bits, layer.unit.activation_bits)
    if bits not in _BITS:
        raise UnsupportedModelError(
            f"layer {layer.name!r} needs {bits[0]}-bit weights and {bits[1]}-bit activations, "
            f"which {runtime} does not run",
            "allow 8 or 32 bits for both",
        )


def _check_inputs(layer: Layer, shapes: Mapping[str, Shape]) -> None:
    kind, wanted = layer.unit.kind, 2 if layer.unit.kind == "add" else 1
    if len(layer.inputs) != wanted:
        raise UnsupportedModelError(f"layer {layer.name!r} reads {len(layer.inputs)} tensors, {kind} takes {wanted}")
    if layer.name in shapes:
        raise UnsupportedModelError(f"layer name {layer.name!r} is used twice, or is the name of the network's input")
    for name in layer.inputs:
        if shapes.get(name) != layer.unit.input_shape:
            found = f"has shape {shapes[name]}" if name in shapes else "does not come before it"
            raise UnsupportedModelError(
                f"layer {layer.name!r} reads {layer.unit.input_shape} from {name!r}, which {found}"
            )


def _check_output(layer: Layer) -> None:
    unit = layer.unit
    _check_rank(layer)
    if unit.activation != "none" and unit.kind not in _CAN_ACTIVATE:
        raise UnsupportedModelError(
            f"layer {layer.name!r}: {unit.kind} cannot carry the activation {unit.activation!r}",
            "put the activation in a layer of its own",
        )
    if unit.kind == "conv" and (unit.input_shape[0] % unit.groups or unit.output_shape[0] % unit.groups):
        raise UnsupportedModelError(f"layer {layer.name!r}: {unit.groups} groups do not divide its channels")
    if unit.output_shape != output_shape(unit):
        raise UnsupportedModelError(
            f"layer {layer.name!r} claims the output shape {unit.output_shape}, its operator makes {output_shape(unit)}"
        )


def _check_rank(layer: Layer) -> None:
    rank = len(layer.unit.input_shape)
    allowed = (3,) if layer.unit.kind in (*_WINDOWED, "global_average_pool") else (1, 3)
    if layer.unit.kind == "dense":
        allowed = (1,)
    if rank not in allowed:
        wanted = " or ".join(map(str, allowed))
        raise UnsupportedModelError(f"layer {layer.name!r}: {layer.unit.kind} takes {wanted} dimensions, not {rank}")


def _check_weights(layer: Layer, weights: Mapping[str, LayerWeights]) -> None:
    if not layer.unit.has_weights:
        return
    if layer.name not in weights:
        raise UnsupportedModelError(f"layer {layer.name!r} has no weights")
    for array, wanted in (
        (weights[layer.name].weight, layer.unit.weight_shape),
        (weights[layer.name].bias, layer.unit.output_shape[:1]),
    ):
        if array.shape != wanted:
            raise UnsupportedModelError(f"layer {layer.name!r} has parameters of shape {array.shape}, not {wanted}")
        if not np.isfinite(array).all():
            raise UnsupportedModelError(f"layer {layer.name!r} has parameters that are not finite")
