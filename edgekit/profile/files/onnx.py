"""Cutting an .onnx file into the nodes that ONNX Runtime runs: those that are left after *all* its optimisations here.

Nothing is timed here. The optimised graph is what this processor runs (on x86 with blocked channels, ``nchwc:``), so
the units of a file are those of one machine: a node of the file alone would be fused and laid out otherwise.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BadInputError, UnsupportedModelError
from edgekit.profile.files.onnx_branches import captured_names, choosing_model, follow_branches
from edgekit.profile.files.samples import sample_inputs
from edgekit.profile.files.sessions import onnx_slots, open_onnx
from edgekit.profile.files.structs import Arrays, CutFile, FileUnit, GivenInput, NotSeparable, Tensor
from edgekit.runtimes.onnx.session import import_onnxruntime
from edgekit.runtimes.packages import require

# Their result is their input under another shape: in a graph nothing is computed, at its border it must be copied.
_VIEWS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Dropout"})
_DOMAINS = {"": "", "com.microsoft": "microsoft:", "com.microsoft.nchwc": "nchwc:"}
_SMALL = 64
# The first in which constants need not be inputs.
_IR_VERSION = 4


def cut(model: bytes, given: Sequence[GivenInput] = (), threads: int = 1) -> CutFile:
    """The distinct nodes of the optimised ``model``; see `edgekit.profile.files.units_of`."""
    onnx = require("onnx", "onnx", "train")
    inputs = sample_inputs(onnx_slots(model), given)
    optimised = _without_unused_inputs(onnx, optimise(onnx, model, threads), inputs)
    straight, followed = follow_branches(onnx, optimised, inputs)
    units, refused = _units(onnx, straight, record(onnx, straight, inputs))
    if not followed:
        return CutFile(units, refused, (), inputs)
    note = f"{len(followed)} If taken into the branch of these inputs: {', '.join(followed)}"
    return CutFile((*units, _choosing(onnx, optimised, followed)), refused, (note,), inputs)


def _choosing(onnx: Any, model: Any, followed: tuple[str, ...]) -> FileUnit:
    """The unit that stands for every If by itself, whatever its branches hold."""
    opset = next(item.version for item in model.opset_import if item.domain in ("", "ai.onnx"))
    choosing, sample = choosing_model(onnx, opset, model.ir_version)
    condition, value = Tensor("bool", (1,)), Tensor("float32", (1,))
    key = hashlib.sha256(f"onnx If {opset} without its branches".encode()).hexdigest()
    return FileUnit(followed, "If", (condition, value), (value,), key, choosing, sample, extra_nodes=1)


def optimise(onnx: Any, model: bytes, threads: int) -> Any:
    """The ``onnx.ModelProto`` that ONNX Runtime makes of ``model`` on this machine."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        open_onnx(model, threads, optimised_path=str(path))
        return onnx.load(path)


