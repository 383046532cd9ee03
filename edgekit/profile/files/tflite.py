"""Cutting a .tflite file into its operators, each a file of its own with its weights and quantization.

Nothing is timed here. What computes constants from constants (decompressed, half-precision or sparse weights) stays
with the operator that reads them, as the runtime does it once, when it loads a file.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BadInputError, UnsupportedModelError
from edgekit.profile.files.samples import sample_inputs
from edgekit.profile.files.sessions import open_tflite, tflite_slots
from edgekit.profile.files.structs import Arrays, CutFile, FileUnit, GivenInput, NotSeparable, Tensor
from edgekit.runtimes.packages import require
from edgekit.runtimes.tflite.graph import FILE_IDENTIFIER

_VERSION = 3
_SMALL = 64
_SUBGRAPH_OPTIONS = ("thenSubgraphIndex", "condSubgraphIndex", "subgraph", "initSubgraphIndex", "bodySubgraphIndex")


def cut(model: bytes, given: Sequence[GivenInput] = ()) -> CutFile:
    """The distinct operators of the main graph of ``model``; see `edgekit.profile.files.units_of`."""
    schema = require("ai_edge_litert.schema_py_generated", "ai-edge-litert", "tflite")
    inputs = sample_inputs(tflite_slots(model), given)
    values = record(model, inputs)
    cutter = _Cutter(schema, _parse(schema, model), values)
    units, refused = _units(cutter)
    notes = (f"{len(cutter.preparing)} operators prepare constants and are part of those that read them",)
    return CutFile(units, refused, notes if cutter.preparing else (), inputs)


def record(model: bytes, inputs: Arrays) -> dict[int, NDArray[Any]]:
    """The values of all tensors of numbers in one run without a delegate, by index."""
    interpreter = open_tflite(model, inputs, 1, recording=True)
    try:
        interpreter.invoke()
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(
            f"the model did not run on made-up inputs: {str(error).splitlines()[0]}",
            "give shapes and values of the inputs that it does take",
        ) from error
    values: dict[int, NDArray[Any]] = {}
    for detail in interpreter.get_tensor_details():
        try:
            values[int(detail["index"])] = interpreter.get_tensor(detail["index"])
        except ValueError:
            # What has no data: states, resources and what was never computed.
            continue
    return values


def _parse(schema: Any, model: bytes) -> Any:
    try:
        return schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    except Exception as error:
        # The generated reader checks nothing: damage shows as an error of any kind.
        raise BadInputError(f"the TFLite model is damaged: {error}") from error


def _units(cutter: _Cutter) -> tuple[tuple[FileUnit, ...], tuple[NotSeparable, ...]]:
    names: dict[str, list[str]] = {}
    first: dict[str, Any] = {}
    refused: list[NotSeparable] = []
    for index, operator in enumerate(cutter.graph.operators):
        if index in cutter.preparing:
            continue
        kind = cutter.operator_name(operator)
        name = f"{kind}:{index}"
        if reason := cutter.obstacle(operator):
            refused.append(NotSeparable(name=name, operator=kind, reason=reason))
            continue
        key = cutter.key(operator)
        first.setdefault(key, operator)
        names.setdefault(key, []).append(name)
    return tuple(cutter.unit(first[key], key, tuple(names[key])) for key in first), tuple(refused)


class _Cutter:
    """Makes models of single operators of a parsed model whose tensors were recorded."""

    def __init__(self, schema: Any, model: Any, values: Mapping[int, NDArray[Any]]) -> None:
        self._schema = schema
        self._model = model
        self._values = values
        self.graph = model.subgraphs[0]
        self._builtin_names = _names(schema.BuiltinOperator)
        self._type_names = _names(schema.TensorType)
        self._constants = {index for index, tensor in enumerate(self.graph.tensors) if self._holds_data(tensor)}
        self._producers = self._find_preparing()
        self.preparing = set(self._producers.values())
        """Positions of the operators whose results are constants."""

    def operator_name(self, operator: Any) -> str:
        """``CONV_2D``, or the name of a custom operator."""
        code = self._model.operatorCodes[operator.opcodeIndex]
        if code.customCode:
            return str(code.customCode.decode(errors="replace"))
        return self._builtin_names[_builtin_code(code)]

    def obstacle(self, operator: Any) -> str:
        """Why ``operator`` cannot be a model of its own; empty if it can."""
        if any(hasattr(operator.builtinOptions, name) for name in _SUBGRAPH_OPTIONS):
            return "it runs other graphs of the file"
        for index in (*operator.inputs, *operator.outputs):
            if index >= 0 and index not in self._values and not self.graph.tensors[index].isVariable:
                kind = self._type_names[self.graph.tensors[index].type].lower()
                return f"its tensor {index} ({kind}) has no value that could be read"
        return ""

    def key(self, operator: Any) -> str:
        """A hash that is equal for operators that take the same time."""
        digest = hashlib.sha256()
        for part in self._with_preparation(operator):
            code = self._model.operatorCodes[part.opcodeIndex]
            options = sorted(vars(part.builtinOptions).items()) if part.builtinOptions else ()
            digest.update(f"tflite {self.operator_name(part)} {code.version} {options}".encode())
            digest.update(bytes(part.customOptions) if part.customOptions is not None else b"")
            for index in (*part.inputs, -1, *part.outputs):
                digest.update(self._description(int(index)).encode())
        return digest.hexdigest()

    def _description(self, index: int) -> str:
        if index < 0:
            return "-;"
        tensor, array = self.graph.tensors[index], self._values.get(index)
        scales = tensor.quantization.scale if tensor.quantization is not None else None
        quantized = 0 if scales is None else len(scales)
        is_small = array is not None and array.dtype in (np.int32, np.int64) and array.size <= _SMALL
        # Small constant integers are axes, shapes and paddings, which decide what is computed; weights do not.
        exact = is_small and not quantized and index in self._constants and array is not None
        values = array.tolist() if exact and array is not None else ""
        return (
            f"{tensor.type}{self._shape(index)}{index in self._constants}{tensor.isVariable}{quantized}"
            f"{tensor.sparsity is not None}{values};"
        )

    def unit(self, operator: Any, key: str, names: tuple[str, ...]) -> FileUnit:
        """The model of ``operator``, with its constants in it and its other inputs as inputs."""
        parts = self._with_preparation(operator)
        outputs = [int(index) for index in operator.outputs]
        read = list(dict.fromkeys(int(index) for index in operator.inputs if index >= 0))
        inputs = [index for index in read if not self._is_prepared(index) and not self.graph.tensors[index].isVariable]
        return FileUnit(
            names=names,
            operator=self.operator_name(operator),
            inputs=tuple(self._tensor(index) for index in read),
            outputs=tuple(self._tensor(index) for index in outputs),
            key=key,
            model=self._write(parts, inputs, outputs),
            sample={str(index): self._values[index] for index in inputs},
        )

    def _tensor(self, index: int) -> Tensor:
        kind = self._type_names[self.graph.tensors[index].type].lower()
        return Tensor(kind, self._shape(index), self._is_prepared(index))

    def _shape(self, index: int) -> tuple[int, ...]:
        array = self._values.get(index)
        described = self.graph.tensors[index].shape
        shape = array.shape if array is not None else () if described is None else described
        return tuple(int(size) for size in shape)

    def _is_prepared(self, index: int) -> bool:
        return index in self._constants or index in self._producers

    def _holds_data(self, tensor: Any) -> bool:
        data = self._model.buffers[tensor.buffer].data
        return data is not None and len(data) > 0

    def _find_preparing(self) -> dict[int, int]:
        """Position of the operator that computes a constant, by the constant's tensor."""
        found: dict[int, int] = {}
        for position, operator in enumerate(self.graph.operators):
            read = [int(index) for index in operator.inputs if index >= 0]
            if read and all(index in self._constants or index in found for index in read):
                found.update((int(index), position) for index in operator.outputs)
        return found

    def _with_preparation(self, operator: Any) -> list[Any]:
        """``operator`` behind all that compute constants for it, in the order of the file."""
        return [self.graph.operators[position] for position in sorted(self._needed(operator))] + [operator]

    def _needed(self, operator: Any) -> set[int]:
        found: set[int] = set()
        for index in operator.inputs:
            position = self._producers.get(int(index))
            if position is not None and position not in found:
                found |= {position} | self._needed(self.graph.operators[position])
        return found

    def _write(self, parts: Sequence[Any], inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        model, graph = self._schema.ModelT(), self._schema.SubGraphT()
        model.version, model.subgraphs, model.buffers = _VERSION, [graph], [self._schema.BufferT()]
        graph.name, graph.tensors, graph.operators, model.operatorCodes = b"main", [], [], []
        places: dict[int, int] = {}
        for index in dict.fromkeys((*inputs, *_tensors_of(parts))):
            places[index] = len(graph.tensors)
            graph.tensors.append(self._copy_tensor(index, model.buffers))
        for part in parts:
            graph.operators.append(self._copy_operator(part, places, model.operatorCodes))
        graph.inputs = [places[index] for index in inputs]
        graph.outputs = [places[index] for index in outputs]
        builder = require("flatbuffers", "flatbuffers", "tflite").Builder(1 << 16)
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _copy_tensor(self, index: int, buffers: list[Any]) -> Any:
        original = self.graph.tensors[index]
        tensor = copy.copy(original)
        tensor.shape, tensor.shapeSignature, tensor.buffer = list(self._shape(index)), None, 0
        if index in self._constants:
            buffers.append(self._model.buffers[original.buffer])
            tensor.buffer = len(buffers) - 1
        return tensor

    def _copy_operator(self, original: Any, places: Mapping[int, int], codes: list[Any]) -> Any:
        operator = copy.copy(original)
        operator.opcodeIndex = len(codes)
        codes.append(self._model.operatorCodes[original.opcodeIndex])
        operator.inputs = [places.get(int(index), -1) for index in original.inputs]
        operator.outputs = [places[int(index)] for index in original.outputs]
        operator.intermediates = None
        return operator


def _tensors_of(parts: Sequence[Any]) -> Iterator[int]:
    return (int(index) for part in parts for index in (*part.inputs, *part.outputs) if index >= 0)


def _builtin_code(code: Any) -> int:
    """Files from before 2020 have the code in a field of 8 bits."""
    return max(int(code.builtinCode), int(code.deprecatedBuiltinCode))


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if not name.startswith("_")}
