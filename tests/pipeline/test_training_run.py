"""A whole run: the small network fits the budget, its file tells the truth about itself, and the result can be read."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.codec import read_result
from edgekit.data import load
from edgekit.errors import BudgetError, TrainingDivergedError, UsageError
from edgekit.files import sha256_file
from edgekit.pipeline import training_run
from edgekit.pipeline.run_directory import RunDirectory
from edgekit.pipeline.settings import TrainSettings
from edgekit.pipeline.training_run import train_run
from edgekit.run.model import open_model
from edgekit.types import ModelPoint, NumberFormat, RunResult, RuntimeName, Timing
from tests.pipeline import runs

PERCEPTRON = "mlp-128-64"
KINDS: list[tuple[RuntimeName, NumberFormat]] = [
    ("onnx", "fp32"),
    ("onnx", "int8"),
    ("tflite", "fp32"),
    ("tflite", "int8"),
]


@dataclass(frozen=True)
class Finished:
    """A run that was carried out, its settings, and what it returned."""

    settings: TrainSettings
    path: Path
    result: RunResult

    def point(self, role: str) -> ModelPoint:
        return next(point for point in self.result.points if point.role == role)


@pytest.fixture(scope="module", params=KINDS, ids=["-".join(kind) for kind in KINDS])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    runtime, number_format = request.param
    folder = tmp_path_factory.mktemp(f"{runtime}-{number_format}")
    with pytest.MonkeyPatch.context() as patch:
        runs.use_steady_clock(patch)
        settings = runs.settings(folder, runtime=runtime, number_format=number_format)
        yield Finished(settings, folder / "run", train_run(settings, folder / "run"))


def test_the_result_can_be_read_back(finished: Finished) -> None:
    assert read_result(finished.path / "result.json") == finished.result


def test_there_is_a_dense_and_a_chosen_model(finished: Finished) -> None:
    assert [(point.name, point.role) for point in finished.result.points] == [("dense", "dense"), ("chosen", "chosen")]


def test_the_chosen_model_fits_the_budget_and_uses_most_of_it(finished: Finished) -> None:
    result = finished.result

    assert result.budget_us == pytest.approx(0.6 * result.baseline_measured_us)
    assert 0.85 * result.budget_us <= result.measured_us <= result.budget_us


def test_the_chosen_model_is_smaller(finished: Finished) -> None:
    dense, chosen = finished.point("dense"), finished.point("chosen")

    assert chosen.parameter_count < dense.parameter_count and chosen.mac_count < dense.mac_count


def test_both_models_have_learned(finished: Finished) -> None:
    assert finished.result.baseline_accuracy > 0.9 and finished.result.accuracy > 0.6


def test_the_result_repeats_its_points(finished: Finished) -> None:
    result, dense, chosen = finished.result, finished.point("dense"), finished.point("chosen")

    assert (result.accuracy, result.measured_us) == (chosen.accuracy, chosen.measured_us)
    assert result.predicted_us == chosen.predicted_us
    assert (result.baseline_accuracy, result.baseline_measured_us) == (dense.accuracy, dense.measured_us)


def test_the_result_names_what_was_asked_for(finished: Finished) -> None:
    result, settings = finished.result, finished.settings

    assert (result.runtime, result.number_format, result.seed) == (settings.runtime, settings.number_format, 0)
    assert (result.model, result.data, result.settings["budget"]) == (settings.model, settings.data, "60%")


def test_the_result_says_how_many_images_each_part_had(finished: Finished) -> None:
    assert finished.result.data_counts == {"train": 210, "validation": 30, "test": 60, "skipped": 0}


def test_lists_among_the_settings_are_lists_in_the_file(finished: Finished) -> None:
    stored = json.loads((finished.path / "result.json").read_bytes())["settings"]

    assert (stored["penalty_sweep"], stored["image_size"]) == ([], None)


@pytest.mark.usefixtures("steady_clock")
def test_the_result_names_the_files_that_were_skipped(tmp_path: Path) -> None:
    settings = runs.settings(tmp_path, model=PERCEPTRON, method="dense", epochs=0.2)
    folder = tmp_path / "images"
    for index, image in enumerate(np.load(settings.data)["images"][:60]):
        (folder / f"bar-{index % 3}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"bar-{index % 3}" / f"{index}.png")
    (folder / "bar-0" / os.fsdecode(b"torn-\xff.png")).write_bytes(b"no image")

    result = train_run(msgspec.structs.replace(settings, data=str(folder)), tmp_path / "run")

    (skipped,) = read_result(tmp_path / "run" / "result.json").skipped
    assert result.data_counts["skipped"] == 1 and "none of the image formats" in skipped.reason
    assert skipped.path.endswith("torn-\\udcff.png")


@pytest.mark.parametrize("role", ["dense", "chosen"])
def test_every_file_is_there_and_has_its_size(finished: Finished, role: str) -> None:
    point = finished.point(role)

    assert (finished.path / point.file).stat().st_size == point.size_bytes


@pytest.mark.parametrize("role", ["dense", "chosen"])
def test_a_file_says_of_itself_what_the_result_says(finished: Finished, role: str) -> None:
    point = finished.point(role)

    info = open_model(finished.path / point.file).info

    assert (info.accuracy, info.measured_us, info.predicted_us) == (
        point.accuracy,
        point.measured_us,
        point.predicted_us,
    )
    assert (info.runtime, info.number_format) == (finished.result.runtime, finished.result.number_format)
    assert (info.target, info.labels) == ("cpu", runs.CLASSES)
    assert info.profile_hash == sha256_file(finished.path / "profile.json")


def test_the_chosen_file_reaches_its_accuracy_on_the_test_images(finished: Finished) -> None:
    dataset = load(finished.settings.data, seed=0)
    model = open_model(finished.path / finished.point("chosen").file)

    answers = [int(model.logits(sample[None]).argmax()) for sample in dataset.normalised(dataset.test)]

    assert np.mean(np.array(answers) == dataset.labels[dataset.test]) == pytest.approx(finished.result.accuracy)


def test_the_layers_add_up_to_the_measured_time(finished: Finished) -> None:
    layers = finished.point("chosen").layers

    assert all(layer.kept_channels <= layer.channels for layer in layers)
    kept_us = sum(layer.kept_us for layer in layers)
    assert runs.OVERHEAD_US + kept_us == pytest.approx(finished.result.measured_us, rel=0.02)


def test_a_finished_run_can_be_resumed_and_says_the_same(finished: Finished) -> None:
    again = train_run(finished.settings, finished.path, resume=True)

    assert again.points == finished.result.points


def test_a_measured_run_needs_no_clock_of_the_tests(tmp_path: Path) -> None:
    result = train_run(runs.settings(tmp_path, model=PERCEPTRON, method="dense", epochs=1.0), tmp_path / "run")

    assert result.measured_us == result.baseline_measured_us > 0
    assert [point.role for point in result.points] == ["dense"]


def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shares: list[float], **changes: Any) -> RunResult:
    """A run of one model per lambda, whose files take these shares of the dense one's 1000 us."""

    def times(_work: object, prepared: list[object]) -> list[Timing]:
        return [runs.timing(1000.0 * share) for share in (1.0, *shares)][: len(prepared)]

    monkeypatch.setattr(training_run, "_time", times)
    plain: dict[str, Any] = {"epochs": 2.0, "search_share": 0.5, "gate_learning_rate": 1.0}
    settings = runs.settings(tmp_path, model=PERCEPTRON, penalty_sweep=(10.0, 3000.0), **(plain | changes))
    return train_run(settings, tmp_path / "run")


