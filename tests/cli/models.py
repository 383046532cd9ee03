"""A small real model file, as the tests of commands need it.

No test is here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgekit import runtimes
from edgekit.codec import encode_model_info
from edgekit.runtimes import FoldedNetwork, LayerWeights
from edgekit.types import INPUT, Layer, ModelInfo, NetworkSpec, Preprocessing, UnitSpec


def write_brightness_model(path: Path) -> str:
    """A model of one dense layer that calls images of 2 x 2 above half brightness ``light``, others ``dark``."""
    flatten = UnitSpec(kind="flatten", input_shape=(1, 2, 2), output_shape=(4,))
    dense = UnitSpec(kind="dense", input_shape=(4,), output_shape=(2,))
    layers = (Layer(name="flat", unit=flatten, inputs=(INPUT,)), Layer(name="out", unit=dense, inputs=("flat",)))
    weight = np.array([[-1.0] * 4, [1.0] * 4], dtype=np.float32)
    spec = NetworkSpec(name="brightness", input_shape=(1, 2, 2), layers=layers)
    network = FoldedNetwork(spec, {"out": LayerWeights(weight, np.zeros(2, dtype=np.float32))})
    metadata = {"edgekit": encode_model_info(_info())}
    path.write_bytes(runtimes.get("onnx").write(network, metadata=metadata))
    return str(path)


def _info() -> ModelInfo:
    return ModelInfo(
        edgekit_version="0",
        network="brightness",
        number_format="fp32",
        source_hash="0" * 64,
        target="cpu",
        runtime="onnx",
        predicted_us=7.5,
        preprocessing=Preprocessing(input_shape=(1, 2, 2), mean=(0.5,), std=(0.5,)),
        labels=("dark", "light"),
    )
