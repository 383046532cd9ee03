"""Reads an exported program as a list of operator calls with named arguments and the place in the user's code.

Only calls that the output depends on are kept. What a call means for edgekit is decided in ``_operators``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind, TensorArgument

from edgekit.errors import UnsupportedModelError
from edgekit.types import Shape


@dataclass(frozen=True)
class Call:
    """One operator of the exported graph. ``operator`` is its aten name without overload and in-place underscore,
    ``arguments`` are complete with defaults, ``module_path`` and ``module_type`` tell in whose forward it stands."""

    node: fx.Node
    operator: str
    arguments: Mapping[str, Any]
    module_path: str
    module_type: str

    @property
    def batched_shape(self) -> Shape:
        """Shape of the result, batch first; empty for a result that is no tensor."""
        return _shape(self.node)

    @property
    def output_shape(self) -> Shape:
        """Shape of the result without the batch."""
        return self.batched_shape[1:]

    @property
    def place(self) -> str:
        """Where the user finds this call: the module path and, if known, the line of the source."""
        place = repr(self.module_path) if self.module_path else "the model's own forward"
        line = _source_line(self.node.meta.get("stack_trace") or "")
        return f"{place} ({line})" if line else place

    def unsupported(self, problem: str, hint: str) -> UnsupportedModelError:
        """The error for this call: ``problem`` completes 'aten.cat in 'features.3': ...'."""
        return UnsupportedModelError(f"aten.{self.operator} in {self.place}: {problem}", hint)


@dataclass(frozen=True)
class Graph:
    """The calls that the output needs, in order. ``states`` gives the dotted name of the parameter or buffer behind
    a node."""

    calls: tuple[Call, ...]
    input: fx.Node
    output: fx.Node
    states: Mapping[fx.Node, str]


def read_graph(module: nn.Module, program: ExportedProgram) -> Graph:
    """The part of an exported program that leads from its one input to its one output tensor.

    Raises UnsupportedModelError if the module returns anything but one tensor.
    """
    nodes = {node.name: node for node in program.graph.nodes}
    output = nodes[_output_name(program)]
    needed = _ancestors(output)
    calls = tuple(_call(node) for node in program.graph.nodes if node in needed and node.op == "call_function")
    signature = program.graph_signature
    states = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    return Graph(
        calls=calls,
        input=nodes[str(signature.user_inputs[0])],
        output=output,
        states={nodes[name]: path for name, path in states.items()},
    )


def _output_name(program: ExportedProgram) -> str:
    results = [spec.arg for spec in program.graph_signature.output_specs if spec.kind == OutputKind.USER_OUTPUT]
    tensors = [result.name for result in results if isinstance(result, TensorArgument)]
    if len(results) != 1 or len(tensors) != 1:
        raise UnsupportedModelError(
            f"forward returns {len(results)} values, {len(tensors)} of them tensors; edgekit supports one tensor",
            "return the logits alone: wrap the model in a module that picks them out",
        )
    return tensors[0]


def _ancestors(output: fx.Node) -> set[fx.Node]:
    found: set[fx.Node] = set()
    waiting = [output]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting.extend(node.all_input_nodes)
    return found


def _call(node: fx.Node) -> Call:
    target = node.target
    arguments: dict[str, Any] = {}
    if isinstance(target, torch._ops.OpOverload):
        arguments = _arguments(target, node)
    elif target is operator.getitem:
        arguments = {"self": node.args[0], "index": node.args[1]}
    path, kind = _module(node)
    return Call(node, operator_name(node).removesuffix("_"), arguments, path, kind)


def operator_name(node: fx.Node) -> str:
    """Name without overload: ``add_`` for ``aten.add_.Tensor``; empty for a node that calls nothing."""
    if node.op != "call_function":
        return ""
    packet = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet))


def _arguments(target: torch._ops.OpOverload[Any, Any], node: fx.Node) -> dict[str, Any]:
    schema = target._schema.arguments
    given = dict(zip((argument.name for argument in schema), node.args, strict=False))
    defaults = {argument.name: argument.default_value for argument in schema if argument.has_default_value()}
    return {**defaults, **given, **node.kwargs}


def _module(node: fx.Node) -> tuple[str, str]:
    """Path and type name of the innermost module that was running."""
    stack = node.meta.get("nn_module_stack") or {"": ("", "")}
    path, kind = list(stack.values())[-1]
    return str(path), str(kind).rpartition(".")[2]


def _shape(node: fx.Node) -> Shape:
    value = node.meta.get("val")
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else ()


def _source_line(stack_trace: str) -> str:
    """File name and line of the innermost frame outside torch; empty if there is none."""
    frames = re.findall(r'File "(.+?)", line (\d+)', stack_trace)
    inside_torch = Path(torch.__file__).parent
    frames = [(Path(file), line) for file, line in frames if inside_torch not in Path(file).parents]
    return f"{frames[-1][0].name}, line {frames[-1][1]}" if frames else ""
