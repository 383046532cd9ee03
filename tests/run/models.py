"""Stand-in models for the tests of the runner: what they compute can be said in a sentence."""

from __future__ import annotations

import numpy as np

from edgekit.run.model import OpenModel
from edgekit.runtimes import FloatArray, Session
from edgekit.types import ModelInfo, Preprocessing

SHAPE = (1, 6, 5)
LABELS = ("dark", "middle", "bright")


class BrightnessSession(Session):
    """Its logits favour ``dark``, ``middle`` or ``bright`` by the mean of the sample, expected within [0, 1]."""

    def __init__(self, input_shape: tuple[int, ...] = (1, *SHAPE)) -> None:
        self.input_shape = input_shape
        self.samples: list[FloatArray] = []

    def run(self, batch: FloatArray) -> FloatArray:
        self.samples.append(batch)
        brightness = batch.reshape(len(batch), -1).mean(axis=1, keepdims=True)
        return np.asarray(-10 * np.abs(brightness - np.array([[0.0, 0.5, 1.0]])), dtype=np.float32)

    def prepare(self, sample: FloatArray) -> None:
        raise NotImplementedError

    def invoke(self) -> None:
        raise NotImplementedError

    def kernels(self) -> tuple[str, ...]:
        return ()


def brightness_info(shape: tuple[int, ...] = SHAPE, labels: tuple[str, ...] = LABELS) -> ModelInfo:
    """Preprocessing that leaves [0, 1] as it is."""
    return ModelInfo(
        edgekit_version="0",
        network="brightness",
        number_format="fp32",
        source_hash="",
        target="none",
        runtime="onnx",
        preprocessing=Preprocessing(input_shape=shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0]),
        labels=labels,
    )


def brightness_model() -> OpenModel:
    """A model that needs no runtime."""
    return OpenModel(brightness_info(), BrightnessSession())
