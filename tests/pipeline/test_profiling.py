"""Only what a profile lacks is measured, never into the times of another device, and nothing in a file is ever lost."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgekit import targets
from edgekit.codec import read_profile, replace_profile
from edgekit.errors import BadInputError
from edgekit.pipeline import profiling
from edgekit.pipeline.profiling import CheckResult, Profiled, check_profile, profile_network
from edgekit.profile import PriceTable, open_stopwatch
from edgekit.profile.frame import frame, framed
from edgekit.profile.yardstick import YARDSTICK
from edgekit.train.pricing import priced_units
from edgekit.types import Profile, Progress, RuntimeName, UnitSpec
from tests.pipeline import runs
from tests.pipeline.exact_stopwatch import ExactStopwatch, network_us, profile_into, structure_of
from tests.profile.networks import MACHINE


def latencies(profile: Profile, units: Iterable[UnitSpec]) -> list[float]:
    table = PriceTable(profile)
    return [table.unit_us(unit)[0] for unit in units]


def unit_us(unit: UnitSpec) -> float:
    """What `ExactStopwatch` finds that a unit adds to a network."""
    return max(0.0, network_us(framed(unit)) - network_us(frame(unit)))


def checked(path: Path, stopwatch: ExactStopwatch) -> CheckResult:
    return check_profile(path, targets.find("cpu"), stopwatch)


def start(path: Path, model: str, *, slowness: float, seconds: float = 0.05) -> subprocess.Popen[bytes]:
    """Another process that profiles ``model`` into ``path``."""
    arguments = [str(path), model, str(slowness), str(seconds)]
    root = Path(__file__).parents[2]
    return subprocess.Popen([sys.executable, "-m", "tests.pipeline.exact_stopwatch", *arguments], cwd=root)


def wait_until(is_true: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < end, f"nothing happened within {seconds} s"
        time.sleep(0.02)


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


def test_times_of_another_runtime_are_refused_even_if_none_is_missing(
    tmp_path: Path, measured: list[dict[str, Any]]
) -> None:
    replace_profile(tmp_path / "cpu.json", runs.profile(runtime="tflite"))

    with pytest.raises(BadInputError, match="runtime is 'tflite' there and 'onnx' here"):
        profiled(tmp_path / "cpu.json", runtime="onnx")

    assert measured == []


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("runtime_version", {"runtime_version": "exact 0.9"}),
        ("machine.cpu", {"machine": msgspec.structs.replace(MACHINE, cpu="Another CPU")}),
        ("threads", {"threads": 2}),
        ("target", {"target": "pi4"}),
    ],
)
def test_a_complete_profile_of_another_source_is_refused(tmp_path: Path, field: str, changes: dict[str, Any]) -> None:
    whole = profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch()).profile
    replace_profile(tmp_path / "p.json", msgspec.structs.replace(whole, **changes))

    with pytest.raises(BadInputError, match=field):
        profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch())


def test_by_force_everything_of_the_network_is_measured_again(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch())

    again = profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch(lambda: 1.5), force=True)

    units = priced_units(structure_of("mlp-16"), "fp32")
    assert again.measured_count == len(units)
    assert latencies(again.profile, units) == pytest.approx([1.5 * unit_us(unit) for unit in units])


def test_force_keeps_the_units_and_corrections_of_other_networks_in_the_new_scale(tmp_path: Path) -> None:
    first = profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch()).profile
    profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch())

    profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch(lambda: 1.5), force=True)

    kept, units = read_profile(tmp_path / "p.json"), [timing.unit for timing in first.units]
    assert latencies(kept, units) == pytest.approx([1.5 * unit_us(unit) for unit in units])
    assert {found.network for found in kept.corrections} == {"resnet8-w0.25", "mlp-16"}
    assert any("scaled by 1.50" in taint for taint in kept.tainted)


def test_an_interrupted_measurement_by_force_loses_nothing(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch())
    before = profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch()).profile

    def interrupt(_: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch(), force=True, progress=interrupt)

    after = read_profile(tmp_path / "p.json")
    assert {timing.unit for timing in after.units} == {timing.unit for timing in before.units}
    assert len(after.corrections) == 2


def test_a_second_network_gets_a_correction_of_its_own(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch())

    profile = profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch()).profile

    assert [found.network for found in profile.corrections] == ["mlp-16", "resnet8-w0.25"]


def test_another_group_size_gets_a_correction_of_its_own(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch(), group_size=4)

    profile = profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch(), group_size=8).profile

    assert [found.group_sizes for found in profile.corrections] == [(4,), (8,)]


def test_what_another_process_measured_meanwhile_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    other: list[Profiled] = []

    def meanwhile(_: Progress) -> None:
        if not other:
            other.append(profile_into(path, "mlp-16", ExactStopwatch(lambda: 2.0)))

    ours = profile_into(path, "resnet8-w0.25", ExactStopwatch(), progress=meanwhile).profile

    units = [timing.unit for timing in (*other[0].profile.units, *ours.units)]
    assert latencies(read_profile(path), units) == pytest.approx([unit_us(unit) for unit in units])


def test_a_unit_that_another_process_measured_again_is_not_overwritten_by_the_old_time(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    profile_into(path, "mlp-16", ExactStopwatch())
    other: list[Profiled] = []

    def meanwhile(_: Progress) -> None:
        if not other:
            other.append(profile_into(path, "mlp-16", ExactStopwatch(lambda: 3.0), force=True))

    profile_into(path, "resnet8-w0.25", ExactStopwatch(), progress=meanwhile)

    units = priced_units(structure_of("mlp-16"), "fp32")
    assert latencies(read_profile(path), units) == pytest.approx([3.0 * unit_us(unit) for unit in units])


def test_times_are_scaled_to_what_another_process_made_the_files_scale_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    profile_into(path, "mlp-16", ExactStopwatch())
    other: list[Profiled] = []

    def meanwhile(_: Progress) -> None:
        if not other:
            other.append(profile_into(path, "mlp-16", ExactStopwatch(lambda: 3.0), force=True))

    profile_into(path, "resnet8-w0.25", ExactStopwatch(), progress=meanwhile)

    units = priced_units(structure_of("resnet8-w0.25"), "fp32")
    assert latencies(read_profile(path), units) == pytest.approx([3.0 * unit_us(unit) for unit in units])


def test_two_processes_that_profile_into_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    processes = [start(path, "resnet8-w0.25", slowness=1.0), start(path, "resnet8-w0.5", slowness=1.3)]

    assert [process.wait(timeout=240) for process in processes] == [0, 0]

    profile = read_profile(path)
    units = {unit for model in ("resnet8-w0.25", "resnet8-w0.5") for unit in priced_units(structure_of(model), "fp32")}
    scale = PriceTable(profile).unit_us(YARDSTICK)[0] / unit_us(YARDSTICK)
    assert units <= {timing.unit for timing in profile.units}
    assert latencies(profile, units) == pytest.approx([scale * unit_us(unit) for unit in units])
    assert {found.network for found in profile.corrections} == {"resnet8-w0.25", "resnet8-w0.5"}


def test_a_process_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    profile_into(path, "mlp-16", ExactStopwatch())
    held_count = len(read_profile(path).units)
    process = start(path, "resnet8-w0.5", slowness=1.0, seconds=0.2)
    try:
        wait_until(lambda: len(read_profile(path).units) > held_count)
    finally:
        process.kill()
        process.wait(timeout=60)
    kept = len(read_profile(path).units)

    result = profile_into(path, "resnet8-w0.5", ExactStopwatch())

    wanted = priced_units(structure_of("resnet8-w0.5"), "fp32")
    assert 0 < result.measured_count < len(wanted)
    assert kept + result.measured_count == len(result.profile.units)


def test_an_unchanged_device_passes_the_check(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch())

    result = checked(tmp_path / "p.json", ExactStopwatch())

    assert result.drift is not None and result.drift.change == pytest.approx(0.0)
    assert (result.verdict, "holds" in result.sentence) == ("ok", True)


def test_a_slower_device_fails_the_check_by_how_much_it_is_slower(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch())

    result = checked(tmp_path / "p.json", ExactStopwatch(lambda: 1.2))

    assert result.drift is not None and result.drift.change == pytest.approx(0.2)
    assert (result.verdict, "slower than it was: +20.0%" in result.sentence) == ("drifted", True)


def test_a_profile_of_another_machine_is_not_timed_but_named(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch())
    elsewhere = ExactStopwatch(machine=msgspec.structs.replace(MACHINE, cpu="Another CPU"))

    result = checked(tmp_path / "p.json", elsewhere)

    assert (result.verdict, elsewhere.measured_count) == ("another machine", 0)
    assert "machine.cpu is 'Test CPU' there and 'Another CPU' here" in result.sentence


def test_a_check_times_the_same_units_for_the_same_seed(tmp_path: Path) -> None:
    profile = profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch()).profile

    samples = [[timing.unit for timing in profiling._sample(profile, 5, seed)] for seed in (0, 0, 1)]

    assert samples[0] == samples[1] != samples[2] and samples[0][-1] == YARDSTICK


def test_a_check_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch())
    before = (tmp_path / "p.json").read_bytes()

    checked(tmp_path / "p.json", ExactStopwatch(lambda: 2.0))

    assert (tmp_path / "p.json").read_bytes() == before


def test_a_speed_that_changes_during_the_check_is_a_trend(tmp_path: Path) -> None:
    profile_into(tmp_path / "p.json", "resnet8-w0.25", ExactStopwatch())
    slowness = itertools.count(1.0, 0.02)

    result = checked(tmp_path / "p.json", ExactStopwatch(lambda: next(slowness)))

    assert result.trend is not None and result.trend.is_drifting


def test_a_profile_without_units_cannot_be_checked(tmp_path: Path) -> None:
    whole = profile_into(tmp_path / "p.json", "mlp-16", ExactStopwatch()).profile
    replace_profile(tmp_path / "p.json", runs.with_units(whole, ()))

    with pytest.raises(BadInputError, match="no units"):
        checked(tmp_path / "p.json", ExactStopwatch())


def test_a_profile_of_a_real_runtime_can_be_checked(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    target = targets.find("cpu")
    with open_stopwatch(target, "onnx") as stopwatch:
        profile_into(tmp_path / "p.json", "mlp-16", stopwatch)

        result = check_profile(tmp_path / "p.json", target, stopwatch, sample=3)

    assert result.drift is not None and result.drift.low <= result.drift.change <= result.drift.high


def test_the_default_file_names_target_runtime_version_and_processor() -> None:
    target = targets.find("cpu")

    path = profiling.default_profile_path(target, open_stopwatch(target, "onnx"))

    assert path.parent == Path("profiles") and path.name.startswith("cpu-onnxruntime-") and path.suffix == ".json"
