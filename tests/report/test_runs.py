"""Runs are read from their directories, judged by what was measured, and told apart by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import BadInputError, UsageError
from edgekit.report.runs import Run, read_runs
from tests.report.results import WriteRun, make_point, make_result


def run_of(**changes: object) -> Run:
    return Run(label="run", anchor="run-1", result=make_result(**changes))


@pytest.mark.parametrize(
    ("measured_us", "budget_us", "verdict"),
    [(499.0, 500.0, "met"), (500.0, 500.0, "met"), (511.0, 500.0, "missed"), (400.0, 0.0, "no_budget")],
)
def test_the_verdict_follows_the_measured_latency(measured_us: float, budget_us: float, verdict: str) -> None:
    assert run_of(measured_us=measured_us, budget_us=budget_us).verdict == verdict


def test_a_prediction_within_the_budget_is_no_verdict() -> None:
    assert run_of(measured_us=0.0, predicted_us=100.0, budget_us=500.0).verdict == "not_measured"


def test_a_run_without_a_chosen_model_has_no_layers() -> None:
    assert run_of(points=(make_point("dense", "dense", 0.9, 800.0, 810.0),)).layers == ()


def test_runs_keep_the_order_they_were_named_in(write_run: WriteRun) -> None:
    directories = [write_run("b", name="second"), write_run("a", name="first")]

    assert [run.label for run in read_runs(directories)] == ["second", "first"]


def test_runs_of_the_same_name_are_told_apart(write_run: WriteRun) -> None:
    runs = read_runs([write_run("a"), write_run("b")])

    assert [run.label for run in runs] == ["pi4-half", "pi4-half (2)"]


def test_a_directory_without_a_result_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        read_runs([tmp_path / "nothing"])

    assert str(tmp_path / "nothing") in caught.value.message
    assert "--resume" in (caught.value.hint or "")


def test_a_result_that_is_no_result_is_refused(write_run: WriteRun) -> None:
    directory = write_run()
    (directory / "result.json").write_text('{"schema": 1, "name": 3}')

    with pytest.raises(BadInputError, match=r"result\.json"):
        read_runs([directory])


def test_no_directory_at_all_is_a_wrong_call() -> None:
    with pytest.raises(UsageError, match="at least one"):
        read_runs([])