@pytest.mark.usefixtures("steady_clock")
def test_the_swept_model_nearest_to_the_budget_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = sweep(tmp_path, monkeypatch, [0.62, 0.5])

    assert [(p.name, p.role) for p in result.points[1:]] == [("lambda=10", "chosen"), ("lambda=3000", "swept")]
    assert result.measured_us == pytest.approx(620.0)


@pytest.mark.usefixtures("steady_clock")
def test_the_nearest_swept_model_not_above_the_budget_is_chosen_if_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = sweep(tmp_path, monkeypatch, [0.62, 0.5], sweep_choice="not-above")

    assert result.measured_us == pytest.approx(500.0)
    assert [p.role for p in result.points[1:]] == ["swept", "chosen"]


@pytest.mark.usefixtures("steady_clock")
def test_a_sweep_without_a_model_below_the_budget_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BudgetError, match=r"within 600\.0 us; the fastest took 700\.0 us") as raised:
        sweep(tmp_path, monkeypatch, [0.9, 0.7], sweep_choice="not-above")

    assert "--lambda-sweep" in str(raised.value.hint)


@pytest.mark.usefixtures("steady_clock")
def test_every_swept_model_is_kept_with_its_lambda_and_a_larger_one_keeps_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = sweep(tmp_path, monkeypatch, [0.62, 0.5])

    lenient, strict = result.points[1:]
    assert (lenient.penalty_weight, strict.penalty_weight) == (10.0, 3000.0)
    assert strict.parameter_count < lenient.parameter_count
    assert all((tmp_path / "run" / point.file).exists() for point in result.points)


