"""A target leads to the stopwatch that reaches it, and one of this process tells what the runtime does."""

from __future__ import annotations

import numpy as np
import pytest

from edgekit.devices.ssh import SshLink
from edgekit.errors import BadInputError, UsageError
from edgekit.profile.reach import open_stopwatch
from edgekit.profile.remote import DeviceStopwatch
from edgekit.profile.stopwatch import LocalStopwatch, Stopwatch, check_runtime
from edgekit.runtimes import get
from edgekit.types import Method, RuntimeOptions, Target
from tests.devices.worker_conformance import model_bytes, samples

METHOD = Method(rounds=2, runs_per_round=2, warmup_runs=0)
BOX = Target(
    name="box",
    description="",
    transport="local",
    runtimes={"onnx": RuntimeOptions(threads=2, formats=("fp32",)), "tflite": RuntimeOptions()},
)
REMOTE = Target(
    name="pi", description="", transport="ssh", address="pi@127.0.0.1:1", runtimes={"onnx": RuntimeOptions(threads=3)}
)


@pytest.fixture
def stopwatch() -> Stopwatch:
    return LocalStopwatch(get("onnx"))


def test_this_machine_is_timed_in_this_process() -> None:
    found = open_stopwatch(BOX, "onnx")

    assert isinstance(found, LocalStopwatch) and (found.runtime.name, found.threads) == ("onnx", 2)


def test_the_number_of_threads_may_be_another_than_the_targets() -> None:
    assert open_stopwatch(BOX, "onnx", threads=1).threads == 1
    assert open_stopwatch(REMOTE, "onnx", threads=1).threads == 1


def test_another_machine_is_timed_by_its_worker_and_not_reached_before_it_is_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(SshLink, "execute", lambda *_: pytest.fail("nothing was asked"))

    with open_stopwatch(REMOTE, "onnx") as found:
        assert isinstance(found, DeviceStopwatch) and found.threads == 3


def test_a_runtime_that_the_target_does_not_have_is_refused() -> None:
    with pytest.raises(UsageError, match="'pi' has no runtime 'tflite'") as raised:
        open_stopwatch(REMOTE, "tflite")

    assert raised.value.hint == "use one of: onnx"


def test_a_format_that_the_target_does_not_execute_is_refused() -> None:
    with pytest.raises(UsageError, match="does not execute int8"):
        check_runtime(BOX, "onnx", ["fp32", "int8"])


def test_all_models_have_times_and_the_first_ones_cold_ones(stopwatch: Stopwatch) -> None:
    model = model_bytes("onnx")

    found = stopwatch.measure([model, model], METHOD, cold_count=1)

    assert (len(found.timings), len(found.cold)) == (2, 1)
    assert all(timing.min_us > 0.5 for timing in (*found.timings, *found.cold))


def test_blocks_hold_every_model(stopwatch: Stopwatch) -> None:
    model = model_bytes("onnx")

    blocks = stopwatch.measure_blocks([model, model], 3, min_seconds=0, min_runs=5)

    assert [[timing.count for timing in block] for block in blocks] == [[5, 5]] * 3


def test_kernels_version_and_results_are_those_of_the_runtime(stopwatch: Stopwatch) -> None:
    model, values = model_bytes("onnx"), samples("onnx", 3)

    assert stopwatch.version() == get("onnx").version()
    assert stopwatch.kernels(model) == get("onnx").load(model).kernels()
    assert np.array_equal(stopwatch.run(model, values), get("onnx").load(model).run(values))


def test_the_machine_is_this_one(stopwatch: Stopwatch) -> None:
    assert stopwatch.machine().cores >= 1 and stopwatch.tainted == ()


def test_a_file_that_is_no_model_is_refused(stopwatch: Stopwatch) -> None:
    with pytest.raises(BadInputError):
        stopwatch.measure([b"nothing"], METHOD)
