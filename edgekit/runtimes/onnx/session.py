"""Loading and running ONNX models with ONNX Runtime, and asking it which kernels it ran.

How models are written is in ``writer``; this needs ``onnxruntime`` and not ``onnx``.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.errors import BadInputError, UsageError
from edgekit.runtimes._base import FloatArray, Session
from edgekit.runtimes.batching import check_batch, check_samples, run_in_batches
from edgekit.runtimes.packages import require

_PROVIDERS = ["CPUExecutionProvider"]
_ERRORS_ONLY = 3


def import_onnxruntime() -> Any:
    """The module ``onnxruntime``; MissingExtraError if it is not installed."""
    # Since 1.29 an import looks up hosts on the network unless this is set before.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    return require("onnxruntime", "onnxruntime", "all")


def read_metadata(model: bytes) -> dict[str, str]:
    """The model's ``metadata_props``. Raises BadInputError if ``model`` is no ONNX model."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY + 1
    try:
        return dict(_open(model, options).get_modelmeta().custom_metadata_map)
    except UnicodeDecodeError as error:
        raise BadInputError(f"the metadata of the ONNX model is damaged: {error}") from error


class OnnxSession(Session):
    """One ONNX model in ONNX Runtime; a dynamic batch size is run as 1."""

    def __init__(self, model: bytes, threads: int) -> None:
        self._model = model
        self._threads = threads
        self._session = _open(model, _options(threads))
        self._input_name, self.input_shape = _describe(self._session.get_inputs(), "input")
        self._output_name, _ = _describe(self._session.get_outputs()[:1], "output")
        self._binding = self._session.io_binding()
        self._session_run = self._session.run_with_iobinding

    def run(self, batch: FloatArray) -> FloatArray:
        """See `Session.run`."""
        return run_in_batches(check_samples(batch, self.input_shape), self.input_shape[0], self._run_once)

    def prepare(self, sample: FloatArray) -> None:
        """See `Session.prepare`."""
        onnxruntime = import_onnxruntime()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(check_batch(sample, self.input_shape))
        self._binding.bind_ortvalue_input(self._input_name, value)
        # Bound once to a buffer of ORT's own: nothing is copied to Python or allocated in `invoke`.
        self._binding.bind_output(self._output_name)

    def invoke(self) -> None:
        """See `Session.invoke`."""
        self._session_run(self._binding)

    def kernels(self) -> tuple[str, ...]:
        """Operator and type of its first input for each kernel that ran, for example ``QLinearConv[uint8]``.

        They come from ONNX Runtime's profiler in a second session, because profiling slows every run down.
        """
        with tempfile.TemporaryDirectory() as folder:
            options = _options(self._threads)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(folder) / "kernels")
            session = _open(self._model, options)
            session.run([self._output_name], {self._input_name: np.zeros(self.input_shape, dtype=np.float32)})
            events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        return tuple(_kernel_name(event["args"]) for event in events if event.get("name", "").endswith("_kernel_time"))

    def _run_once(self, samples: FloatArray) -> FloatArray:
        result: FloatArray = self._session.run([self._output_name], {self._input_name: samples})[0]
        return result


def _open(model: bytes, options: Any) -> Any:
    onnxruntime = import_onnxruntime()
    state = onnxruntime.capi.onnxruntime_pybind11_state
    refusals = (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NoModel,
        state.NoSuchFile,
        state.NotImplemented,
        state.RuntimeException,
        UnicodeDecodeError,
    )
    if not model:
        raise BadInputError("the ONNX model is empty")
    try:
        # Its fallback would retry the same provider, and print a banner on stdout.
        return onnxruntime.InferenceSession(model, options, providers=_PROVIDERS, enable_fallback=0)
    except refusals as error:
        raise BadInputError(f"ONNX Runtime cannot load the model: {str(error).splitlines()[0]}") from error


def _options(threads: int) -> Any:
    onnxruntime = import_onnxruntime()
    if threads < 1:
        raise UsageError(f"a session needs at least 1 thread, not {threads}")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _ERRORS_ONLY
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # Without it, CPUs that have AVX2 and no VNNI add pairs of products in 16 bits that saturate: silently wrong int8.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if threads > 1:
        # Workers that spin between runs take the cores of whatever else runs on the device, and so falsify both.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _describe(tensors: list[Any], role: str) -> tuple[str, tuple[int, ...]]:
    if len(tensors) != 1 or tensors[0].type != "tensor(float)":
        found = ", ".join(f"{tensor.name}: {tensor.type}" for tensor in tensors)
        raise BadInputError(f"the ONNX model must have one {role} of type float, not ({found})")
    batch, *shape = tensors[0].shape
    if not all(isinstance(size, int) and size > 0 for size in shape):
        raise BadInputError(
            f"the {role} {tensors[0].name!r} has the shape {tensors[0].shape}; only the batch may be open"
        )
    return tensors[0].name, (batch if isinstance(batch, int) else 1, *shape)


def _kernel_name(arguments: dict[str, Any]) -> str:
    types = [name for entry in arguments.get("input_type_shape", []) for name in entry]
    return f"{arguments['op_name']}[{types[0]}]" if types else str(arguments["op_name"])
