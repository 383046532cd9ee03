"""Physical removal of dropped units: a smaller dense network, no masks left, weights inherited.

Which units go is decided elsewhere (``train.selection``); here a choice becomes a `NetworkSpec` and a `Network`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor, nn

from edgekit.nn.modules import LayerModules
from edgekit.nn.network import Network
from edgekit.nn.structure import Structure
from edgekit.types import Activation, Layer, NetworkSpec, UnitSpec


@dataclass(frozen=True)
class Choice:
    """What stays: channel indices of every space, and the names of the add layers whose branch is dropped."""

    channels: tuple[tuple[int, ...], ...]
    dropped: frozenset[str] = frozenset()


def keep_everything(structure: Structure) -> Choice:
    """The choice that changes nothing."""
    return Choice(tuple(tuple(range(space.size)) for space in structure.spaces))


def cut_spec(structure: Structure, choice: Choice, name: str | None = None) -> NetworkSpec:
    """The network's graph with only what ``choice`` keeps."""
    removed = _removed_layers(structure, choice)
    replaced: dict[str, str] = {}
    layers: dict[str, Layer] = {}
    for layer in structure.spec.layers:
        if layer.name in removed:
            continue
        inputs = tuple(replaced.get(source, source) for source in layer.inputs)
        if layer.name in choice.dropped:
            shortcut = next(b.shortcut for b in structure.blocks if b.add == layer.name)
            _bypass(layer, replaced.get(shortcut, shortcut), structure, choice, layers, replaced)
        else:
            unit = _unit_of_choice(layer, structure, choice)
            layers[layer.name] = msgspec.structs.replace(layer, inputs=inputs, unit=unit)
    spec = structure.spec
    return msgspec.structs.replace(spec, name=name or spec.name, layers=tuple(layers.values()))


def cut_network(network: Network, structure: Structure, choice: Choice, gain: float = 1.0) -> Network:
    """The network with only what ``choice`` keeps, in the weights of ``network``.

    ``gain`` is the coefficient that kept units were multiplied by in training: it goes into the weights of those that
    were gated.
    """
    spec = cut_spec(structure, choice)
    small = Network(spec)
    gated = {w for space in structure.spaces if space.is_droppable for w in space.writers}
    for layer in spec.layers:
        source = network.layer_modules.get(layer.name)
        if source is not None and layer.unit.has_weights:
            rows = torch.tensor(choice.channels[structure.output_space[layer.name]])
            columns = _input_features(layer.name, structure, choice)
            _copy_layer(source, small.layer_modules[layer.name], layer, rows, columns)
            if gain != 1.0 and layer.name in gated:
                _scale_output(small.layer_modules[layer.name], gain)
    return small.train(network.training)


def _removed_layers(structure: Structure, choice: Choice) -> set[str]:
    return {name for block in structure.blocks if block.add in choice.dropped for name in block.branch}


def resized_unit(layer: Layer, structure: Structure, input_channels: int, output_channels: int) -> UnitSpec:
    """The unit of a layer with other channel counts in its input and output space."""
    unit, span = layer.unit, structure.input_span[layer.name]
    features = output_channels
    if unit.kind == "flatten" and len(unit.input_shape) == 3:
        features = output_channels * unit.input_shape[1] * unit.input_shape[2]
    elif unit.kind not in ("conv", "dense", "flatten"):
        features = output_channels * span
    return msgspec.structs.replace(
        unit,
        input_shape=(input_channels * span, *unit.input_shape[1:]),
        output_shape=(features, *unit.output_shape[1:]),
        groups=output_channels if unit.is_depthwise else unit.groups,
    )


def _unit_of_choice(layer: Layer, structure: Structure, choice: Choice) -> UnitSpec:
    sources = len(choice.channels[structure.input_space[layer.name]])
    targets = len(choice.channels[structure.output_space[layer.name]])
    return resized_unit(layer, structure, sources, targets)


def _bypass(
    add: Layer,
    shortcut: str,
    structure: Structure,
    choice: Choice,
    layers: dict[str, Layer],
    replaced: dict[str, str],
) -> None:
    """Let the readers of a dropped block's add read its shortcut, keeping the add's activation."""
    source = layers.get(shortcut)
    wanted = add.unit.activation
    readers = [x for x in structure.spec.layers if x.name != add.name and shortcut in x.inputs]
    readers = [x for x in readers if x.name not in _removed_layers(structure, choice)]
    if wanted == "none" or (source is not None and _is_idempotent(source.unit.activation, wanted)):
        replaced[add.name] = shortcut
    elif source is not None and source.unit.has_weights and source.unit.activation == "none" and not readers:
        layers[shortcut] = msgspec.structs.replace(
            source, unit=msgspec.structs.replace(source.unit, activation=wanted)
        )
        replaced[add.name] = shortcut
    else:
        unit = msgspec.structs.replace(_unit_of_choice(add, structure, choice), kind="activation")
        layers[add.name] = msgspec.structs.replace(add, unit=unit, inputs=(shortcut,))


def _is_idempotent(first: Activation, second: Activation) -> bool:
    """Whether ``second`` changes nothing behind ``first``."""
    return first == second or (first == "relu6" and second == "relu")


def _input_features(name: str, structure: Structure, choice: Choice) -> Tensor:
    """Kept input features of a layer: each channel stands for ``span`` consecutive ones behind a flatten."""
    span = structure.input_span[name]
    channels = torch.tensor(choice.channels[structure.input_space[name]])
    return (channels[:, None] * span + torch.arange(span)).reshape(-1)


@torch.no_grad()
def _copy_layer(source: LayerModules, target: LayerModules, layer: Layer, rows: Tensor, columns: Tensor) -> None:
    if source.operator is not None and target.operator is not None:
        weight = source.operator.weight[rows]
        if layer.unit.groups == 1:
            weight = weight[:, columns]
        _assign(target.operator, "weight", weight)
        if source.operator.bias is not None:
            # A layer with both a bias and a batch normalisation needs a place for the former.
            _assign(target.operator, "bias", source.operator.bias[rows])
    if source.batch_norm is not None and target.batch_norm is not None:
        norm = target.batch_norm
        norm.eps, norm.momentum = source.batch_norm.eps, source.batch_norm.momentum
        for name in ("weight", "bias", "running_mean", "running_var"):
            value = getattr(source.batch_norm, name)
            if value is not None:
                getattr(norm, name).data = value[rows].clone()


def _assign(module: nn.Module, name: str, value: Tensor) -> None:
    setattr(module, name, nn.Parameter(value.clone()))


@torch.no_grad()
def _scale_output(parts: LayerModules, gain: float) -> None:
    for module in (parts.batch_norm or parts.operator,):
        if module is not None:
            module.weight.mul_(gain)
            if module.bias is not None:
                module.bias.mul_(gain)


def kept_names(structure: Structure, choice: Choice) -> Mapping[str, int]:
    """Kept channels by layer name; 0 for layers that are gone."""
    removed = _removed_layers(structure, choice) | choice.dropped
    return {
        layer.name: 0 if layer.name in removed else len(choice.channels[structure.output_space[layer.name]])
        for layer in structure.spec.layers
    }
