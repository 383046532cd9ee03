"""``edgekit profile``: options become arguments of the measurement, once per runtime; nothing is measured here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="building a network needs the extra [train]")

from edgekit.nn.structure import Structure
from edgekit.pipeline import profiling
from edgekit.pipeline.profiling import Profiled
from edgekit.types import Correction, Method, Profile, Progress
from tests.cli.conftest import Invoke
from tests.cli.results import MACHINE
from tests.profile.networks import correction_of

REQUIRED = ("profile", "--model", "mlp-16", "--input", "1x4x4")
Calls = list[dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What measuring was asked for; its result is made up."""
    made: Calls = []

    def profile_network(structure: Structure, *, progress: Callable[[Progress], None], **asked: Any) -> Profiled:
        made.append({"structure": structure, **asked})
        progress(Progress(stage="profile units", done=1, total=4))
        error = Correction(overhead_us=3, scale=1.01, network_count=12, median_error=0.012, max_error=0.04)
        profile = Profile(
            target="cpu",
            runtime=asked["stopwatch"].runtime.name,
            runtime_version="onnxruntime 1",
            machine=MACHINE,
            date="2026-01-01",
            method=Method(),
            overhead_us=3.0,
            units=(),
            corrections=(correction_of(structure.spec, error),),
            tainted=("the load was 4",),
        )
        return Profiled(profile, asked["path"] or Path("profiles/cpu.json"), 42)

    monkeypatch.setattr(profiling, "profile_network", profile_network)
    return made


def test_the_network_is_built_for_the_input_that_was_given(calls: Calls, invoke: Invoke) -> None:
    invoke(*REQUIRED, "--classes", "3")

    spec = calls[0]["structure"].spec
    assert (spec.input_shape, spec.output.unit.output_shape) == ((1, 4, 4), (3,))


def test_each_runtime_is_measured_once_in_all_formats(calls: Calls, invoke: Invoke) -> None:
    options = ("--runtime", "onnx", "--runtime", "tflite", "--runtime", "onnx", "--format", "fp32", "--format", "int8")

    invoke(*REQUIRED, *options)

    assert [(call["stopwatch"].runtime.name, call["formats"]) for call in calls] == [
        ("onnx", ("fp32", "int8")),
        ("tflite", ("fp32", "int8")),
    ]


def test_one_file_cannot_hold_two_runtimes(calls: Calls, invoke: Invoke) -> None:
    outcome = invoke(*REQUIRED, "--runtime", "onnx", "--runtime", "tflite", "--output", "p.json", "--json")

    assert (outcome.exit_code, calls) == (2, [])


def test_file_and_force_are_handed_on(calls: Calls, invoke: Invoke) -> None:
    invoke(*REQUIRED, "--output", "p.json", "--force")

    assert (calls[0]["path"], calls[0]["force"]) == (Path("p.json"), True)


def test_the_envelope_tells_what_was_measured_and_how_well_it_adds_up(calls: Calls, invoke: Invoke) -> None:
    profile = invoke(*REQUIRED, "--json").envelope["data"]["profiles"][0]

    assert (profile["path"], profile["measured_count"]) == ("profiles/cpu.json", 42)
    assert profile["corrections"][0]["correction"]["median_error"] == 0.012


def test_people_see_the_error_and_the_taint(calls: Calls, invoke: Invoke) -> None:
    text = invoke(*REQUIRED).stdout

    assert "1.2%" in text and "tainted: the load was 4" in text


def test_an_unknown_model_is_a_usage_error(calls: Calls, invoke: Invoke) -> None:
    assert invoke("profile", "--model", "nonsense", "--input", "1x4x4", "--json").exit_code == 2


def test_ctrl_c_says_that_what_was_measured_is_kept(monkeypatch: pytest.MonkeyPatch, invoke: Invoke) -> None:
    def interrupted(*_: object, **__: object) -> Profiled:
        raise KeyboardInterrupt

    monkeypatch.setattr(profiling, "profile_network", interrupted)

    outcome = invoke(*REQUIRED)

    assert (outcome.exit_code, "what was measured is kept" in outcome.stderr) == (130, True)
