"""The one way in: export the module, build a layer for each operator, merge the layers that run as one unit.

Each step is in the file named after it beside this one.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from edgekit.errors import UnsupportedModelError, UsageError
from edgekit.nn.modules import LayerModules
from edgekit.nn.trace._builder import LayerBuilder
from edgekit.nn.trace._export import export
from edgekit.nn.trace._graph import read_graph
from edgekit.nn.trace._merge import merge_layers
from edgekit.nn.trace._operators import build_layer
from edgekit.types import INPUT, NetworkSpec, Shape


@dataclass(frozen=True)
class Traced:
    """A user's network as a graph of units. ``modules`` holds, by layer name, the user's own module objects, so that
    training one trains the other; it has an empty entry for a layer without parameters."""

    spec: NetworkSpec
    modules: dict[str, LayerModules]


def trace(module: nn.Module, input_shape: Shape, name: str | None = None) -> Traced:
    """Turn a module into units, as it computes in eval mode; its training flags are left as they were.

    ``input_shape`` is (channels, height, width) or (features,), without the batch. Raises UnsupportedModelError that
    names the operator and the module path where edgekit cannot follow, UsageError for an impossible shape.
    """
    _check_shape(input_shape)
    graph = read_graph(module, export(module, input_shape))
    build = LayerBuilder(module, graph, input_shape)
    for call in graph.calls:
        build.values[call.node] = build_layer(build, call)
    output = build.values.get(graph.output)
    if output is None or output.layer == INPUT or any(output.padding):
        raise UnsupportedModelError(
            "the model's output is not the result of a layer: it is its input, a parameter or zero padding",
            "return the result of a layer",
        )
    layers, modules = merge_layers(build.layers, build.modules)
    spec = NetworkSpec(name=name or type(module).__name__, input_shape=tuple(input_shape), layers=layers)
    return Traced(spec, modules)


def _check_shape(input_shape: Shape) -> None:
    if len(input_shape) not in (1, 3) or min(input_shape) < 1:
        raise UsageError(
            f"a network cannot read inputs of shape {tuple(input_shape)}",
            "give (channels, height, width) or (features,), without the batch",
        )
