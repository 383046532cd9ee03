"""The growing TFLite graph of one model: tensors, operators and metadata over the official schema, and their bytes.

Which operators a unit becomes is decided in ``writer``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.runtimes.packages import require

METADATA_NAME = "edgekit"
"""Name of the metadata entry whose buffer holds all text metadata as one JSON object."""

FILE_IDENTIFIER = b"TFL3"
_SCHEMA_VERSION = 3
_BUFFER_ALIGNMENT = 16
_LAST_DEPRECATED_CODE = 127
_OVERHEAD_BYTES = 4096


class Graph:
    """Tensors and operators in the making; tensors are referred to by index."""

    def __init__(self) -> None:
        self._flatbuffers = require("flatbuffers", "ai-edge-litert", "tflite")
        self.schema = require("ai_edge_litert.schema_py_generated", "ai-edge-litert", "tflite")
        self._codes: dict[tuple[int, int], int] = {}
        self._tensors: list[Any] = []
        self._operators: list[Any] = []
        # Readers take buffer 0 for "no data".
        self._buffers: list[Any] = [self.schema.BufferT()]

    def tensor(self, name: str, shape: Sequence[int], data_type: str, quantization: Any = None) -> int:
        """A tensor that an operator computes; ``data_type`` is a name of the schema, such as ``INT8``."""
        tensor = self.schema.TensorT()
        tensor.name = name
        tensor.shape = np.array(shape, dtype=np.int32)
        tensor.type = getattr(self.schema.TensorType, data_type)
        tensor.quantization = quantization
        self._tensors.append(tensor)
        return len(self._tensors) - 1

    def constant(self, name: str, values: NDArray[Any], quantization: Any = None) -> int:
        """A tensor with fixed ``values``; their dtype is its type."""
        index = self.tensor(name, values.shape, str(values.dtype).upper(), quantization)
        self._tensors[index].buffer = self._buffer(values.tobytes())
        return index

    def quantization(self, scale: NDArray[np.float32], zero_point: NDArray[np.int64], axis: int = 0) -> Any:
        """Quantization parameters: one pair for the whole tensor, or one for each index along ``axis``."""
        result = self.schema.QuantizationParametersT()
        result.scale = scale
        result.zeroPoint = zero_point
        result.quantizedDimension = axis
        return result

    def operator(
        self, code: str, version: int, inputs: list[int], output: int, options: str | None = None, **values: Any
    ) -> int:
        """Append an operator, return its output; ``options`` names its table in the schema, ``values`` the fields."""
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(getattr(self.schema.BuiltinOperator, code), version)
        operator.inputs = np.array(inputs, dtype=np.int32)
        operator.outputs = np.array([output], dtype=np.int32)
        if options is not None:
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, options)
            operator.builtinOptions = getattr(self.schema, options + "T")()
            for field, value in values.items():
                setattr(operator.builtinOptions, field, value)
        self._operators.append(operator)
        return output

    def serialize(self, name: str, model_input: int, model_output: int, metadata: Mapping[str, str]) -> bytes:
        """The bytes of the file."""
        model = self.schema.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = "edgekit"
        model.operatorCodes = self._operator_codes()
        model.subgraphs = [self._subgraph(name, model_input, model_output)]
        if metadata:
            model.metadata = [self._metadata(metadata)]
        model.buffers = self._buffers
        builder = self._builder()
        builder.Finish(model.Pack(builder), file_identifier=FILE_IDENTIFIER)
        return bytes(builder.Output())

    def _code(self, builtin: int, version: int) -> int:
        return self._codes.setdefault((builtin, version), len(self._codes))

    def _operator_codes(self) -> list[Any]:
        result = []
        for builtin, version in self._codes:
            code = self.schema.OperatorCodeT()
            code.builtinCode = builtin
            code.deprecatedBuiltinCode = min(builtin, _LAST_DEPRECATED_CODE)
            code.version = version
            result.append(code)
        return result

    def _subgraph(self, name: str, model_input: int, model_output: int) -> Any:
        subgraph = self.schema.SubGraphT()
        subgraph.name = name
        subgraph.tensors = self._tensors
        subgraph.operators = self._operators
        subgraph.inputs = np.array([model_input], dtype=np.int32)
        subgraph.outputs = np.array([model_output], dtype=np.int32)
        return subgraph

    def _metadata(self, metadata: Mapping[str, str]) -> Any:
        entry = self.schema.MetadataT()
        entry.name = METADATA_NAME
        entry.buffer = self._buffer(json.dumps(dict(metadata)).encode())
        return entry

    def _buffer(self, data: bytes) -> int:
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(data, dtype=np.uint8)
        self._buffers.append(buffer)
        return len(self._buffers) - 1

    def _builder(self) -> Any:
        size_bytes = sum(len(buffer.data) for buffer in self._buffers[1:])
        return _aligned_builder(self._flatbuffers.Builder)(size_bytes + _OVERHEAD_BYTES)


def _aligned_builder(builder_class: Any) -> Any:
    """The builder class, made to align buffers to 16 bytes as the schema wants and its Python code does not."""

    def create_numpy_vector(builder: Any, values: NDArray[Any]) -> int:
        if values.dtype == np.uint8:
            builder.Prep(_BUFFER_ALIGNMENT, values.size)
        offset: int = builder_class.CreateNumpyVector(builder, values)
        return offset

    return type("AlignedBuilder", (builder_class,), {"CreateNumpyVector": create_numpy_vector})
