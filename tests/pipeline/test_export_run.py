"""A finished run's network in another format: made from the run's own data, told apart from the run's own files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgekit.codec import read_result
from edgekit.errors import BadInputError, DataError, EdgekitError, ExportMismatchError
from edgekit.files import sha256_file
from edgekit.pipeline import export_run as module
from edgekit.pipeline import training_run
from edgekit.pipeline.export_run import export_run
from edgekit.pipeline.run_directory import read_settings
from edgekit.pipeline.training_run import train_run
from edgekit.run.model import open_model
from edgekit.types import ModelInfo, NumberFormat, RuntimeName
from tests.pipeline import runs


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        runs.use_steady_clock(patch)
        train_run(runs.settings(folder, epochs=1.0), folder / "run")
        yield folder / "run"


def described(path: str) -> ModelInfo:
    return open_model(Path(path)).info


@pytest.mark.parametrize(("runtime", "number_format"), [("onnx", "fp32"), ("tflite", "int8")])
def test_the_run_keeps_its_own_file(run: Path, runtime: RuntimeName, number_format: NumberFormat) -> None:
    before = sha256_file(run / "models" / "chosen-fp32.onnx")

    exported = export_run(run, runtime=runtime, number_format=number_format)

    assert Path(exported.path).name.startswith("exported-") and Path(exported.path).exists()
    assert sha256_file(run / "models" / "chosen-fp32.onnx") == before


def test_the_file_tells_what_the_runs_profile_predicted(run: Path) -> None:
    info = described(export_run(run, runtime="onnx", number_format="fp32").path)
    own = described(str(run / "models" / "chosen-fp32.onnx"))

    assert info.predicted_us == own.predicted_us and info.profile_hash == own.profile_hash != ""
    assert info.measured_us is not None


def test_another_runtime_has_no_prediction_from_this_profile(run: Path) -> None:
    assert described(export_run(run, runtime="tflite", number_format="fp32").path).predicted_us is None


def test_a_run_whose_data_changed_is_not_exported(run: Path) -> None:
    images = run.parent / "images.npz"
    before = images.read_bytes()
    runs.write_images(images, count=301)

    try:
        with pytest.raises(DataError, match="the data changed since the run"):
            export_run(run, runtime="onnx", number_format="int8")
    finally:
        images.write_bytes(before)


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    with training_run.open_run(tmp_path / "run", runs.settings(tmp_path), resume=False):
        pass

    with pytest.raises(BadInputError, match="is not finished"):
        export_run(tmp_path / "run", runtime="onnx", number_format="fp32")


def test_runtime_and_format_are_the_runs_own_if_none_is_asked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = msgspec.structs.replace(read_settings(run), runtime="tflite", number_format="int8")
    monkeypatch.setattr(module, "read_settings", lambda _path: own)

    exported = export_run(run)

    assert (exported.runtime, exported.number_format) == ("tflite", "int8")
    assert Path(exported.path) == run / "models" / "exported-int8.tflite"


@pytest.mark.parametrize(("name", "message"), [("a.tflite", "must end in '.onnx'"), ("images.npz/a.onnx", "written")])
def test_a_place_where_the_file_cannot_go_is_told_before_the_work(
    run: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise AssertionError("the data were read")

    monkeypatch.setattr(module, "load", refuse)

    with pytest.raises(EdgekitError, match=message):
        export_run(run, path=run.parent / name)


def test_weights_that_were_changed_on_the_disk_are_not_exported(run: Path) -> None:
    weights = run / "stages" / "chosen.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:-8] + bytes(byte ^ 0xFF for byte in before[-8:]))

    try:
        with pytest.raises(BadInputError, match=r"chosen\.safetensors: damaged") as raised:
            export_run(run)
    finally:
        weights.write_bytes(before)

    assert "the stage is done again" in str(raised.value.hint)


@pytest.mark.parametrize(
    ("runtime", "number_format", "lost"), [("onnx", "fp32", 0.04), ("tflite", "fp32", 0.04), ("onnx", "int8", 0.08)]
)
def test_a_file_that_is_worth_less_than_the_run_says_is_refused(
    run: Path, monkeypatch: pytest.MonkeyPatch, runtime: RuntimeName, number_format: NumberFormat, lost: float
) -> None:
    own = export_run(run, runtime=runtime, number_format=number_format)
    told = msgspec.structs.replace(read_result(run / "result.json"), accuracy=own.accuracy + lost)
    monkeypatch.setattr(module, "read_result", lambda _path: told)

    with pytest.raises(ExportMismatchError, match="of the test images, and the run's own fp32 model on"):
        export_run(run, runtime=runtime, number_format=number_format)


def test_images_of_all_classes_calibrate_where_the_data_are_sorted_by_class(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrating on the first images of a sorted data set would see one class alone."""
    seen: list[np.ndarray] = []  # type: ignore[type-arg]
    original = module.prepare

    def note(*arguments: object, **options: object) -> object:
        seen.append(options["calibration_images"].numpy())  # type: ignore[attr-defined]
        return original(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "prepare", note)
    monkeypatch.setattr(module, "CALIBRATION_IMAGES", 30)
    train = module.make_split
    monkeypatch.setattr(module, "make_split", lambda data, indices: train(data, sorted_by_class(data.labels, indices)))

    export_run(run, runtime="onnx", number_format="int8")

    heights = seen[0][:, 0].mean(axis=2).argmax(axis=1) // 4
    assert len(seen[0]) == 30 and set(heights.tolist()) == {0, 1, 2}


def sorted_by_class(labels: np.ndarray, indices: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    return indices[np.argsort(labels[indices], kind="stable")]
