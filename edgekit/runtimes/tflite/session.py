"""Loading and running TFLite models with LiteRT or tflite-runtime, and asking which kernels run.

How models are written is in ``writer``. Damaged files are refused, by LiteRT itself or by ``structure``; a file that
was made to attack an interpreter may still reach it, and belongs in a process of its own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import numpy as np

from edgekit.errors import BadInputError, MissingExtraError, UsageError
from edgekit.runtimes._base import FloatArray, Session
from edgekit.runtimes.batching import check_batch, check_samples, run_in_batches
from edgekit.runtimes.packages import require
from edgekit.runtimes.tflite.flatbuffer import check_identifier
from edgekit.runtimes.tflite.structure import check_structure

BACKEND_VARIABLE = "EDGEKIT_TFLITE_BACKEND"

_DELEGATE = "DELEGATE"


_MODULES = {
    "litert": ("ai-edge-litert", "ai_edge_litert.interpreter", "tflite"),
    "tflite-runtime": ("tflite-runtime", "tflite_runtime.interpreter", "tflite-runtime"),
}
# One subgraph that holds nothing.
_SMALLEST_MODEL = bytes.fromhex(
    "1800000054464c3300000e00140010000c000800000004000e000000100000001c00000050000000030000000100000008000000"
    "040004000400000001000000100000000c00140010000c00080004000c0000001000000010000000100000001000000000000000"
    "00000000000000000000000000000000"
)


@dataclass(frozen=True)
class Backend:
    """An installed package that has a TFLite interpreter."""

    package: str
    version: str
    interpreter: Any
    verifies: bool
    """Whether a damaged file makes the interpreter raise, and not crash."""


def find_backend() -> Backend:
    """LiteRT if it is installed, else tflite-runtime, or the one that the environment forces; see `TfliteRuntime`."""
    forced = os.environ.get(BACKEND_VARIABLE)
    if forced is not None:
        if forced not in _MODULES:
            raise UsageError(f"{BACKEND_VARIABLE} is {forced!r}; allowed are {', '.join(_MODULES)}")
        return _import_backend(forced)
    try:
        return _import_backend("litert")
    except MissingExtraError as missing:
        try:
            return _import_backend("tflite-runtime")
        except MissingExtraError:
            raise missing from None


class TfliteSession(Session):
    """One TFLite model in an interpreter of ``backend``."""

    def __init__(self, backend: Backend, model: bytes, threads: int) -> None:
        if threads < 1:
            raise UsageError(f"a session needs at least 1 thread, not {threads}")
        # LiteRT verifies by itself what it loads, tflite-runtime does not.
        check = check_identifier if backend.verifies else check_structure
        check(model)
        try:
            self._interpreter = backend.interpreter(model_content=model, num_threads=threads)
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise BadInputError(f"{backend.package} cannot load the model: {_first_line(error)}") from error
        self._input_index, shape = _describe(self._interpreter.get_input_details(), "input")
        self._output_index, _ = _describe(self._interpreter.get_output_details(), "output")
        self.input_shape = _channels_first_shape(shape)

    def run(self, batch: FloatArray) -> FloatArray:
        """See `Session.run`."""
        return run_in_batches(check_samples(batch, self.input_shape), self.input_shape[0], self._run_once)

    def prepare(self, sample: FloatArray) -> None:
        """See `Session.prepare`."""
        self._set_input(check_batch(sample, self.input_shape))

    def invoke(self) -> None:
        """See `Session.invoke`."""
        self._interpreter.invoke()

    def kernels(self) -> tuple[str, ...]:
        """``xnnpack:CONV_2D[int8]`` for an operator that the delegate took over, ``builtin:...`` for one that it left;
        with the type of what it computes."""
        types = {
            int(tensor["index"]): np.dtype(tensor["dtype"]).name for tensor in self._interpreter.get_tensor_details()
        }
        return kernel_names(self._interpreter._get_ops_details(), types)

    def _set_input(self, samples: FloatArray) -> None:
        if samples.ndim == 4:
            samples = np.ascontiguousarray(samples.transpose(0, 2, 3, 1))
        self._interpreter.set_tensor(self._input_index, samples)

    def _run_once(self, samples: FloatArray) -> FloatArray:
        self._set_input(samples)
        self._interpreter.invoke()
        result: FloatArray = self._interpreter.get_tensor(self._output_index)
        return result.transpose(0, 3, 1, 2) if result.ndim == 4 else result


def kernel_names(operators: list[dict[str, Any]], types: Mapping[int, str]) -> tuple[str, ...]:
    """The names of the kernels of a graph, in its order, from what the interpreter tells of its operators and the types
    of its tensors.

    A delegate appends one operator for each part of the graph that it took over, and leaves the operators of that part
    in the list: these are the ones between the inputs and the outputs of the appended one.
    """
    producers = {
        int(tensor): index
        for index, operator in enumerate(operators)
        if operator["op_name"] != _DELEGATE
        for tensor in operator["outputs"]
    }
    delegated: set[int] = set()
    for part in operators:
        if part["op_name"] == _DELEGATE:
            delegated |= _between(part, operators, producers)
    return tuple(
        f"{'xnnpack' if index in delegated else 'builtin'}:{operator['op_name']}[{types[int(operator['outputs'][0])]}]"
        for index, operator in enumerate(operators)
        if operator["op_name"] != _DELEGATE
    )


def _between(part: dict[str, Any], operators: list[dict[str, Any]], producers: dict[int, int]) -> set[int]:
    found: set[int] = set()
    inputs = {int(tensor) for tensor in part["inputs"]}
    pending = [int(tensor) for tensor in part["outputs"]]
    while pending:
        tensor = pending.pop()
        index = producers.get(tensor)
        if tensor in inputs or index is None or index in found:
            continue
        found.add(index)
        pending.extend(int(tensor) for tensor in operators[index]["inputs"])
    return found


def _import_backend(name: str) -> Backend:
    package, module, extra = _MODULES[name]
    try:
        interpreter = require(module, package, extra).Interpreter
        _probe(interpreter)
    except (ImportError, AttributeError, SystemError) as error:
        raise UsageError(
            f"the package {package!r} is installed and makes no interpreter: {error.__cause__ or error}",
            "tflite-runtime needs numpy 1: pip install 'numpy<2', or pip install 'edgekit[tflite]'",
        ) from error
    return Backend(package, metadata.version(package), interpreter, verifies=name == "litert")


def _probe(interpreter: Any) -> None:
    """Try to make an interpreter: under numpy 2, tflite-runtime can be imported and fails only then."""
    interpreter(model_content=_SMALLEST_MODEL)


def _describe(tensors: list[dict[str, Any]], role: str) -> tuple[int, tuple[int, ...]]:
    if len(tensors) != 1 or tensors[0]["dtype"] is not np.float32:
        found = ", ".join(f"{tensor['name']}: {np.dtype(tensor['dtype'])}" for tensor in tensors)
        raise BadInputError(f"the TFLite model must have one {role} of type float32, not ({found})")
    return tensors[0]["index"], tuple(int(size) for size in tensors[0]["shape"])


def _channels_first_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[0], shape[3], shape[1], shape[2]) if len(shape) == 4 else shape


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
