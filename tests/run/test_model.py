"""Opening exported models in every runtime that is installed, and refusing what is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgekit import runtimes
from edgekit.codec import encode_model_info
from edgekit.data import load
from edgekit.errors import BadInputError, MissingExtraError
from edgekit.run import Classified, classify, open_model
from edgekit.runtimes import FoldedNetwork, LayerWeights, Runtime
from edgekit.types import Layer, ModelInfo, NetworkSpec, RuntimeName, UnitSpec
from tests.data.sources import cyclic_labels, random_pixels, write_folder
from tests.run.models import LABELS, SHAPE, brightness_info

FEATURES = 30


@pytest.fixture(params=runtimes.names())
def runtime(request: pytest.FixtureRequest) -> Runtime:
    name: RuntimeName = request.param
    if name == "onnx":
        pytest.importorskip("onnx", reason="writing an ONNX model needs the package onnx")
    try:
        return runtimes.get(name)
    except MissingExtraError as error:
        pytest.skip(f"{error.message}; {error.hint}")


def _network(outputs: int = 3) -> FoldedNetwork:
    flatten = UnitSpec(kind="flatten", input_shape=SHAPE, output_shape=(FEATURES,))
    dense = UnitSpec(kind="dense", input_shape=(FEATURES,), output_shape=(outputs,))
    layers = (Layer(name="flatten", unit=flatten, inputs=("input",)), Layer(name="d", unit=dense, inputs=("flatten",)))
    weight = np.random.default_rng(5).normal(size=(outputs, FEATURES)).astype(np.float32)
    weights = {"d": LayerWeights(weight, np.zeros(outputs, dtype=np.float32))}
    return FoldedNetwork(NetworkSpec(name="linear", input_shape=SHAPE, layers=layers), weights)


def _write(folder: Path, runtime: Runtime, info: ModelInfo | None, outputs: int = 3) -> Path:
    metadata = {"edgekit": encode_model_info(info)} if info else None
    path = folder / f"model{runtime.suffix}"
    path.write_bytes(runtime.write(_network(outputs), metadata=metadata))
    return path


def test_files_are_classified_as_the_data_set_that_they_came_from(tmp_path: Path, runtime: Runtime) -> None:
    dataset = load(str(write_folder(tmp_path / "images", random_pixels(12, SHAPE), cyclic_labels(12))))
    info = ModelInfo(
        edgekit_version="0",
        network="linear",
        number_format="fp32",
        source_hash="",
        target="none",
        runtime=runtime.name,
        preprocessing=dataset.preprocessing,
        labels=LABELS,
    )
    model = _write(tmp_path, runtime, info)
    weight = _network().weights["d"].weight
    logits = dataset.normalised(slice(None)).reshape(12, FEATURES) @ weight.T

    outcomes = list(classify(model, [str(tmp_path / "images")]))

    expected = [LABELS[index] for index in logits.argmax(axis=1)]
    assert [outcome.label for outcome in outcomes if isinstance(outcome, Classified)] == expected


def test_a_model_without_metadata_is_refused_with_a_hint(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(BadInputError, match="does not say how images become its input") as caught:
        open_model(_write(tmp_path, runtime, None))

    assert "edgekit export" in str(caught.value.hint)


def test_a_description_can_be_handed_in(tmp_path: Path, runtime: Runtime) -> None:
    model = open_model(_write(tmp_path, runtime, None), info=brightness_info())

    assert model.logits(np.zeros((2, *SHAPE), np.float32)).shape == (2, 3)


def test_labels_that_do_not_fit_the_outputs_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(BadInputError, match="4 outputs and 3 labels"):
        open_model(_write(tmp_path, runtime, brightness_info(), outputs=4))


def test_images_that_do_not_fit_the_input_are_refused(tmp_path: Path, runtime: Runtime) -> None:
    with pytest.raises(BadInputError, match=r"takes samples of shape \(1, 6, 5\) and describes images of \(1, 7, 7\)"):
        open_model(_write(tmp_path, runtime, brightness_info(shape=(1, 7, 7))))


def test_metadata_that_is_no_description_is_refused_by_the_name_of_the_file(tmp_path: Path, runtime: Runtime) -> None:
    path = tmp_path / f"model{runtime.suffix}"
    path.write_bytes(runtime.write(_network(), metadata={"edgekit": '{"schema": 99}'}))

    with pytest.raises(BadInputError, match=f"model{runtime.suffix}"):
        open_model(path)


@pytest.mark.parametrize("content", [b"", b"12345678", b"no model at all" * 100])
def test_a_file_that_is_no_model_is_refused_by_name(tmp_path: Path, runtime: Runtime, content: bytes) -> None:
    path = tmp_path / f"broken{runtime.suffix}"
    path.write_bytes(content)

    with pytest.raises(BadInputError, match="broken"):
        open_model(path)


def test_another_suffix_is_refused_with_those_that_are_allowed(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"'\.pt'; allowed are \.onnx and \.tflite"):
        open_model(tmp_path / "model.pt")


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no model file"):
        open_model(tmp_path / "absent.onnx")
