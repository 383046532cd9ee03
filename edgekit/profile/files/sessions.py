"""Loaded models of any number of inputs and of any type, in either runtime, for timing and for recording.

What is loaded, and what its times mean, is decided elsewhere.
"""

from __future__ import annotations

import json
import sys
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BadInputError, UnsupportedModelError, UsageError
from edgekit.profile.files.samples import InputSlot
from edgekit.profile.files.structs import Arrays
from edgekit.runtimes import FloatArray, Session
from edgekit.runtimes.onnx import session as onnx_session
from edgekit.runtimes.tflite import session as tflite_session
from edgekit.runtimes.tflite.flatbuffer import check_identifier
from edgekit.runtimes.tflite.structure import check_structure

ONNX_TYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(int8)": np.int8,
    "tensor(int16)": np.int16,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(uint32)": np.uint32,
    "tensor(uint64)": np.uint64,
    "tensor(bool)": np.bool_,
}


_CACHE_LINE_BYTES = 64


class FileSession(Session):
    """A loaded model whose inputs lie ready: `invoke` is all that can be done with it."""

    input_shape = (1,)

    def run(self, batch: FloatArray) -> FloatArray:
        """Refused: there may be several inputs, none of them float."""
        raise UsageError("a file that is profiled has inputs of its own and takes no samples")

    def prepare(self, sample: FloatArray) -> None:
        """Nothing: the inputs were put in place when the model was loaded."""

    @abstractmethod
    def touch(self) -> None:
        """Read inputs and outputs into the caches, where in a network the operators around this one leave them."""


class Touching(FileSession):
    """Stands in a row of sessions before ``session``, to touch its tensors outside of its time."""

    def __init__(self, session: FileSession) -> None:
        self._session = session

    def touch(self) -> None:
        """See `FileSession.touch`."""
        self._session.touch()

    def invoke(self) -> None:
        """Touch the tensors."""
        self._session.touch()

    def kernels(self) -> tuple[str, ...]:
        """None."""
        return ()


class OnnxFileSession(FileSession):
    """``model`` with ``inputs`` bound; ``as_written`` runs the nodes that it holds instead of optimising them, and
    writes their results into buffers that stay the same."""

    def __init__(self, model: bytes, inputs: Arrays, threads: int, *, as_written: bool = False) -> None:
        self._model = model
        self._inputs = inputs
        self._threads = threads
        self._as_written = as_written
        session = open_onnx(model, threads, as_written=as_written)
        self._binding = session.io_binding()
        self._session_run = session.run_with_iobinding
        # ORT uses these buffers at every run: they must live as long as the binding.
        self._buffers = [(name, np.ascontiguousarray(array).reshape(array.shape)) for name, array in inputs.items()]
        self._values = [(name, _value(array)) for name, array in self._buffers]
        for name, value in self._values:
            self._binding.bind_ortvalue_input(name, value)
        for output in session.get_outputs():
            self._binding.bind_output(output.name)
        if as_written:
            self._keep_outputs([output.name for output in session.get_outputs()])

    def _keep_outputs(self, names: list[str]) -> None:
        self.invoke()
        for name, found in zip(names, self._binding.get_outputs(), strict=True):
            array = found.numpy().copy()
            value = _value(array)
            self._buffers.append((name, array))
            self._values.append((name, value))
            self._binding.bind_ortvalue_output(name, value)

    def touch(self) -> None:
        """See `FileSession.touch`."""
        for _, array in self._buffers:
            _read_lines(array)

    def invoke(self) -> None:
        """See `Session.invoke`."""
        self._session_run(self._binding)

    def kernels(self) -> tuple[str, ...]:
        """See `OnnxSession.kernels`."""
        with tempfile.TemporaryDirectory() as folder:
            prefix = str(Path(folder) / "kernels")
            session = open_onnx(self._model, self._threads, as_written=self._as_written, profile_prefix=prefix)
            session.run(None, dict(self._inputs))
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return tuple(
            onnx_session._kernel_name(event["args"])
            for event in events
            if event.get("name", "").endswith("_kernel_time")
        )


def _value(array: NDArray[Any]) -> Any:
    """A value that shares the memory of ``array``."""
    return onnx_session.import_onnxruntime().OrtValue.ortvalue_from_numpy(array)


def _read_lines(array: NDArray[Any]) -> None:
    """Read a byte of every cache line."""
    int(array.reshape(-1).view(np.uint8)[::_CACHE_LINE_BYTES].sum())


