"""Physical removal of dropped units: a smaller dense network, no masks left, weights inherited.

Which units go is decided elsewhere (``train.selection``); here a choice becomes a `NetworkSpec` and a `Network`.
"""

from __future__ import annotations

from collections import Counter
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
    were gated, once for the channel group and once for the block.
    """
    small = Network(cut_spec(structure, choice))
    gate_counts = _gate_counts(structure)
    for layer in small.spec.layers:
        if layer.unit.has_weights:
            parts = small.layer_modules[layer.name]
            features = _kept_features(layer.name, structure, choice)
            _copy_layer(network.layer_modules[layer.name], parts, *features)
            _scale_output(parts, gain ** gate_counts[layer.name])
    return small.train(network.training)


def _gate_counts(structure: Structure) -> Counter[str]:
    """How many coefficients multiply the output of each layer."""
    counts = Counter(block.writer for block in structure.blocks)
    counts.update(writer for space in structure.spaces if space.is_droppable for writer in space.writers)
    return counts


def _removed_layers(structure: Structure, choice: Choice) -> set[str]:
    return {name for block in structure.blocks if block.add in choice.dropped for name in block.branch}


def resized_unit(layer: Layer, structure: Structure, input_channels: int, output_channels: int) -> UnitSpec:
    """The unit of a layer with other channel counts in its input and output space."""
    unit, span = layer.unit, structure.input_span[layer.name]
    features = output_channels
    if unit.kind not in ("conv", "dense"):
        features *= span
    if unit.kind == "flatten" and len(unit.input_shape) == 3:
        features *= unit.input_shape[1] * unit.input_shape[2]
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
        layers[shortcut] = msgspec.structs.replace(source, unit=msgspec.structs.replace(source.unit, activation=wanted))
        replaced[add.name] = shortcut
    else:
        unit = msgspec.structs.replace(_unit_of_choice(add, structure, choice), kind="activation")
        layers[add.name] = msgspec.structs.replace(add, unit=unit, inputs=(shortcut,))


def _is_idempotent(first: Activation, second: Activation) -> bool:
    """Whether ``second`` changes nothing behind ``first``."""
    return first == second or (first == "relu6" and second == "relu")


def _kept_features(name: str, structure: Structure, choice: Choice) -> tuple[Tensor, Tensor]:
    """Output and input features of a layer that stay."""
    outputs = choice.channels[structure.output_space[name]]
    inputs = choice.channels[structure.input_space[name]]
    return _features(outputs, structure.output_span(name)), _features(inputs, structure.input_span[name])


def _features(channels: tuple[int, ...], span: int) -> Tensor:
    """Features of channels that stand for ``span`` consecutive ones each, as behind a flatten."""
    return (torch.tensor(channels)[:, None] * span + torch.arange(span)).reshape(-1)


def _copy_layer(source: LayerModules, target: LayerModules, rows: Tensor, columns: Tensor) -> None:
    if source.operator is not None and target.operator is not None:
        _copy_operator(source.operator, target.operator, rows, columns)
    if source.batch_norm is not None and target.batch_norm is not None:
        _copy_batch_norm(source.batch_norm, target.batch_norm, rows)


def _copy_operator(source: nn.Conv2d | nn.Linear, target: nn.Conv2d | nn.Linear, rows: Tensor, columns: Tensor) -> None:
    # Asked of the source: a depthwise convolution that is cut to one channel has no groups any more.
    is_grouped = isinstance(source, nn.Conv2d) and source.groups > 1
    weight = source.weight.detach()[rows]
    target.weight = nn.Parameter(weight if is_grouped else weight[:, columns])
    # Not the target's choice: a user's layer may have a bias under its batch normalisation, or none at all.
    target.bias = None if source.bias is None else nn.Parameter(source.bias.detach()[rows])


def _copy_batch_norm(
    source: nn.BatchNorm1d | nn.BatchNorm2d, target: nn.BatchNorm1d | nn.BatchNorm2d, rows: Tensor
) -> None:
    target.eps, target.momentum = source.eps, source.momentum
    for name in ("weight", "bias", "running_mean", "running_var"):
        value = getattr(source, name)
        if value is not None:
            getattr(target, name).data = value.detach()[rows]
    if source.num_batches_tracked is not None:
        target.num_batches_tracked = source.num_batches_tracked.clone()


@torch.no_grad()
def _scale_output(parts: LayerModules, gain: float) -> None:
    module = parts.batch_norm or parts.operator
    if module is None or gain == 1.0:
        return
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