def _without_unused_inputs(onnx: Any, model: Any, inputs: Arrays) -> Any:
    """Before IR 4 constants were listed as inputs too, and stay there when they are folded away."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    kept = [item for item in model.graph.input if item.name in inputs]
    del changed.graph.input[:]
    changed.graph.input.extend(kept)
    changed.ir_version = max(changed.ir_version, _IR_VERSION)
    return changed


def record(onnx: Any, model: Any, inputs: Arrays) -> dict[str, NDArray[Any]]:
    """The values of all tensors of numbers in one run of ``model`` as it is written, by name.

    Raises UnsupportedModelError when the runtime does not hand one of them out.
    """
    wanted = list(dict.fromkeys(name for node in model.graph.node for name in node.output if name))
    recording = onnx.ModelProto()
    recording.CopyFrom(model)
    del recording.graph.output[:]
    recording.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted)
    state = import_onnxruntime().capi.onnxruntime_pybind11_state
    try:
        found = open_onnx(recording.SerializeToString(), 1, as_written=True).run(wanted, dict(inputs))
    except (state.Fail, state.InvalidArgument, state.RuntimeException, state.NotImplemented, RuntimeError) as error:
        raise UnsupportedModelError(
            f"the model did not run on made-up inputs: {str(error).splitlines()[0]}",
            "give shapes and values of the inputs that it does take",
        ) from error
    arrays = {name: value for name, value in zip(wanted, found, strict=True) if _is_numbers(value)}
    constants = {item.name: onnx.numpy_helper.to_array(item) for item in model.graph.initializer}
    return {**constants, **inputs, **arrays}


def _is_numbers(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype != np.object_


def _units(
    onnx: Any, model: Any, values: Mapping[str, NDArray[Any]]
) -> tuple[tuple[FileUnit, ...], tuple[NotSeparable, ...]]:
    cutter = _Cutter(onnx, model, values)
    names: dict[str, list[str]] = {}
    first: dict[str, Any] = {}
    refused: list[NotSeparable] = []
    for index, node in enumerate(model.graph.node):
        name = node.name or f"{node.op_type}:{index}"
        if reason := cutter.obstacle(node):
            refused.append(NotSeparable(name=name, operator=operator_name(node), reason=reason))
            continue
        key = cutter.key(node)
        first.setdefault(key, node)
        names.setdefault(key, []).append(name)
    return tuple(cutter.unit(first[key], key, tuple(names[key])) for key in first), tuple(refused)


def operator_name(node: Any) -> str:
    """Operator with its domain in short: ``Conv``, ``nchwc:Conv``, ``microsoft:FusedConv``."""
    return f"{_DOMAINS.get(node.domain, node.domain + ':')}{node.op_type}"


class _Cutter:
    """Makes models of single nodes of a model whose tensors were recorded."""

    def __init__(self, onnx: Any, model: Any, values: Mapping[str, NDArray[Any]]) -> None:
        self._onnx = onnx
        self._model = model
        self._values = values
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._opsets = {item.domain: item.version for item in model.opset_import}

    def obstacle(self, node: Any) -> str:
        """Why ``node`` cannot be a model of its own; empty if it can."""
        missing = [name for name in (*_read_names(node), *_written_names(node)) if name not in self._values]
        return f"{missing[0]!r} is no tensor of numbers" if missing else ""

    def key(self, node: Any) -> str:
        """A hash that is equal for nodes that take the same time."""
        digest = hashlib.sha256()
        digest.update(f"onnx {node.domain} {node.op_type} {self._opsets.get(node.domain)}".encode())
        for attribute in sorted(node.attribute, key=lambda attribute: str(attribute.name)):
            digest.update(attribute.SerializeToString(deterministic=True))
        for name in (*node.input, "|", *captured_names(node), "|", *node.output):
            digest.update(self._description(name).encode())
        return digest.hexdigest()

    def _description(self, name: str) -> str:
        if name not in self._values:
            return f"{name if name == '|' else '-'};"
        array, constant = self._values[name], name in self._initializers
        # Small constant integers are axes, shapes and paddings, which decide what is computed; weights do not.
        values = array.tolist() if constant and array.dtype in (np.int64, np.bool_) and array.size <= _SMALL else ""
        return f"{array.dtype}{array.shape}{constant}{values};"

    def unit(self, node: Any, key: str, names: tuple[str, ...]) -> FileUnit:
        """The model of ``node``, with its constants in it and its other inputs as inputs."""
        is_view = node.op_type in _VIEWS and node.domain == ""
        read = _read_names(node)
        sample = {name: self._values[name] for name in read if name not in self._initializers}
        return FileUnit(
            names=names,
            operator=operator_name(node),
            inputs=tuple(self._tensor(name) for name in read),
            outputs=tuple(self._tensor(name) for name in _written_names(node)),
            key=key,
            model=self._write(node, read, list(sample), is_view),
            sample=sample,
            extra_nodes=int(is_view),
        )

    def _tensor(self, name: str) -> Tensor:
        array = self._values[name]
        return Tensor(array.dtype.name, tuple(map(int, array.shape)), name in self._initializers)

    def _write(self, node: Any, read: Iterable[str], inputs: Iterable[str], is_view: bool) -> bytes:
        helper = self._onnx.helper
        nodes, outputs = [node], [self._described(name) for name in _written_names(node)]
        if is_view:
            # What reads only the shape lets the view stay a view.
            nodes.append(helper.make_node("Shape", [node.output[0]], ["edgekit:shape"]))
            rank = self._values[node.output[0]].ndim
            outputs = [helper.make_tensor_value_info("edgekit:shape", self._onnx.TensorProto.INT64, [rank])]
        graph = helper.make_graph(
            nodes,
            "unit",
            [self._described(name) for name in inputs],
            outputs,
            [self._initializers[name] for name in read if name in self._initializers],
        )
        model = helper.make_model(graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version)
        serialized: bytes = model.SerializeToString()
        return serialized

    def _described(self, name: str) -> Any:
        array = self._values[name]
        element = self._onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        return self._onnx.helper.make_tensor_value_info(name, element, array.shape)


def _read_names(node: Any) -> tuple[str, ...]:
    """What the node and the graphs inside it read, each once."""
    return tuple(dict.fromkeys(name for name in (*node.input, *captured_names(node)) if name))


def _written_names(node: Any) -> Iterator[str]:
    return (name for name in node.output if name)


def load_with_external_data(path: Path) -> bytes:
    """The model in ``path`` with the weights that lie in files beside it.

    Raises BadInputError for what is no ONNX model, or one of more than 2 GiB, which no single message can hold.
    """
    onnx = require("onnx", "onnx", "train")
    data = path.read_bytes()
    try:
        if not any(_external(onnx, item) for item in onnx.load_from_string(data).graph.initializer):
            return data
        serialized: bytes = onnx.load(path).SerializeToString()
        return serialized
    except (ValueError, OSError, onnx.checker.ValidationError) as error:
        raise BadInputError(f"{path}: {str(error).splitlines()[0]}") from error
    except Exception as error:
        # protobuf's own errors are of a class that depends on how it was built.
        if type(error).__module__.startswith("google.protobuf"):
            raise BadInputError(f"{path}: this is no ONNX model: {error}") from error
        raise


def _external(onnx: Any, tensor: Any) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)