def open_onnx(
    model: bytes, threads: int, *, as_written: bool = False, optimised_path: str = "", profile_prefix: str = ""
) -> Any:
    """An InferenceSession set up as every other of edgekit; the optimised model is saved where a path says so."""
    onnxruntime = onnx_session.import_onnxruntime()
    options = onnx_session._options(threads)
    if as_written:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimised_path:
        options.optimized_model_filepath = optimised_path
    if profile_prefix:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    return onnx_session._open(model, options)


def onnx_slots(model: bytes) -> list[InputSlot]:
    """The inputs of an ONNX model. Raises BadInputError for one that is no tensor of numbers."""
    slots = []
    for value in open_onnx(model, 1, as_written=True).get_inputs():
        if value.type not in ONNX_TYPES:
            raise BadInputError(f"input {value.name!r} is a {value.type}; only tensors of numbers can be made up")
        sizes = tuple(size if isinstance(size, int) and size > 0 else size or None for size in value.shape)
        slots.append(InputSlot(value.name, np.dtype(ONNX_TYPES[value.type]), sizes))
    return slots


class TfliteFileSession(FileSession):
    """``model`` in an interpreter with its default delegate, ``inputs`` set in their order."""

    def __init__(self, model: bytes, inputs: Arrays, threads: int) -> None:
        self._interpreter = open_tflite(model, inputs, threads)
        details = (*self._interpreter.get_input_details(), *self._interpreter.get_output_details())
        self._indices = [detail["index"] for detail in details]

    def touch(self) -> None:
        """See `FileSession.touch`."""
        for index in self._indices:
            # No view may outlive this: the interpreter would refuse to run.
            _read_lines(self._interpreter.tensor(index)())

    def invoke(self) -> None:
        """See `Session.invoke`."""
        self._interpreter.invoke()

    def kernels(self) -> tuple[str, ...]:
        """See `TfliteSession.kernels`."""
        types = {
            int(tensor["index"]): np.dtype(tensor["dtype"]).name for tensor in self._interpreter.get_tensor_details()
        }
        return tflite_session.kernel_names(self._interpreter._get_ops_details(), types)


def open_tflite(model: bytes, inputs: Arrays | None, threads: int, *, recording: bool = False) -> Any:
    """An interpreter with its tensors allocated, ``inputs`` set where they are given.

    ``recording`` keeps all intermediate tensors and so does without the delegate. Raises BadInputError for a file that
    is refused, UnsupportedModelError for operators that the runtime lacks.
    """
    backend = tflite_session.find_backend()
    (check_identifier if backend.verifies else check_structure)(model)
    options: dict[str, Any] = {}
    if recording:
        resolvers = sys.modules[backend.interpreter.__module__].OpResolverType
        options["experimental_op_resolver_type"] = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        options["experimental_preserve_all_tensors"] = True
    try:
        interpreter = backend.interpreter(model_content=model, num_threads=threads, **options)
        _set_inputs(interpreter, inputs)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        kind = UnsupportedModelError if "custom op" in str(error) else BadInputError
        raise kind(f"{backend.package} cannot load the model: {reason}") from error
    return interpreter


def tflite_slots(model: bytes) -> list[InputSlot]:
    """The inputs of a TFLite model."""
    backend = tflite_session.find_backend()
    (check_identifier if backend.verifies else check_structure)(model)
    try:
        details = backend.interpreter(model_content=model).get_input_details()
    except (ValueError, RuntimeError) as error:
        raise BadInputError(f"{backend.package} cannot load the model: {str(error).splitlines()[0]}") from error
    return [_tflite_slot(detail) for detail in details]


def _tflite_slot(detail: dict[str, Any]) -> InputSlot:
    signature = detail["shape_signature"] if len(detail["shape_signature"]) else detail["shape"]
    sizes = tuple(int(size) if size >= 0 else None for size in signature)
    if not np.issubdtype(detail["dtype"], np.number) and detail["dtype"] is not np.bool_:
        raise BadInputError(f"input {detail['name']!r} is no tensor of numbers, which alone can be made up")
    return InputSlot(str(detail["name"]), np.dtype(detail["dtype"]), sizes)


def _set_inputs(interpreter: Any, inputs: Arrays | None) -> None:
    details = interpreter.get_input_details()
    arrays = list((inputs or {}).values())
    for detail, array in zip(details, arrays, strict=False):
        if tuple(detail["shape"]) != array.shape:
            interpreter.resize_tensor_input(detail["index"], array.shape)
    interpreter.allocate_tensors()
    for detail, array in zip(details, arrays, strict=False):
        interpreter.set_tensor(detail["index"], array)
