"""Folds eval-mode batch normalisation into the weights that every export writes.

Formulas on arrays only: which layers have a batch normalisation is the spec's business.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edgekit.errors import BadInputError, UnsupportedModelError
from edgekit.nn.modules import LayerModules
from edgekit.runtimes._base import LayerWeights
from edgekit.types import Layer, NetworkSpec

DoubleArray = NDArray[np.float64]


def fold(spec: NetworkSpec, modules: Mapping[str, LayerModules]) -> dict[str, LayerWeights]:
    """Float32 weights and biases of every layer that has some, by name, batch normalisation folded in float64.

    Raises BadInputError if a layer's parameters have another shape than its unit, or are not finite.
    """
    return {layer.name: _fold_layer(layer, modules[layer.name]) for layer in spec.layers if layer.unit.has_weights}


def _fold_layer(layer: Layer, modules: LayerModules) -> LayerWeights:
    channels = layer.unit.output_shape[0]
    weight, bias = np.ones(channels), np.zeros(channels)
    if modules.operator is not None:
        weight = _array(modules.operator.weight)
        bias = _array(modules.operator.bias) if modules.operator.bias is not None else bias
    if modules.batch_norm is not None:
        weight, bias = _fold_batch_norm(layer, weight, bias, modules.batch_norm)
    _check(layer, weight, bias)
    return LayerWeights(weight.astype(np.float32), bias.astype(np.float32))


def _fold_batch_norm(
    layer: Layer, weight: DoubleArray, bias: DoubleArray, norm: nn.BatchNorm1d | nn.BatchNorm2d
) -> tuple[DoubleArray, DoubleArray]:
    """With s = gamma / sqrt(variance + eps): s (w x + b - mean) + beta = (s w) x + (s (b - mean) + beta).

    Source: Ioffe and Szegedy 2015, section 3.1 (inference).
    """
    if norm.running_mean is None or norm.running_var is None:
        raise UnsupportedModelError(
            f"the batch normalisation of layer {layer.name!r} keeps no running statistics",
            "make it with track_running_stats=True",
        )
    gamma = _array(norm.weight) if norm.weight is not None else 1.0
    beta = _array(norm.bias) if norm.bias is not None else 0.0
    # A negative variance gives NaN, which the check of the result reports with the layer's name.
    with np.errstate(invalid="ignore", divide="ignore"):
        s = gamma / np.sqrt(_array(norm.running_var) + norm.eps)
    folded_bias = s * (bias - _array(norm.running_mean)) + beta
    return weight * s.reshape(-1, *[1] * (weight.ndim - 1)), folded_bias


def _array(tensor: torch.Tensor) -> DoubleArray:
    return np.asarray(tensor.detach().cpu().double().numpy(), dtype=np.float64)


def _check(layer: Layer, weight: DoubleArray, bias: DoubleArray) -> None:
    expected = (layer.unit.weight_shape, (layer.unit.output_shape[0],))
    if (weight.shape, bias.shape) != expected:
        raise BadInputError(
            f"layer {layer.name!r} has weights of shape {weight.shape} and biases of shape {bias.shape}; "
            f"its unit needs {expected[0]} and {expected[1]}",
            "spec and modules must come from the same network",
        )
    largest = np.finfo(np.float32).max
    if not (np.all(np.abs(weight) <= largest) and np.all(np.abs(bias) <= largest)):
        raise BadInputError(
            f"layer {layer.name!r} has weights that are NaN, infinite or too large for float32",
            "the training diverged, or the running statistics are broken; go back to an earlier checkpoint",
        )
