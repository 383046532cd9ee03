"""Only what a profile lacks is measured, and never into the times of another device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekit import targets
from edgekit.codec import read_profile, replace_profile
from edgekit.errors import BadInputError
from edgekit.pipeline import profiling
from edgekit.pipeline.profiling import Profiled, profile_network
from edgekit.profile import open_stopwatch
from edgekit.types import Profile, RuntimeName
from tests.pipeline import runs


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the measurement was asked for; in its place, every unit has the time of `runs.profile`."""
    asked: list[dict[str, Any]] = []

    def measure(**arguments: Any) -> Profile:
        asked.append(arguments)
        return runs.profile(runtime=arguments["stopwatch"].runtime.name)

    monkeypatch.setattr(profiling, "measure_profile", measure)
    return asked


def profiled(path: Path, runtime: RuntimeName = "onnx", **options: Any) -> Profiled:
    target = targets.find("cpu")
    stopwatch = open_stopwatch(target, runtime)
    return profile_network(
        runs.structure(), target=target, stopwatch=stopwatch, formats=("fp32", "int8"), path=path, **options
    )


def test_a_new_profile_holds_every_unit(tmp_path: Path, measured: list[dict[str, Any]]) -> None:
    path = tmp_path / "cpu.json"

    result = profiled(path)

    assert result.measured_count == len(runs.profile().units) and read_profile(path) == result.profile


def test_nothing_is_measured_where_nothing_is_missing(tmp_path: Path, measured: list[dict[str, Any]]) -> None:
    replace_profile(tmp_path / "cpu.json", runs.profile())

    result = profiled(tmp_path / "cpu.json")

    assert (result.measured_count, measured) == (0, [])


def test_the_times_that_are_there_are_handed_on(tmp_path: Path, measured: list[dict[str, Any]]) -> None:
    whole = runs.profile()
    replace_profile(tmp_path / "cpu.json", runs.with_units(whole, whole.units[5:]))

    result = profiled(tmp_path / "cpu.json")

    assert result.measured_count == 5 and measured[0]["existing"].units == whole.units[5:]


def test_a_correction_that_is_missing_is_fitted(tmp_path: Path, measured: list[dict[str, Any]]) -> None:
    replace_profile(tmp_path / "cpu.json", runs.without_corrections(runs.profile()))

    result = profiled(tmp_path / "cpu.json")

    assert result.measured_count == 0 and len(measured) == 1 and len(measured[0]["whole_networks"]) > 2


def test_everything_is_measured_again_by_force(tmp_path: Path, measured: list[dict[str, Any]]) -> None:
    replace_profile(tmp_path / "cpu.json", runs.profile())

    result = profiled(tmp_path / "cpu.json", force=True)

    assert result.measured_count == len(runs.profile().units) and measured[0]["existing"] is None


def test_times_of_another_runtime_are_refused_even_if_none_is_missing(
    tmp_path: Path, measured: list[dict[str, Any]]
) -> None:
    replace_profile(tmp_path / "cpu.json", runs.profile(runtime="tflite"))

    with pytest.raises(BadInputError, match="holds times of cpu on tflite"):
        profiled(tmp_path / "cpu.json", runtime="onnx")

    assert measured == []


def test_the_default_file_names_target_runtime_version_and_processor() -> None:
    target = targets.find("cpu")

    path = profiling.default_profile_path(target, open_stopwatch(target, "onnx"))

    assert path.parent == Path("profiles") and path.name.startswith("cpu-onnxruntime-") and path.suffix == ".json"
