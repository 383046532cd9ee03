"""Opens an exported model for running: picks its runtime, reads what the file says about itself, loads it.

No image is known here, and no error of a runtime leaves without the name of the file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from edgekit import runtimes
from edgekit.codec import decode_model_info
from edgekit.data._base import quoted
from edgekit.data.preprocess import check_preprocessing
from edgekit.errors import BadInputError
from edgekit.profile import Stopwatch, open_stopwatch
from edgekit.runtimes import FloatArray
from edgekit.types import ModelInfo, RuntimeName, Target

METADATA_KEY = "edgekit"
"""Key of the `ModelInfo` JSON among the text metadata of a model file."""
MAX_MODEL_BYTES = 2**31
"""Both formats end here: protobuf and flatbuffers count bytes in 31 bits."""

REMOTE_BATCH = 64
"""Images that are sent to a device at a time: each time costs the start of a program there."""


class Runnable(Protocol):
    """What runs a model: a session of this machine, or a device."""

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one run's input, the batch first."""

    def run(self, batch: FloatArray, /) -> FloatArray:
        """Outputs of any number of samples, batch first."""


@dataclass(frozen=True, eq=False)
class OpenModel:
    """A loaded model and what is known about it. ``batch_size``: how many samples are worth waiting for; 1 where a run
    takes one at a time anyway."""

    info: ModelInfo
    session: Runnable
    batch_size: int = 1

    def logits(self, samples: FloatArray) -> FloatArray:
        """Outputs (samples, classes) for preprocessed samples (samples, channels, height, width), float32."""
        batch = samples.reshape(len(samples), *self.session.input_shape[1:])
        return self.session.run(batch).reshape(len(samples), -1)


@dataclass(frozen=True, eq=False)
class _OnDevice:
    """A model that runs on a device."""

    stopwatch: Stopwatch
    model: bytes
    input_shape: tuple[int, ...]

    def run(self, batch: FloatArray, /) -> FloatArray:
        """See `Runnable.run`."""
        return self.stopwatch.run(self.model, batch)


def open_model(
    path: Path, *, threads: int | None = None, info: ModelInfo | None = None, target: Target | None = None
) -> OpenModel:
    """Load ``path`` in the runtime of its suffix (.onnx or .tflite) and run it once on zeros, here or on ``target``.

    ``info`` stands in for the description that a file lacks, and wins over one that it has. Raises BadInputError for
    a file that is no model, that edgekit did not describe, or that contradicts its description; DeviceError for a
    target that cannot be reached.
    """
    runtime_name = _runtime_name(path)
    content = _read(path)
    runtime = runtimes.get(runtime_name)
    is_remote = target is not None and target.transport != "local"
    try:
        described = info or _described(path, runtime.metadata(content))
        session: Runnable = runtime.load(content, threads or 1)
        if target is not None and is_remote:
            stopwatch = open_stopwatch(target, runtime_name, threads)
            session = _OnDevice(stopwatch, content, session.input_shape)
    except BadInputError as error:
        message = error.message if quoted(path) in error.message else f"{quoted(path)}: {error.message}"
        raise BadInputError(message, error.hint) from error
    model = OpenModel(described, session, REMOTE_BATCH if is_remote else 1)
    _check_agreement(path, model)
    return model


def _runtime_name(path: Path) -> RuntimeName:
    name = runtimes.of_suffix(path)
    if name is None:
        allowed = " and ".join(runtimes.SUFFIXES.values())
        raise BadInputError(f"the model {quoted(path)} has the suffix {path.suffix!r}; allowed are {allowed}")
    return name


def _read(path: Path) -> bytes:
    if not os.path.isfile(path):
        raise BadInputError(f"there is no model file {quoted(path)}; allowed is a .onnx or .tflite file")
    if path.stat().st_size > MAX_MODEL_BYTES:
        raise BadInputError(f"the model {quoted(path)} has more than the allowed {MAX_MODEL_BYTES} bytes")
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadInputError(f"the model {quoted(path)} cannot be read: {error.strerror}") from error


def _described(path: Path, metadata: dict[str, str]) -> ModelInfo:
    text = metadata.get(METADATA_KEY)
    if text is None:
        raise BadInputError(
            f"the model {quoted(path)} does not say how images become its input or what its labels are; "
            f"allowed is a model with edgekit's metadata",
            "export it with `edgekit export`; from Python, a ModelInfo can be given as info=",
        )
    return decode_model_info(text, quoted(path))


def _check_agreement(path: Path, model: OpenModel) -> None:
    """Refuse a model whose input or output does not fit its own description."""
    wanted, described = model.session.input_shape, model.info.preprocessing.input_shape
    check_preprocessing(model.info.preprocessing, quoted(path))
    if wanted[1:] not in (described, (int(np.prod(described)),)):
        raise BadInputError(
            f"the model {quoted(path)} takes samples of shape {wanted[1:]} and describes images of {described}; "
            f"allowed is the same shape, or all its values in one row"
        )
    outputs = model.logits(np.zeros((1, *described), dtype=np.float32)).size
    if outputs != len(model.info.labels):
        raise BadInputError(
            f"the model {quoted(path)} has {outputs} outputs and {len(model.info.labels)} labels; "
            f"allowed is one label per output"
        )
