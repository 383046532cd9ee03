"""What a runtime is to the rest of edgekit: it writes networks as files, loads and runs them, names the kernels.

One file per implementation beside this one (``onnx/``, ``tflite/``); all of them pass tests/runtimes/conformance.py.
Nothing here imports a runtime.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgekit.types import NetworkSpec, NumberFormat, RuntimeName

FloatArray = NDArray[np.float32]

SUFFIXES: dict[RuntimeName, str] = {"onnx": ".onnx", "tflite": ".tflite"}
"""How the names of model files end, by runtime."""


@dataclass(frozen=True)
class LayerWeights:
    """Float parameters of one layer, batch normalisation folded: ``weight`` in the shape of
    ``UnitSpec.weight_shape``, ``bias`` of shape (output channels,)."""

    weight: FloatArray
    bias: FloatArray


@dataclass(frozen=True)
class FoldedNetwork:
    """A network ready to be written: its graph, and the weights of every layer that has some."""

    spec: NetworkSpec
    weights: Mapping[str, LayerWeights]


Ranges = Mapping[str, tuple[float, float]]
"""Smallest and largest value of each tensor, by layer name (``"input"`` for the network's input), from calibration.
The range of a layer is that of its output *after* the activation."""


class Session(ABC):
    """A loaded model. Input and output are float32, batch first, channels before height and width, in every runtime."""

    input_shape: tuple[int, ...]
    """Shape of one run's input, with the batch size the model was written for (1 unless said otherwise)."""

    @abstractmethod
    def run(self, batch: FloatArray) -> FloatArray:
        """Run any number of samples (one model run per ``input_shape[0]`` of them); shape (samples, outputs...)."""

    @abstractmethod
    def prepare(self, sample: FloatArray) -> None:
        """Put one input in place, in the runtime's own layout, for `invoke`."""

    @abstractmethod
    def invoke(self) -> None:
        """Run once on the prepared input: exactly what is timed, nothing else."""

    @abstractmethod
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels that run, in order, as the runtime itself tells them after its graph optimisation
        (a separate profiled run where that is what it takes): never from the graph as it was written."""


class Runtime(ABC):
    """A way to execute networks."""

    name: RuntimeName
    suffix: str
    """File name suffix of its models, with the dot."""

    @abstractmethod
    def version(self) -> str:
        """Package and version, for example ``onnxruntime 1.31.1``."""

    @abstractmethod
    def write(
        self,
        network: FoldedNetwork,
        number_format: NumberFormat = "fp32",
        ranges: Ranges | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """The network as a model file for batch size 1. ``int8`` needs ``ranges`` for the input and every layer; input
        and output stay float32 (the file quantizes and dequantizes at its borders).

        Raises UnsupportedModelError for a unit that this runtime does not execute in that format, naming the layer.
        """

    @abstractmethod
    def load(self, model: bytes, threads: int = 1) -> Session:
        """Load a model file. Raises BadInputError if it is none."""

    @abstractmethod
    def metadata(self, model: bytes) -> dict[str, str]:
        """The text metadata that `write` stored; empty if there is none. Raises BadInputError if it is no model."""