@pytest.mark.usefixtures("steady_clock")
def test_a_measured_time_above_the_budget_makes_the_run_aim_lower(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files take a tenth longer than what was measured before training: only the second attempt fits."""

    def slower(work: object, prepared: Any) -> list[Timing]:
        dense, *others = runs.steady_file_times(work, prepared)
        return [dense, *(runs.timing(1.1 * other.median_us) for other in others)]

    monkeypatch.setattr(training_run, "_time", slower)

    result = train_run(runs.settings(tmp_path, epochs=1.0), tmp_path / "run")

    assert result.measured_us <= 1.02 * result.budget_us
    assert RunDirectory(tmp_path / "run").finished("fine-tune-2") is not None


@pytest.mark.usefixtures("steady_clock")
def test_a_budget_that_no_file_reaches_still_gives_the_nearest_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def far_slower(work: object, prepared: Any) -> list[Timing]:
        dense, *others = runs.steady_file_times(work, prepared)
        return [dense, *(runs.timing(10 * other.median_us) for other in others)]

    monkeypatch.setattr(training_run, "_time", far_slower)

    result = train_run(runs.settings(tmp_path, epochs=1.0), tmp_path / "run")

    assert result.measured_us > result.budget_us and read_result(tmp_path / "run" / "result.json") == result


@pytest.mark.usefixtures("steady_clock")
def test_of_attempts_that_all_miss_the_nearest_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Aiming lower can measure higher, on a machine that got slower: the last attempt is not the best by itself."""
    shares = iter([0.63, 0.78, 0.72])

    def times(_work: object, prepared: list[object]) -> list[Timing]:
        return [runs.timing(100.0), runs.timing(100.0 * next(shares))]

    monkeypatch.setattr(training_run, "_time", times)

    result = train_run(runs.settings(tmp_path, epochs=1.0), tmp_path / "run")

    assert result.measured_us == pytest.approx(63.0)


@pytest.mark.usefixtures("steady_clock")
def test_an_absolute_budget_is_judged_at_the_speed_at_which_it_was_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine runs at half its speed when the files are timed: the model fits as well as before."""

    def slower_machine(work: object, prepared: Any) -> list[Timing]:
        return [runs.timing(2 * timing.median_us) for timing in runs.steady_file_times(work, prepared)]

    monkeypatch.setattr(training_run, "_time", slower_machine)
    dense_us = runs.network_us(runs.structure().spec)

    train_run(runs.settings(tmp_path, epochs=1.0, budget=f"{0.6 * dense_us}us"), tmp_path / "run")

    assert RunDirectory(tmp_path / "run").finished("fine-tune-2") is None


@pytest.mark.usefixtures("steady_clock")
def test_macs_choose_without_looking_at_the_measured_time(tmp_path: Path) -> None:
    result = train_run(runs.settings(tmp_path, latency_source="macs", epochs=1.0), tmp_path / "run")

    chosen, dense = result.points[1], result.points[0]
    assert chosen.mac_count <= 0.6 * dense.mac_count and result.settings["latency_source"] == "macs"


@pytest.mark.usefixtures("steady_clock")
def test_a_learning_rate_that_is_too_high_ends_the_run_with_advice(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="stage 'warm-up'") as raised:
        train_run(runs.settings(tmp_path, model=PERCEPTRON, learning_rate=1e6), tmp_path / "run")

    assert raised.value.exit_code == 1 and "lower --learning-rate (now 1e+06)" in str(raised.value.hint)
    assert not (tmp_path / "run" / "result.json").exists()


@pytest.mark.usefixtures("steady_clock")
def test_the_dense_network_of_another_run_can_be_used(tmp_path: Path) -> None:
    first = train_run(runs.settings(tmp_path, method="dense", epochs=1.0), tmp_path / "first")

    second = train_run(runs.settings(tmp_path, epochs=1.0, dense_from=str(tmp_path / "first")), tmp_path / "second")

    hashes = {open_model(tmp_path / run / "models" / "dense-fp32.onnx").info.source_hash for run in ("first", "second")}
    assert len(hashes) == 1 and second.baseline_accuracy == first.accuracy


@pytest.mark.usefixtures("steady_clock")
@pytest.mark.parametrize("changes", [{"seed": 1}, {"epochs": 2.0}])
def test_a_dense_network_that_was_trained_otherwise_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    train_run(runs.settings(tmp_path, model=PERCEPTRON, method="dense", epochs=1.0), tmp_path / "first")
    plain: dict[str, Any] = {"model": PERCEPTRON, "epochs": 1.0, "dense_from": str(tmp_path / "first")}

    with pytest.raises(UsageError, match=f"{next(iter(changes))} = "):
        train_run(runs.settings(tmp_path, **(plain | changes)), tmp_path / "second")
