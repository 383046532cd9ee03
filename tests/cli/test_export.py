"""``edgekit export``: a run by name becomes a file, and what it is worth is told; writing is tested with its stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="reading a trained network needs the extra [train]")

from edgekit.errors import ExportMismatchError
from edgekit.pipeline import export_run as stage
from edgekit.types import ExportedModel
from tests.cli.conftest import Invoke

Calls = list[tuple[Path, dict[str, Any]]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> Calls:
    """What writing was asked for; its result is made up. There is a run ``first``."""
    Path("runs/first").mkdir(parents=True)
    made: Calls = []

    def export_run(run: Path, **asked: Any) -> ExportedModel:
        asked.pop("progress")
        made.append((run, asked))
        return ExportedModel(
            path="runs/first/models/chosen-int8.tflite",
            runtime=asked["runtime"] or "onnx",
            number_format=asked["number_format"] or "fp32",
            size_bytes=12345,
            max_relative_difference=0.01,
            top1_agreement=0.99,
            accuracy=0.87,
            kernels=("CONV_2D", "CONV_2D", "FULLY_CONNECTED"),
        )

    monkeypatch.setattr(stage, "export_run", export_run)
    return made


def test_run_runtime_and_format_are_handed_on(calls: Calls, invoke: Invoke) -> None:
    invoke("export", "first", "--runtime", "tflite", "--format", "int8", "--output", "a.tflite")

    expected = {"runtime": "tflite", "number_format": "int8", "path": Path("a.tflite")}
    assert calls == [(Path("runs/first"), expected)]


def test_runtime_and_format_are_left_to_the_run_if_not_given(calls: Calls, invoke: Invoke) -> None:
    invoke("export", "first")

    assert calls[0][1] == {"runtime": None, "number_format": None, "path": None}


def test_the_envelope_holds_the_facts_of_the_file(calls: Calls, invoke: Invoke) -> None:
    model = invoke("export", "first", "--json").envelope["data"]["model"]

    assert (model["size_bytes"], model["top1_agreement"]) == (12345, 0.99)


def test_people_see_each_kernel_once(calls: Calls, invoke: Invoke) -> None:
    assert "CONV_2D, FULLY_CONNECTED\n" in invoke("export", "first").stdout


def test_a_run_that_is_not_there_is_a_usage_error(calls: Calls, invoke: Invoke) -> None:
    outcome = invoke("export", "frist", "--json")

    assert (outcome.exit_code, "did you mean first" in outcome.envelope["errors"][0]["message"]) == (2, True)


def test_a_file_that_computes_something_else_is_told(
    monkeypatch: pytest.MonkeyPatch, calls: Calls, invoke: Invoke
) -> None:
    def mismatch(*_: object, **__: object) -> ExportedModel:
        raise ExportMismatchError("the file disagrees on 40 % of the images", "train longer")

    monkeypatch.setattr(stage, "export_run", mismatch)

    outcome = invoke("export", "first", "--json")

    assert (outcome.exit_code, outcome.envelope["errors"][0]["code"]) == (1, "export_mismatch")
