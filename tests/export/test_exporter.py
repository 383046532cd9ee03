"""Export as a whole: four kinds of files that agree with torch, and nothing on the disk when they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit.codec import decode_model_info
from edgekit.errors import ExportMismatchError, UsageError
from edgekit.export.check import Limits
from edgekit.export.exporter import PreparedModel, export_network, keep, prepare, with_info
from edgekit.runtimes import Runtime
from edgekit.types import ExportedModel, ModelInfo, NumberFormat
from tests.export.conftest import Trained

BOTH_FORMATS = pytest.mark.parametrize("number_format", ["fp32", "int8"])


def arguments(trained: Trained, runtime: Runtime, number_format: NumberFormat, info: ModelInfo) -> dict[str, Any]:
    return {
        "runtime_name": runtime.name,
        "number_format": number_format,
        "calibration_images": trained.train_images,
        "test_images": trained.test_images,
        "test_labels": trained.test_labels,
        "info": info,
    }


def export(
    trained: Trained, runtime: Runtime, number_format: NumberFormat, info: ModelInfo, path: Path, **others: Any
) -> ExportedModel:
    given = arguments(trained, runtime, number_format, info) | others
    return export_network(trained.network, path=path, **given)


def prepared_model(trained: Trained, runtime: Runtime, info: ModelInfo) -> PreparedModel:
    return prepare(trained.network, **arguments(trained, runtime, "fp32", info))


@BOTH_FORMATS
def test_an_exported_file_is_what_is_told_of_it(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path, number_format: NumberFormat
) -> None:
    path = tmp_path / f"model{runtime.suffix}"
    exported = export(trained, runtime, number_format, info, path)
    output = runtime.load(path.read_bytes()).run(trained.test_images.numpy())
    accuracy = float((output.argmax(1) == trained.test_labels.numpy()).mean())
    assert (exported.path, exported.size_bytes) == (str(path), path.stat().st_size)
    assert (exported.number_format, exported.accuracy) == (number_format, accuracy)


def test_fp32_agrees_with_torch_to_rounding(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path
) -> None:
    exported = export(trained, runtime, "fp32", info, tmp_path / f"model{runtime.suffix}")
    assert exported.max_relative_difference < 1e-5


def test_int8_keeps_the_classes_of_a_trained_network(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path
) -> None:
    exported = export(trained, runtime, "int8", info, tmp_path / f"model{runtime.suffix}")
    assert exported.top1_agreement >= 0.985


@BOTH_FORMATS
def test_the_file_describes_itself(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path, number_format: NumberFormat
) -> None:
    path = tmp_path / f"model{runtime.suffix}"
    exported = export(trained, runtime, number_format, info, path)
    told = decode_model_info(runtime.metadata(path.read_bytes())["edgekit"])
    assert told == msgspec.structs.replace(info, number_format=number_format, accuracy=exported.accuracy)


@BOTH_FORMATS
def test_a_refused_file_leaves_the_old_one_as_it_was(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path, number_format: NumberFormat
) -> None:
    path = tmp_path / f"model{runtime.suffix}"
    path.write_bytes(b"the old one")
    impossible = Limits(relative_difference=-1.0, top1_agreement=1.0)
    wrong_images = {"calibration_images": trained.train_images * 0.01} if number_format == "int8" else {}
    with pytest.raises(ExportMismatchError):
        export(trained, runtime, number_format, info, path, limits=impossible, **wrong_images)
    assert path.read_bytes() == b"the old one" and list(tmp_path.iterdir()) == [path]


def test_calibration_on_other_images_is_noticed_and_a_layer_blamed(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path
) -> None:
    with pytest.raises(ExportMismatchError, match=r"layer '\S+' loses most") as caught:
        export(
            trained,
            runtime,
            "int8",
            info,
            tmp_path / f"model{runtime.suffix}",
            calibration_images=trained.train_images * 0.01,
        )
    assert caught.value.hint is not None and "calibrate with more images" in caught.value.hint


def test_a_name_with_the_suffix_of_another_runtime_is_refused(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="must end in"):
        export(trained, runtime, "fp32", info, tmp_path / "model.bin")


def test_a_measured_time_can_be_put_into_a_checked_model(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path
) -> None:
    prepared = prepared_model(trained, runtime, info)
    path = tmp_path / f"model{runtime.suffix}"
    keep(with_info(prepared, msgspec.structs.replace(prepared.info, measured_us=34.5)), path)
    assert decode_model_info(runtime.metadata(path.read_bytes())["edgekit"]).measured_us == 34.5


def test_a_description_with_another_accuracy_is_refused(trained: Trained, runtime: Runtime, info: ModelInfo) -> None:
    prepared = prepared_model(trained, runtime, info)
    with pytest.raises(UsageError, match=r"accuracy 0\.25"):
        with_info(prepared, msgspec.structs.replace(prepared.info, accuracy=0.25))


def test_content_that_computes_something_else_is_not_kept(
    trained: Trained, runtime: Runtime, info: ModelInfo, tmp_path: Path
) -> None:
    prepared = prepared_model(trained, runtime, info)
    inputs, outputs = prepared.probe
    path = tmp_path / f"model{runtime.suffix}"
    with pytest.raises(ExportMismatchError, match="something else"):
        keep(replace(prepared, probe=(inputs, outputs + 1)), path)
    assert not path.exists()


def test_the_network_stays_in_training_mode(trained: Trained, runtime: Runtime, info: ModelInfo) -> None:
    trained.network.train()
    try:
        prepare(trained.network, **arguments(trained, runtime, "int8", info))
        assert trained.network.training
    finally:
        trained.network.eval()
