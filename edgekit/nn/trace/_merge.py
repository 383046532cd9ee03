"""Joins layers that run as one unit: batch normalisation and activation into what they follow, pooling with flattening.

Works on layers alone; torch modules are only carried along.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import msgspec

from edgekit.nn.modules import LayerModules
from edgekit.types import Layer


def merge_layers(
    layers: Sequence[Layer], modules: Mapping[str, LayerModules]
) -> tuple[tuple[Layer, ...], dict[str, LayerModules]]:
    """Merge every layer into the one before it where that is one unit and nobody else reads the value between them.

    The merged layer has the place and the name of the first one.
    """
    readers = Counter(name for layer in layers for name in layer.inputs)
    # The network's output is read from outside.
    readers[layers[-1].name] += 1
    kept: dict[str, Layer] = {}
    kept_modules: dict[str, LayerModules] = {}
    renamed: dict[str, str] = {}
    for original in layers:
        layer = msgspec.structs.replace(original, inputs=tuple(renamed.get(name, name) for name in original.inputs))
        before = kept.get(layer.inputs[0])
        merged = _merge(before, layer) if before is not None and readers[before.name] == 1 else None
        if merged is None:
            kept[layer.name], kept_modules[layer.name] = layer, modules[layer.name]
            continue
        kept[merged.name] = merged
        kept_modules[merged.name] = _merge_modules(kept_modules[merged.name], modules[layer.name])
        readers[merged.name] = readers[layer.name]
        renamed[layer.name] = merged.name
    return tuple(kept.values()), kept_modules


def _merge(before: Layer, layer: Layer) -> Layer | None:
    """``layer`` as a part of ``before``, the only layer that it reads; None if they are two units."""
    kind, kind_before = layer.unit.kind, before.unit.kind
    if kind == "scale" and kind_before in ("conv", "dense"):
        is_free = not before.batch_norm and before.unit.activation == "none"
        return msgspec.structs.replace(before, batch_norm=True) if is_free else None
    if kind == "activation" and kind_before in ("conv", "dense", "scale", "add"):
        is_free = before.unit.activation == "none"
        return _replace_unit(before, activation=layer.unit.activation) if is_free else None
    if kind == "flatten" and _covers_input(before):
        return _global_average_pool(before)
    return None


def _merge_modules(first: LayerModules, second: LayerModules) -> LayerModules:
    return first if second.batch_norm is None else replace(first, batch_norm=second.batch_norm)


def _replace_unit(layer: Layer, **changes: object) -> Layer:
    return msgspec.structs.replace(layer, unit=msgspec.structs.replace(layer.unit, **changes))


def _covers_input(layer: Layer) -> bool:
    unit = layer.unit
    return unit.kind == "average_pool" and unit.kernel == unit.input_shape[1:] and not any(unit.padding)


def _global_average_pool(layer: Layer) -> Layer:
    unit = layer.unit
    return _replace_unit(
        layer, kind="global_average_pool", output_shape=unit.output_shape[:1], kernel=(1, 1), stride=(1, 1)
    )
