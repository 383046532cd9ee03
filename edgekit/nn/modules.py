"""The torch modules that hold the parameters of one layer, how fresh ones are made from its spec, and their mode.

Those of a user's model come from ``trace``; how they are applied is in ``network``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from edgekit.types import Layer


@dataclass(frozen=True)
class LayerModules:
    """Parameters of one layer: the convolution or dense layer, and the batch normalisation behind it."""

    operator: nn.Conv2d | nn.Linear | None = None
    batch_norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None


def make_modules(layer: Layer) -> LayerModules:
    """Freshly initialised modules for a layer; padding is applied by the network, so that it may be asymmetric.

    A ``scale`` is a batch normalisation by itself. Initialisation: He et al. 2015.
    """
    unit = layer.unit
    operator: nn.Conv2d | nn.Linear | None = None
    if unit.kind == "conv":
        operator = nn.Conv2d(
            unit.input_shape[0],
            unit.output_shape[0],
            unit.kernel,
            unit.stride,
            0,
            unit.dilation,
            unit.groups,
            bias=not layer.batch_norm,
        )
        nn.init.kaiming_normal_(operator.weight, mode="fan_out", nonlinearity="relu")
    elif unit.kind == "dense":
        operator = nn.Linear(unit.input_shape[0], unit.output_shape[0], bias=not layer.batch_norm)
    batch_norm: nn.BatchNorm1d | nn.BatchNorm2d | None = None
    if layer.batch_norm or unit.kind == "scale":
        norm = nn.BatchNorm2d if len(unit.output_shape) == 3 else nn.BatchNorm1d
        batch_norm = norm(unit.output_shape[0])
    return LayerModules(operator, batch_norm)


@contextlib.contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode; every part of it goes back to the mode of its own."""
    training = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, flag in training.items():
            part.training = flag
