"""Graphs inside ONNX nodes: what they read from outside, and putting the branch that an If takes in its place.

Which branch that is comes from a run; loops stay what they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from edgekit.profile.files.sessions import open_onnx
from edgekit.profile.files.structs import Arrays

_DEEPEST = 64


def captured_names(node: Any) -> tuple[str, ...]:
    """Tensors that the graphs inside ``node`` read from outside of them, each once."""
    return tuple(dict.fromkeys(name for graph in _graphs(node) for name in _free_names(graph)))


def follow_branches(onnx: Any, model: Any, inputs: Arrays) -> tuple[Any, tuple[str, ...]]:
    """``model`` with every If outside of loops replaced by the branch that it takes for ``inputs``, and their names.

    What choosing costs is no longer in the model: `choosing_model` stands for it.
    """
    followed: list[str] = []
    for _ in range(_DEEPEST):
        if not any(node.op_type == "If" for node in model.graph.node):
            break
        taken = _conditions(onnx, model, inputs)
        nodes: list[Any] = []
        for index, node in enumerate(model.graph.node):
            if node.op_type != "If":
                nodes.append(node)
                continue
            side = "then_branch" if taken[node.input[0]] else "else_branch"
            followed.append(f"{node.name or f'If:{index}'} ({side[:4]})")
            nodes += _branch_nodes(onnx, model, node, side, f"if{len(followed)}/")
        model = _with_nodes(onnx, model, nodes)
    return model, tuple(followed)


def choosing_model(onnx: Any, opset: int, ir_version: int) -> tuple[bytes, Arrays]:
    """An If between two branches of one node without work, and its inputs."""
    helper, proto = onnx.helper, onnx.TensorProto
    value = helper.make_tensor_value_info("value", proto.FLOAT, [1])
    sides = {side: _trivial_branch(helper, value, side) for side in ("then_branch", "else_branch")}
    graph = helper.make_graph(
        [helper.make_node("If", ["condition"], ["chosen"], **sides)],
        "choosing",
        [helper.make_tensor_value_info("condition", proto.BOOL, [1]), value],
        [helper.make_tensor_value_info("chosen", proto.FLOAT, [1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    sample = {"condition": np.array([True]), "value": np.ones(1, dtype=np.float32)}
    serialized: bytes = model.SerializeToString()
    return serialized, sample


def _trivial_branch(helper: Any, value: Any, side: str) -> Any:
    result = helper.make_tensor_value_info(side, value.type.tensor_type.elem_type, [1])
    return helper.make_graph([helper.make_node("Relu", [value.name], [side])], side, [], [result])


def _conditions(onnx: Any, model: Any, inputs: Arrays) -> dict[str, bool]:
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.op_type == "If"))
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    computed = [name for name in names if name not in constants and name not in inputs]
    asking = onnx.ModelProto()
    asking.CopyFrom(model)
    del asking.graph.output[:]
    asking.graph.output.extend(onnx.ValueInfoProto(name=name) for name in computed)
    found: list[Any] = []
    if computed:
        found = open_onnx(asking.SerializeToString(), 1, as_written=True).run(computed, dict(inputs))
    values = {**constants, **inputs, **dict(zip(computed, found, strict=True))}
    return {name: bool(values[name].all()) for name in names}


def _branch_nodes(onnx: Any, model: Any, node: Any, side: str, prefix: str) -> list[Any]:
    """The nodes of a branch, its own names prefixed, and what names its results as those of ``node``."""
    (graph,) = [attribute.g for attribute in node.attribute if attribute.name == side]
    names = {name: prefix + name for name in _defined_names(graph)}
    written = {name for inner in graph.node for name in inner.output}
    copies = []
    for inner, outer in zip(graph.output, node.output, strict=True):
        if inner.name in written and names[inner.name] == prefix + inner.name:
            names[inner.name] = outer or names[inner.name]
        elif outer:
            source = names.get(inner.name, inner.name)
            copies.append(onnx.helper.make_node("Identity", [source], [outer], name=f"{prefix}{outer}"))
    branch = onnx.GraphProto()
    branch.CopyFrom(graph)
    _rename(branch, names)
    model.graph.initializer.extend(branch.initializer)
    return [*branch.node, *copies]


def _with_nodes(onnx: Any, model: Any, nodes: list[Any]) -> Any:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.node[:]
    changed.graph.node.extend(nodes)
    return changed


def _graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _defined_names(graph: Any) -> set[str]:
    """What a graph defines itself; not what the graphs inside its nodes do."""
    written = {name for node in graph.node for name in node.output if name}
    return written | {item.name for item in graph.initializer} | {item.name for item in graph.input}


def _free_names(graph: Any) -> Iterator[str]:
    defined = _defined_names(graph)
    for node in graph.node:
        yield from (name for name in (*node.input, *captured_names(node)) if name and name not in defined)
    # A branch may hand out what lies outside without any node.
    yield from (item.name for item in graph.output if item.name not in defined)


def _rename(graph: Any, names: dict[str, str]) -> None:
    """Rename tensors in ``graph`` and in the graphs inside its nodes, but for names that those define anew."""
    for item in (*graph.initializer, *graph.input, *graph.output, *graph.value_info):
        item.name = names.get(item.name, item.name)
    for node in graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for inner in _graphs(node):
            shadowed = _defined_names(inner)
            _rename(inner, {old: new for old, new in names.items() if old not in shadowed})
