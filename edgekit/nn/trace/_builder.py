"""Collects layers while a graph is read: values of nodes, unique names, and whose parameters a call uses.

Knows no operator; that is ``_operators``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TypeVar

from torch import fx, nn

from edgekit.nn.modules import LayerModules
from edgekit.nn.trace._graph import Call, Graph
from edgekit.types import INPUT, Layer, Shape, UnitSpec

Padding = tuple[int, int, int, int]
NO_PADDING: Padding = (0, 0, 0, 0)
M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Value:
    """What a node computes: the result of ``layer``, of ``shape`` without batch, inside zeros that are still to be
    given to the layer that reads it. ``padding`` is top, left, bottom, right and not part of ``shape``."""

    layer: str
    shape: Shape
    padding: Padding = NO_PADDING
    is_non_negative: bool = False


class LayerBuilder:
    """The layers of a network so far, in order."""

    def __init__(self, module: nn.Module, graph: Graph, input_shape: Shape) -> None:
        self.layers: list[Layer] = []
        self.modules: dict[str, LayerModules] = {}
        self.values: dict[fx.Node, Value] = {graph.input: Value(INPUT, tuple(input_shape))}
        self._module = module
        self._states = graph.states
        self._paths = {path: part for path, part in module.named_modules() if path}
        self._names = {INPUT}
        self._uses = Counter(node for call in graph.calls for node in call.node.all_input_nodes)

    def padded_source(self, call: Call, argument: str = "self") -> Value:
        """The value of one argument, zero padding around it included."""
        node = call.arguments[argument]
        if not isinstance(node, fx.Node) or node not in self.values:
            raise call.unsupported(
                f"its argument {argument!r} is a constant or a parameter, not the output of a layer",
                "move constants into the preprocessing or into the weights of a neighbouring layer",
            )
        return self.values[node]

    def source(self, call: Call, argument: str = "self") -> Value:
        """The value of one argument; raises if zero padding was put around it, which this call cannot take in."""
        value = self.padded_source(call, argument)
        if any(value.padding):
            raise call.unsupported(
                "its input is zero-padded, which only convolutions and pools can take in",
                "pad directly before the convolution, or use the convolution's own padding",
            )
        return value

    def append(self, name: str, unit: UnitSpec, sources: Sequence[Value], modules: LayerModules | None = None) -> Value:
        """Add a layer that reads ``sources``; its name must come from `weighted_name` or `derived_name`."""
        modules = modules or LayerModules()
        inputs = tuple(source.layer for source in sources)
        self.layers.append(Layer(name=name, unit=unit, inputs=inputs, batch_norm=modules.batch_norm is not None))
        self.modules[name] = modules
        return Value(name, unit.output_shape)

    def weighted_name(self, path: str, fallback: str) -> str:
        """Name of a layer with parameters: the path of the module that holds them."""
        return self._unique(path or fallback)

    def derived_name(self, call: Call, fallback: str) -> str:
        """Name of a layer without parameters: the path of its module if that has no parts (``features.2``), else the
        operation inside it (``layer1.0.add``)."""
        path = call.module_path
        if path in self._paths and not any(self._paths[path].children()):
            return self._unique(path)
        name = f"{path}.{fallback}" if path else fallback
        return self._unique(name, frozenset(self._paths))

    def owner(self, call: Call, key: str, states: Sequence[str], kind: type[M]) -> tuple[str, M]:
        """Path and object of the module whose tensors ``states`` this call uses; ``key`` names the one to find it by.

        Raises if the tensors are computed, belong to no module of ``kind``, or are used by another call too.
        """
        node = call.arguments[key]
        if node not in self._states:
            raise call.unsupported(
                f"its {key} is not a parameter or buffer of a module but computed in forward, or missing",
                "remove weight normalisation and other parametrizations before tracing; batch normalisation "
                "needs running statistics",
            )
        path = self._states[node].rpartition(".")[0]
        if self._uses[node] > 1:
            raise call.unsupported(
                f"the {key} of {path!r} is used more than once: shared weights are not supported",
                "give every call a module of its own (copy.deepcopy keeps the weights)",
            )
        owner = self._module.get_submodule(path)
        if not isinstance(owner, kind) or not self._owns(owner, call, states):
            raise call.unsupported(
                f"its parameters are not those of one torch.nn.{kind.__name__}",
                f"let a torch.nn.{kind.__name__} hold its parameters and apply them",
            )
        return path, owner

    def _owns(self, owner: nn.Module, call: Call, states: Sequence[str]) -> bool:
        return all(self._state(call.arguments[name]) is getattr(owner, name) for name in states)

    def _state(self, argument: object) -> object:
        if not isinstance(argument, fx.Node):
            return argument
        return attrgetter(self._states[argument])(self._module) if argument in self._states else argument

    def _unique(self, candidate: str, taken: frozenset[str] = frozenset()) -> str:
        name, count = candidate, 1
        while name in self._names or name in taken:
            count += 1
            name = f"{candidate}_{count}"
        self._names.add(name)
        return name
