"""What every writer checks before it writes: that a network is whole, in a format that runs, and has its weights.

No runtime is known here; what a single runtime cannot execute is refused by its own writer.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from edgekit import codec
from edgekit.errors import BadInputError, UnsupportedModelError
from edgekit.runtimes._base import FoldedNetwork, LayerWeights
from edgekit.types import Layer

_BITS = ((32, 32), (8, 8))


def check_network(network: FoldedNetwork, runtime: str) -> None:
    """Raise UnsupportedModelError, naming the layer, unless ``network`` can be written as it stands.

    ``runtime`` is only named in messages.
    """
    try:
        codec.check_network(network.spec, f"network {network.spec.name!r}")
    except BadInputError as error:
        raise UnsupportedModelError(error.message, error.hint) from error
    for layer in network.spec.layers:
        _check_bits(layer, runtime)
        _check_weights(layer, network.weights)


def _check_bits(layer: Layer, runtime: str) -> None:
    bits = (layer.unit.weight_bits, layer.unit.activation_bits)
    if bits not in _BITS:
        raise UnsupportedModelError(
            f"layer {layer.name!r} needs {bits[0]}-bit weights and {bits[1]}-bit activations, "
            f"which {runtime} does not run",
            "allow 8 or 32 bits for both",
        )


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
