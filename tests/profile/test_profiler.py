"""A profile measures what is missing and nothing else, is saved as it grows, and tells what it cannot vouch for."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import pytest

from edgekit.codec import check_profile
from edgekit.errors import BadInputError, UsageError
from edgekit.profile import measure
from edgekit.profile.predict import PriceTable
from edgekit.profile.profiler import measure_profile
from edgekit.profile.stopwatch import LocalStopwatch
from edgekit.profile.yardstick import YARDSTICK
from edgekit.runtimes import FoldedNetwork, Ranges, Runtime, Session, get
from edgekit.types import Method, NetworkSpec, NumberFormat, Profile, Progress, RuntimeName, RuntimeOptions, Target
from tests.profile.clock import Clock, FakeSession
from tests.profile.networks import conv, conv_widths, distinct_units, residual

_METHOD = Method(rounds=3, runs_per_round=3, warmup_runs=0)
_TARGET = Target(name="box", description="", transport="local", runtimes={"onnx": RuntimeOptions()})


def _network_ns(network: NetworkSpec) -> int:
    """A machine on which a run costs 2 us, a layer 1 us and a million multiply-adds 100 us."""
    return 2000 + sum(1000 + layer.unit.mac_count // 10 for layer in network.layers)


class _ExactRuntime(Runtime):
    """Writes a network as JSON, and runs it in exactly `_network_ns` times ``slowness``."""

    name: RuntimeName = "onnx"
    suffix = ".json"

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.slowness = 1.0
        self.loaded: list[NetworkSpec] = []

    def version(self) -> str:
        return "exact 1.0"

    def write(
        self,
        network: FoldedNetwork,
        number_format: NumberFormat = "fp32",
        ranges: Ranges | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        assert (ranges is not None) == (number_format == "int8")
        return msgspec.json.encode(network.spec)

    def load(self, model: bytes, threads: int = 1) -> Session:
        network = msgspec.json.decode(model, type=NetworkSpec)
        self.loaded.append(network)
        shape = (1, *network.input_shape)
        return FakeSession(self._clock, lambda _: int(_network_ns(network) * self.slowness), input_shape=shape)

    def metadata(self, model: bytes) -> dict[str, str]:
        return {}


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> _ExactRuntime:
    clock = Clock()
    runtime = _ExactRuntime(clock)
    monkeypatch.setattr(measure, "perf_counter_ns", clock)
    return runtime


def _measure(
    runtime: Runtime,
    networks: list[NetworkSpec],
    whole: list[NetworkSpec] | None = None,
    existing: Profile | None = None,
) -> Profile:
    return measure_profile(
        target=_TARGET,
        stopwatch=LocalStopwatch(runtime),
        units=distinct_units(networks),
        whole_networks=whole or [],
        existing=existing,
        method=_METHOD,
    )


def test_a_unit_has_the_time_that_it_adds(runtime: _ExactRuntime) -> None:
    unit = conv(8, 16, 8)

    profile = _measure(runtime, [residual(size=16)])

    assert PriceTable(profile).unit_us(unit)[0] == pytest.approx(1 + unit.mac_count / 1e4, rel=1e-3)


def test_every_unit_and_the_yardstick_are_in_the_profile(runtime: _ExactRuntime) -> None:
    profile = _measure(runtime, [residual()])

    assert {timing.unit for timing in profile.units} == {YARDSTICK, *distinct_units([residual()])}
    check_profile(profile, "profile")


def test_whole_networks_are_predicted_exactly_where_times_add_up(runtime: _ExactRuntime) -> None:
    networks = [residual((a, b)).in_format("int8") for a, b in ((8, 8), (8, 16), (16, 32), (32, 32))]

    profile = _measure(runtime, networks, whole=networks)

    predicted = [PriceTable(profile).network(network).latency_us for network in networks]
    assert predicted == pytest.approx([_network_ns(network) / 1000 for network in networks], rel=1e-3)
    assert {found.number_format for found in profile.corrections} == {"int8"}


def test_only_what_is_missing_is_measured(runtime: _ExactRuntime) -> None:
    first = _measure(runtime, [residual()])
    runtime.loaded.clear()

    second = _measure(runtime, [residual()], existing=first)

    assert second.units == first.units
    assert runtime.loaded == []


def test_times_taken_later_on_a_slower_machine_are_scaled_to_the_first(runtime: _ExactRuntime) -> None:
    first = _measure(runtime, [residual()])
    runtime.slowness = 1.5
    wide = residual(trunk=(64, 64))

    second = _measure(runtime, [wide], existing=first)

    assert PriceTable(second).sum_us(wide) == pytest.approx((_network_ns(wide) - 2000) / 1000, rel=0.02)
    assert any("drifted" in taint for taint in second.tainted)


def test_whole_networks_that_are_timed_on_a_slower_machine_are_scaled_to_the_units(runtime: _ExactRuntime) -> None:
    networks = [residual((a, b)) for a, b in ((8, 8), (8, 16), (16, 32), (32, 32))]
    units = _measure(runtime, networks)
    runtime.slowness = 1.5

    profile = _measure(runtime, networks, whole=networks, existing=units)

    predicted = [PriceTable(profile).network(network).latency_us for network in networks]
    assert predicted == pytest.approx([_network_ns(network) / 1000 for network in networks], rel=0.02)


def test_a_disturbed_first_chunk_does_not_set_the_scale_of_the_rest(runtime: _ExactRuntime) -> None:
    runtime.slowness = 1.4
    units = conv_widths(range(8, 80, 4), range(8, 24, 4))

    def calm_down(_: Progress) -> None:
        runtime.slowness = 1.0

    profile = measure_profile(
        target=_TARGET,
        stopwatch=LocalStopwatch(runtime),
        units=units,
        whole_networks=[],
        existing=None,
        method=_METHOD,
        progress=calm_down,
    )

    measured = [PriceTable(profile).unit_us(unit)[0] for unit in units]
    assert measured == pytest.approx([1 + unit.mac_count / 1e4 for unit in units], rel=1e-2)
    assert any("drifted" in taint for taint in profile.tainted)


def test_an_interruption_keeps_what_was_measured(runtime: _ExactRuntime) -> None:
    saved: list[Profile] = []
    units = conv_widths(range(8, 80, 4), range(8, 24, 4))

    def interrupt(_: Progress) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_profile(
            target=_TARGET,
            stopwatch=LocalStopwatch(runtime),
            units=units,
            whole_networks=[],
            existing=None,
            method=_METHOD,
            save=saved.append,
            progress=interrupt,
        )

    assert 0 < len(saved[0].units) < len(saved[1].units) < len(units)


def test_the_corrections_stay_when_no_whole_networks_are_given(runtime: _ExactRuntime) -> None:
    first = _measure(runtime, [residual()], whole=[residual()])

    second = _measure(runtime, [residual(trunk=(8, 32))], existing=first)

    assert second.corrections == first.corrections != ()


def test_a_second_network_leaves_the_correction_of_the_first(runtime: _ExactRuntime) -> None:
    other = msgspec.structs.replace(residual(trunk=(8, 32)), name="other")
    first = _measure(runtime, [residual()], whole=[residual()])

    second = _measure(runtime, [other], whole=[other], existing=first)

    assert second.corrections[:1] == first.corrections
    assert [found.network for found in second.corrections] == ["residual", "other"]


def test_a_correction_names_the_largest_of_the_networks_that_it_was_fitted_on(runtime: _ExactRuntime) -> None:
    networks = [residual(trunk) for trunk in ((8, 8), (32, 32), (8, 16))]

    (found,) = _measure(runtime, networks, whole=networks).corrections

    assert (found.mac_count, found.correction.network_count) == (residual((32, 32)).mac_count, 3)


def test_a_profile_of_another_runtime_version_is_not_continued(runtime: _ExactRuntime) -> None:
    old = msgspec.structs.replace(_measure(runtime, [residual()]), runtime_version="exact 0.9")

    with pytest.raises(BadInputError, match="runtime_version"):
        _measure(runtime, [residual()], existing=old)


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (msgspec.structs.replace(_TARGET, runtimes={"tflite": RuntimeOptions()}), "no runtime 'onnx'"),
        (msgspec.structs.replace(_TARGET, runtimes={"onnx": RuntimeOptions(formats=("int8",))}), "fp32"),
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_reason(
    runtime: _ExactRuntime, target: Target, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        measure_profile(
            target=target,
            stopwatch=LocalStopwatch(runtime),
            units=[conv(8, 8, 8)],
            whole_networks=[],
            existing=None,
            method=_METHOD,
        )


def test_a_real_runtime_gives_a_profile_that_prices_its_networks() -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")
    networks = [residual(), residual((16, 32), 16)]

    profile = _measure(get("onnx"), networks, whole=networks)

    check_profile(profile, "profile")
    assert np.isfinite([PriceTable(profile).network(network).error for network in networks]).all()
