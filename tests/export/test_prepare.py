"""What a model must pass before it is kept: the kernels of its format, and ranges of the whole of the images."""

from __future__ import annotations

import pytest
import torch

from edgekit.errors import ExportMismatchError
from edgekit.export import exporter
from edgekit.export.exporter import PreparedModel, prepare
from edgekit.runtimes import Runtime, Session
from edgekit.types import INPUT, ModelInfo
from tests.export.conftest import Trained


def prepared(trained: Trained, runtime: Runtime, info: ModelInfo, calibration_images: torch.Tensor) -> PreparedModel:
    return prepare(
        trained.network,
        runtime_name=runtime.name,
        number_format="int8",
        calibration_images=calibration_images,
        test_images=trained.test_images,
        test_labels=trained.test_labels,
        info=info,
    )


def test_an_int8_model_that_runs_in_float_kernels_is_refused(
    trained: Trained, runtime: Runtime, info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = type(runtime).load

    def load_unfused(self: Runtime, model: bytes, threads: int = 1) -> Session:
        session = load(self, model, threads)
        monkeypatch.setattr(session, "kernels", lambda: ("QuantizeLinear[float]", "Conv[float]"))
        return session

    monkeypatch.setattr(type(runtime), "load", load_unfused)

    with pytest.raises(ExportMismatchError, match=r"float kernels: Conv\[float\];"):
        prepared(trained, runtime, info, trained.train_images)


def test_ranges_are_those_of_images_from_everywhere(
    trained: Trained, runtime: Runtime, info: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "CALIBRATION_IMAGES", 256)
    dark_first = torch.cat([trained.train_images[:512] * 0.01, trained.train_images[512:]])

    ranges = prepared(trained, runtime, info, dark_first).ranges

    assert ranges is not None and ranges[INPUT][1] > 1.0
