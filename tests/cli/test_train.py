"""``edgekit train``: options become settings with the settings' own defaults and bounds; runs are named and resumed.

Training itself is tested with its stages; here it is replaced.
"""

from __future__ import annotations

import json
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

pytest.importorskip("torch", reason="training needs the extra [train]")

from edgekit.cli.train import describe, train
from edgekit.codec import write_result
from edgekit.errors import BudgetError
from edgekit.pipeline import training_run
from edgekit.pipeline.run_directory import open_run
from edgekit.pipeline.settings import TrainSettings
from edgekit.types import Progress, RunResult, SkippedFile
from tests.cli.conftest import Invoke
from tests.cli.results import make_result

REQUIRED = ("train", "--model", "resnet8", "--data", "fashion-mnist")
Calls = list[tuple[TrainSettings, Path, bool]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What training was asked for; it leaves a run directory behind, and gives a made-up result."""
    made: Calls = []

    def train_run(
        settings: TrainSettings, path: Path, *, resume: bool, progress: Callable[[Progress], None]
    ) -> RunResult:
        made.append((settings, path, resume))
        with open_run(path, settings, resume):
            progress(Progress(stage="dense", done=1, total=2))
            result = make_result(path.name)
            write_result(path / "result.json", result)
        return result

    monkeypatch.setattr(training_run, "train_run", train_run)
    return made


def parameters() -> dict[str, click.Parameter]:
    """The options that are settings, by name."""
    return {str(option.name): option for option in train.params if option.name in TrainSettings.__struct_fields__}


@pytest.mark.parametrize("name", sorted(parameters()))
def test_the_default_shown_is_the_default_of_the_setting(name: str) -> None:
    field = next(field for field in msgspec.structs.fields(TrainSettings) if field.name == name)
    default = None if field.default in (msgspec.NODEFAULT, ()) else field.default

    assert parameters()[name].to_info_dict()["default"] == default


@pytest.mark.parametrize("name", ["method", "scope", "estimator", "augmentation", "latency_source", "runtime"])
def test_the_choices_shown_are_those_of_the_setting(name: str) -> None:
    hints = typing.get_type_hints(TrainSettings)
    choices = parameters()[name].type

    assert isinstance(choices, click.Choice)
    assert set(choices.choices) == set(flat_literals(hints[name]))


def flat_literals(hint: Any) -> list[str]:
    """The values of a Literal, or of a union of them."""
    return [value for part in typing.get_args(hint) for value in (flat_literals(part) or [part])]


def test_what_is_not_given_is_the_settings_own(calls: Calls, invoke: Invoke) -> None:
    invoke(*REQUIRED)

    assert calls[0][0] == TrainSettings(model="resnet8", data="fashion-mnist")


def test_options_become_settings(calls: Calls, invoke: Invoke) -> None:
    invoke(
        *REQUIRED, "--lambda-sweep", "0.1,1", "--image-size", "28x32", "--epochs", "2.5", "--set", "search-share=0.3"
    )

    settings = calls[0][0]
    assert (settings.penalty_sweep, settings.image_size) == ((0.1, 1.0), (28, 32))
    assert (settings.epochs, settings.search_share) == (2.5, 0.3)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--batch-size", "1"), "--batch-size"),
        (("--epochs", "inf"), "--epochs"),
        (("--budget", "fast"), "'fast' is no budget"),
        (("--budget", "0us"), "'0us' is no budget"),
        (("--set", "search-share=2"), "--search-share"),
        (("--set", "nonsense=2"), "no setting 'nonsense' for --set; those without an option are warmup-share,"),
        (("--coefficient-low", "1"), "--coefficient-low"),
        (("--resume",), "--name"),
        (("--name", "../x"), "--name"),
    ],
)
def test_a_value_that_is_not_allowed_is_a_usage_error_that_names_it(
    options: tuple[str, ...], named: str, calls: Calls, invoke: Invoke
) -> None:
    outcome = invoke(*REQUIRED, *options, "--json")

    assert (outcome.exit_code, calls) == (2, [])
    assert named in outcome.envelope["errors"][0]["message"]


@pytest.mark.parametrize("missing", ["--model", "--data"])
def test_model_and_data_are_needed(missing: str, calls: Calls, invoke: Invoke) -> None:
    index = REQUIRED.index(missing)

    outcome = invoke(*REQUIRED[:index], *REQUIRED[index + 2 :])

    assert (outcome.exit_code, f"Missing option '{missing}'" in outcome.stderr) == (2, True)


def test_a_run_without_a_name_gets_a_free_one(calls: Calls, invoke: Invoke) -> None:
    invoke(*REQUIRED)
    invoke(*REQUIRED)

    assert [path for _, path, _ in calls] == [Path("runs/resnet8-onnx-fp32"), Path("runs/resnet8-onnx-fp32-2")]


def test_a_run_is_resumed_by_its_name_alone(calls: Calls, invoke: Invoke) -> None:
    invoke(*REQUIRED, "--name", "first", "--epochs", "3")

    outcome = invoke("train", "--resume", "--name", "first")

    assert (outcome.exit_code, calls[1]) == (0, (calls[0][0], Path("runs/first"), True))


def test_a_run_is_not_resumed_with_other_settings(calls: Calls, invoke: Invoke) -> None:
    invoke(*REQUIRED, "--name", "first")

    outcome = invoke("train", "--resume", "--name", "first", "--seed", "1")

    assert (outcome.exit_code, "seed" in outcome.stderr) == (2, True)


def test_a_run_that_was_never_begun_is_not_resumed(calls: Calls, invoke: Invoke) -> None:
    assert invoke("train", "--resume", "--name", "first").exit_code == 2


def test_ctrl_c_tells_the_line_that_goes_on(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    def interrupted(*_: object, **__: object) -> RunResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(training_run, "train_run", interrupted)

    outcome = invoke(*REQUIRED, "--name", "first")

    assert (outcome.exit_code, "edgekit train --resume --name first" in outcome.stderr) == (130, True)


def test_a_budget_that_is_too_small_says_what_is_reachable(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    def too_small(*_: object, **__: object) -> RunResult:
        raise BudgetError("nothing fits in 1 us", 120.5, "allow 121us")

    monkeypatch.setattr(training_run, "train_run", too_small)

    outcome = invoke(*REQUIRED, "--budget", "1us", "--json")

    assert (outcome.exit_code, outcome.envelope["data"]) == (1, {"smallest_us": 120.5})


def test_the_envelope_holds_the_whole_result(calls: Calls, invoke: Invoke) -> None:
    data = invoke(*REQUIRED, "--name", "first", "--json").envelope["data"]

    assert data == {"run": "runs/first", **json.loads(msgspec.json.encode(make_result("first")))}


def test_people_see_measured_time_and_budget(calls: Calls, invoke: Invoke) -> None:
    first = invoke(*REQUIRED, "--name", "first").stdout.splitlines()[0]

    assert first == "runs/first: 400 us measured, 50% of the dense network's 800 us; budget 410 us"


def with_skipped(count: int) -> RunResult:
    files = tuple(SkippedFile(path=f"photos/{index}.png", reason="it is torn") for index in range(min(count, 100)))
    counts = {"train": 70, "validation": 10, "test": 20, "skipped": count}
    return msgspec.structs.replace(make_result("first"), data_counts=counts, skipped=files)


def test_people_see_how_many_images_each_part_has() -> None:
    assert describe(with_skipped(2), Path("runs/first")).text[2] == (
        "images: 70 to train, 10 to validate, 20 to test; 2 skipped"
    )


def test_people_see_the_first_files_that_were_skipped_and_where_the_others_are() -> None:
    notes = describe(with_skipped(150), Path("runs/first")).notes

    assert notes[0] == "skipped photos/0.png: it is torn"
    assert notes[3] == "and 147 more: stages/data.json of the run lists all"


def test_going_on_is_told_only_when_the_run_does_not_refuse(calls: Calls, invoke: Invoke) -> None:
    invoke(*REQUIRED, "--name", "first")

    refused = invoke("train", "--resume", "--name", "first", "--seed", "1")
    taken = invoke("train", "--resume", "--name", "first")

    assert "going on with" not in refused.stderr and "going on with runs/first" in taken.stderr


def test_progress_goes_to_standard_error(calls: Calls, invoke: Invoke) -> None:
    assert "dense 50%" in invoke(*REQUIRED).stderr
