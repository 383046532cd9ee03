"""What a run needs is prepared before any training, and what cannot work is refused then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from edgekit.errors import BadInputError, BudgetError, UsageError
from edgekit.pipeline import workspace
from edgekit.pipeline.drop_run import Dense, Searched, learn_gates
from edgekit.pipeline.run_directory import RunDirectory
from edgekit.pipeline.settings import TrainSettings
from edgekit.pipeline.training_run import train_run
from edgekit.pipeline.workspace import Workspace, prepare
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


def test_an_impossible_run_leaves_the_files_of_others_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "run" / "notes").mkdir(parents=True)
    (tmp_path / "run" / "notes" / "todo.txt").write_text("keep me")

    with pytest.raises(BudgetError):
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

    with pytest.raises(BadInputError, match="holds times of cpu on tflite with 1 threads, not of cpu on onnx"):
        prepared(tmp_path, profile=other)


def test_a_format_that_the_target_does_not_execute_is_refused(tmp_path: Path) -> None:
    target = tmp_path / "floats.toml"
    target.write_text(
        'name = "floats"\ndescription = "no int8"\ntransport = "local"\n[runtimes.onnx]\nformats = ["fp32"]\n'
    )

    with pytest.raises(UsageError, match="'floats' does not execute int8 on onnx"):
        prepared(tmp_path, target=str(target), number_format="int8")


@pytest.mark.parametrize(
    ("augmentation", "name", "expected"),
    [
        ("auto", "fashion-mnist", "flip"),
        ("auto", "mnist", "none"),
        ("auto", "photos", "flip"),
        ("shift", "mnist", "shift"),
    ],
)
def test_digits_are_not_mirrored(tmp_path: Path, augmentation: str, name: str, expected: str) -> None:
    from dataclasses import replace

    work = prepared(tmp_path, augmentation=augmentation)

    assert workspace.augmentation_for(work.settings, replace(work.dataset, name=name)) == expected


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
