"""What a run needs is prepared before any training, and what cannot work is refused then."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from PIL import Image

from edgekit.errors import BadInputError, BudgetError, DataError, UsageError
from edgekit.pipeline import workspace
from edgekit.pipeline.drop_run import Dense, Searched, learn_gates
from edgekit.pipeline.run_directory import RunDirectory
from edgekit.pipeline.settings import TrainSettings
from edgekit.pipeline.training_run import train_run
from edgekit.pipeline.workspace import Workspace, augmentation_for, prepare
from edgekit.train.selection import smallest_us
from edgekit.types import Progress, Timing, ignore_progress
from tests.pipeline import runs

pytestmark = pytest.mark.usefixtures("steady_clock")


def prepared(tmp_path: Path, **changes: Any) -> Workspace:
    return prepare(runs.settings(tmp_path, **changes), RunDirectory(tmp_path / "run"), ignore_progress)


@pytest.mark.parametrize("latency_source", ["measured", "macs"])
def test_an_unreachable_budget_is_refused_before_any_training(tmp_path: Path, latency_source: str) -> None:
    stages: list[str] = []

    def note(progress: Progress) -> None:
        stages.append(progress.stage)

    with pytest.raises(BudgetError, match="a budget of 1\\.0 us cannot be met") as raised:
        train_run(runs.settings(tmp_path, budget="1us", latency_source=latency_source), tmp_path / "run", progress=note)

    assert raised.value.exit_code == 1 and set(stages) <= {"read data"}


def test_an_impossible_run_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(BudgetError):
        train_run(runs.settings(tmp_path, budget="1us"), tmp_path / "run")

    assert not (tmp_path / "run").exists()


def test_a_run_is_not_begun_among_the_files_of_others_which_stay(tmp_path: Path) -> None:
    (tmp_path / "run" / "notes").mkdir(parents=True)
    (tmp_path / "run" / "notes" / "todo.txt").write_text("keep me")

    with pytest.raises(UsageError, match="holds other files, such as notes"):
        train_run(runs.settings(tmp_path, budget="1us"), tmp_path / "run")

    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["notes", "todo.txt"]


def test_the_smallest_reachable_latency_is_told_and_is_reachable(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as raised:
        prepared(tmp_path, budget="1us")

    smallest = raised.value.smallest_us
    assert f"{smallest:.1f} us" in raised.value.message
    assert smallest == pytest.approx(smallest_us(prepared(tmp_path, budget=f"{smallest + 0.001:.3f}us").latency))


def test_a_dense_run_needs_no_reachable_budget(tmp_path: Path) -> None:
    assert prepared(tmp_path, budget="1us", method="dense").budget_us == 1.0


def test_the_prediction_of_the_dense_network_is_its_measured_time(tmp_path: Path) -> None:
    work = prepared(tmp_path)

    expected = runs.network_us(work.initial.spec)
    assert work.baseline_us == pytest.approx(expected)
    assert work.latency.latency_us(work.latency.full()) == pytest.approx(expected)


def test_the_budget_is_a_share_of_the_measured_time(tmp_path: Path) -> None:
    work = prepared(tmp_path, budget="60%")

    assert work.budget_us == pytest.approx(0.6 * work.baseline_us)


def test_macs_steer_only_where_they_are_asked_for(tmp_path: Path) -> None:
    by_time, by_macs = prepared(tmp_path), prepared(tmp_path, latency_source="macs")
    smallest = by_time.latency.smallest()

    assert by_time.steering is by_time.latency
    assert by_macs.steering.latency_us(smallest) != pytest.approx(by_macs.latency.latency_us(smallest), rel=0.05)


def test_a_resumed_run_keeps_its_first_measurement_of_the_dense_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = prepared(tmp_path)

    def slower(*arguments: Any, **options: Any) -> list[Timing]:
        return [runs.timing(2 * found.median_us) for found in runs.steady_times(*arguments, **options)]

    monkeypatch.setattr(workspace, "time_networks", slower)

    assert prepared(tmp_path).baseline_us == first.baseline_us


def test_a_resumed_run_keeps_its_profile(tmp_path: Path) -> None:
    settings = runs.settings(tmp_path)
    first = prepare(settings, RunDirectory(tmp_path / "run"), ignore_progress)
    Path(str(settings.profile)).write_text("{}")

    again = prepare(settings, RunDirectory(tmp_path / "run"), ignore_progress)

    assert again.latency.latency_us(again.latency.smallest()) == first.latency.latency_us(first.latency.smallest())


def test_the_times_of_another_runtime_are_refused(tmp_path: Path) -> None:
    other = runs.settings(tmp_path, runtime="tflite").profile

    with pytest.raises(BadInputError, match="runtime is 'tflite' there and 'onnx' here"):
        prepared(tmp_path, profile=other)


def test_a_format_that_the_target_does_not_execute_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "floats.toml"
    target.write_text(
        'name = "floats"\ndescription = "no int8"\ntransport = "local"\n[runtimes.onnx]\nformats = ["fp32"]\n'
    )

    with pytest.raises(UsageError, match="'floats' does not execute int8 on onnx"):
        prepared(tmp_path, target=str(target), number_format="int8")


def refuse_to_read(*_: object, **__: object) -> Any:
    raise AssertionError("the data were read")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "resnet13x"}, "no network is called 'resnet13x'"),
        ({"model": "absent.py:make"}, "there is no file 'absent.py'"),
        ({"target": "absent"}, "no target 'absent'"),
    ],
)
def test_what_is_wrong_without_the_data_is_told_before_they_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    settings = msgspec.structs.replace(runs.settings(tmp_path), **changes)
    monkeypatch.setattr(workspace, "load", refuse_to_read)

    with pytest.raises(UsageError, match=message):
        prepare(settings, RunDirectory(tmp_path / "run"), ignore_progress)


def test_a_damaged_profile_is_told_before_the_data_are_read_and_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = runs.settings(tmp_path)
    Path(str(settings.profile)).write_text('{"schema": 1')
    monkeypatch.setattr(workspace, "load", refuse_to_read)

    with pytest.raises(BadInputError, match="is no valid JSON") as raised:
        prepare(settings, RunDirectory(tmp_path / "run"), ignore_progress)

    assert raised.value.hint == f"delete {settings.profile}: its times are measured again"


def test_a_damaged_profile_of_a_run_says_what_can_be_saved_and_the_run_goes_on_without_it(tmp_path: Path) -> None:
    work = prepared(tmp_path)
    work.run.profile_path.write_text('{"schema": 1')

    with pytest.raises(BadInputError) as raised:
        prepare(work.settings, work.run, ignore_progress)
    work.run.profile_path.unlink()

    assert "edgekit train --resume --name run" in str(raised.value.hint)
    assert prepare(work.settings, work.run, ignore_progress).budget_us == work.budget_us


def test_the_run_keeps_which_files_of_its_data_were_skipped_and_why(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for index in range(30):
        path = tmp_path / "photos" / f"class-{index % 3}" / f"{index:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (12, 12), dtype=np.uint8)).save(path)
    (tmp_path / "photos" / "class-0" / "torn.png").write_bytes(b"no image")

    settings = msgspec.structs.replace(runs.settings(tmp_path), data=str(tmp_path / "photos"))
    run = RunDirectory(tmp_path / "run")

    prepare(settings, run, ignore_progress)

    facts = run.finished(workspace.DATA) or {}
    assert facts["counts"] == {"train": 21, "validation": 3, "test": 6, "skipped": 1}
    assert [(Path(file["path"]).name, "none of the image" in file["reason"]) for file in facts["skipped"]] == [
        ("torn.png", True)
    ]


def learned(tmp_path: Path, **changes: Any) -> tuple[TrainSettings, Searched]:
    """Gates after a few steps."""
    work = prepared(tmp_path, epochs=1.0, **changes)
    return work.settings, learn_gates(work, Dense(work.initial, work.initial), "search")


def test_one_shared_probability_is_learned_for_all_units(tmp_path: Path) -> None:
    _, searched = learned(tmp_path, scope="shared")

    assert searched.gates.logits.numel() == 1 < searched.gates.unit_count


def test_one_probability_is_learned_for_each_layer_and_block(tmp_path: Path) -> None:
    _, searched = learned(tmp_path, scope="layer")

    gates = searched.gates
    assert gates.logits.numel() == len(gates.droppable) + len(gates.structure.blocks) < gates.unit_count


def test_one_probability_is_learned_for_each_unit(tmp_path: Path) -> None:
    _, searched = learned(tmp_path, scope="unit")

    assert searched.gates.logits.numel() == searched.gates.unit_count


def test_coefficients_and_estimator_reach_the_gates(tmp_path: Path) -> None:
    _, searched = learned(tmp_path, coefficient_low=0.25, coefficient_high=2.0, estimator="reinforce")

    options = searched.gates.options
    assert (options.low, options.high, searched.gates.estimator.name) == (0.25, 2.0, "reinforce")


def test_the_learning_rate_of_the_gates_reaches_their_optimizer(tmp_path: Path) -> None:
    settings, searched = learned(tmp_path, gate_learning_rate=0.3)

    assert searched.stage.optimizer.param_groups[0]["lr"] == settings.gate_learning_rate == 0.3


def test_a_finished_stage_is_read_back_and_not_trained_again(tmp_path: Path) -> None:
    _, first = learned(tmp_path)
    stages: list[str] = []
    work = prepare(
        runs.settings(tmp_path, epochs=1.0), RunDirectory(tmp_path / "run"), lambda p: stages.append(p.stage)
    )

    again = learn_gates(work, Dense(work.initial, work.initial), "search")

    assert "search" not in stages and again.gates.logits.equal(first.gates.logits)
    assert all(v.equal(first.network.state_dict()[n]) for n, v in again.network.state_dict().items())


def test_a_network_that_is_read_back_computes_the_same_bits(tmp_path: Path) -> None:
    """As a teacher it would else lead a resumed run to other weights."""
    work, (_, first) = prepared(tmp_path, epochs=1.0), learned(tmp_path)
    images = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))

    again = learn_gates(work, Dense(work.initial, work.initial), "search")

    with torch.no_grad():
        images = images.contiguous(memory_format=torch.channels_last)
        assert again.network(images).equal(first.network(images))


def test_a_run_is_not_gone_on_with_when_its_data_changed(tmp_path: Path) -> None:
    """Another image moves the split: what was trained on could be tested on."""
    work = prepared(tmp_path)
    runs.write_images(tmp_path / "images.npz", count=301)

    with pytest.raises(DataError, match="the data changed since the run"):
        prepare(work.settings, work.run, ignore_progress)


def test_a_run_goes_on_in_the_precision_that_it_was_begun_with(tmp_path: Path) -> None:
    work = prepared(tmp_path)
    other = "fp32" if work.precision == "bf16" else "bf16"
    work.run.finish(workspace.PRECISION, {"precision": other})

    assert prepare(work.settings, work.run, ignore_progress).precision == other


@pytest.mark.parametrize(
    ("name", "expected"), [("fashion-mnist", "flip"), ("letters/", "shift"), ("mnist-5k", "shift")]
)
def test_only_pictures_that_are_known_to_bear_it_are_mirrored(tmp_path: Path, name: str, expected: str) -> None:
    work = prepared(tmp_path)
    settings = msgspec.structs.replace(work.settings, augmentation="auto")

    assert augmentation_for(settings, dataclasses.replace(work.dataset, name=name)) == expected
