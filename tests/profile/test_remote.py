"""A device's stopwatch tells what this machine's would, asks the device little, and believes it nothing that cannot be.

Most tests have a worker whose times are exact on a device in memory; the last ones have the real worker, as a child of
this process, in both runtimes.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.devices import jobs
from edgekit.devices.fake import FakeDevice, FakeMachine, Program
from edgekit.devices.installation import INSTALLATION_FILE, with_python, write_installation
from edgekit.devices.jobs import pushed_name
from edgekit.devices.local import open_local
from edgekit.errors import BadInputError, DeviceError, LinkLostError
from edgekit.profile import measure, remote
from edgekit.profile.remote import DeviceStopwatch
from edgekit.profile.stopwatch import LocalStopwatch, Stopwatch
from edgekit.runtimes import Runtime, Session, get
from edgekit.types import Method, Progress, RuntimeName, RuntimeOptions
from tests.devices.fake_worker import INSTALLATION, FakeWorker, node, steady
from tests.devices.test_jobs import DONE, HELLO, MachineTime, saying
from tests.devices.worker_conformance import model_bytes, samples
from tests.profile.clock import Clock, FakeSession

FAST, SLOW = b"a fast model", b"a slow model"
METHOD = Method(rounds=5, runs_per_round=4, warmup_runs=1)
DURATIONS_NS: dict[bytes, Callable[[int], int]] = {FAST: steady(50), SLOW: steady(700)}
NNAPI = "NnapiExecutionProvider"
STATES: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "hot": [{"temperature_celsius": 85.0}],
    "busy": [{"load_1min": 3.5}],
    "on a clock that moves": [{"governor": "ondemand"}],
    "throttled": [{"throttled": "0x50005"}],
    "warned by Android": [{"thermal_status": 3}],
}


class _ExactRuntime(Runtime):
    """Models take the times of `DURATIONS_NS`, here too."""

    name: RuntimeName = "onnx"
    suffix = ".onnx"

    def __init__(self, durations_ns: Mapping[bytes, Callable[[int], int]]) -> None:
        self.clock = Clock()
        self._durations_ns = durations_ns

    def version(self) -> str:
        return "exact 1.0"

    def write(self, *_: object, **__: object) -> bytes:
        raise NotImplementedError

    def load(self, model: bytes, threads: int = 1) -> Session:
        return FakeSession(self.clock, self._durations_ns[model])

    def metadata(self, model: bytes) -> dict[str, str]:
        return {}


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker(DURATIONS_NS)


@pytest.fixture
def machine(worker: FakeWorker, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    return machine_with(worker, monkeypatch)


@pytest.fixture
def stopwatch(machine: FakeMachine) -> DeviceStopwatch:
    return stopwatch_on(machine)


def machine_with(program: Program, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    machine = FakeMachine(program)
    monkeypatch.setattr(jobs, "time", MachineTime(machine))
    monkeypatch.setattr(remote, "monotonic", lambda: machine.now_seconds)
    write_installation(FakeDevice("shelf", machine), INSTALLATION)
    return machine


def stopwatch_on(machine: FakeMachine, *, storage_bytes: int = 0, **options: Any) -> DeviceStopwatch:
    runtime = _ExactRuntime(DURATIONS_NS)
    return DeviceStopwatch(
        FakeDevice("shelf", machine), runtime, RuntimeOptions(**options), storage_bytes=storage_bytes
    )


def here(durations_ns: Mapping[bytes, Callable[[int], int]], monkeypatch: pytest.MonkeyPatch) -> Stopwatch:
    runtime = _ExactRuntime(durations_ns)
    monkeypatch.setattr(measure, "perf_counter_ns", runtime.clock)
    return LocalStopwatch(runtime)


def disturbed(run: int) -> int:
    """Slow for some rounds, and in single runs."""
    return 50_000 + (40_000 if 10 < run < 22 else 0) + (9_000_000 if run % 7 == 3 else 0)


def kept_files(machine: FakeMachine) -> set[str]:
    return set(machine.files) - {INSTALLATION_FILE}


def test_times_are_those_that_this_machine_would_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    durations_ns = {FAST: disturbed, SLOW: steady(700)}
    there = stopwatch_on(machine_with(FakeWorker(durations_ns), monkeypatch))

    found = there.measure([FAST, SLOW], METHOD, cold_count=0)

    assert found.timings == here(durations_ns, monkeypatch).measure([FAST, SLOW], METHOD).timings


def test_cold_times_are_those_of_the_first_models(stopwatch: DeviceStopwatch, monkeypatch: pytest.MonkeyPatch) -> None:
    found = stopwatch.measure([FAST, SLOW], METHOD, cold_count=1)

    assert found.cold == here(DURATIONS_NS, monkeypatch).measure([FAST, SLOW], METHOD, cold_count=1).cold
    assert len(found.cold) == 1


def test_without_cold_times_no_time_is_spent_on_them(stopwatch: DeviceStopwatch, worker: FakeWorker) -> None:
    assert stopwatch.measure([FAST], METHOD).cold == ()
    assert "cold=0" in worker.job_texts[-1]


def test_blocks_are_those_that_this_machine_would_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    durations_ns = {FAST: disturbed, SLOW: steady(700)}
    there = stopwatch_on(machine_with(FakeWorker(durations_ns), monkeypatch))

    blocks = there.measure_blocks([FAST, SLOW], 3, min_seconds=0.002, min_runs=20)

    local = here(durations_ns, monkeypatch)
    assert blocks == [local.measure_blocks([FAST, SLOW], 1, min_seconds=0.002, min_runs=20)[0] for _ in range(3)]


def test_all_blocks_are_one_job(stopwatch: DeviceStopwatch, worker: FakeWorker) -> None:
    stopwatch.measure_blocks([FAST, SLOW], 9, min_seconds=0, min_runs=5)

    assert worker.tasks == ["time"] * 9 and len(worker.job_texts) == 1


def test_whole_models_are_one_block(stopwatch: DeviceStopwatch) -> None:
    (timing,) = stopwatch.measure_whole([SLOW], min_seconds=0, min_runs=5)

    assert (timing.count, timing.median_us) == (5, 700)


def test_a_model_that_is_given_twice_is_timed_once_and_told_twice(
    stopwatch: DeviceStopwatch, worker: FakeWorker
) -> None:
    timings = stopwatch.measure([FAST, SLOW, FAST], METHOD, cold_count=3)

    assert [timing.median_us for timing in timings.timings] == [50, 700, 50]
    assert [timing.median_us for timing in timings.cold] == [50, 700, 50]
    assert worker.job_texts[-1].count("\nmodel ") == 2


def test_progress_goes_up_to_the_end(stopwatch: DeviceStopwatch) -> None:
    reports: list[Progress] = []

    stopwatch.measure_blocks([FAST], 4, min_seconds=0.01, min_runs=1, progress=reports.append)

    done = [report.done for report in reports]
    assert done == sorted(done) and done[-1] == 1.0 and len(done) > 4


@pytest.mark.parametrize("states", STATES.values(), ids=list(STATES))
def test_times_of_a_device_that_is_not_calm_are_told_to_be(
    states: Sequence[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = stopwatch_on(machine_with(FakeWorker(DURATIONS_NS, states=states), monkeypatch))

    found = watch.measure([FAST], METHOD)

    assert found.tainted and watch.tainted == found.tainted


def test_blocks_of_a_device_that_is_not_calm_are_told_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{}, {}, {"temperature_celsius": 90.0}, {}]
    watch = stopwatch_on(machine_with(FakeWorker(DURATIONS_NS, states=states), monkeypatch))

    watch.measure_blocks([FAST], 2, min_seconds=0, min_runs=1)

    assert watch.tainted == ("temperature was 90 degrees Celsius: processors slow down there",)


def test_times_of_a_calm_device_are_not_tainted(stopwatch: DeviceStopwatch) -> None:
    assert stopwatch.measure([FAST], METHOD).tainted == () == stopwatch.tainted


def test_the_load_of_the_measurement_itself_is_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four threads on four cores: seen behind the first task, and so before the second and in the next job."""
    states = [{}, {"load_1min": 4.0}, {"load_1min": 4.0}, {"load_1min": 4.0}]
    watch = stopwatch_on(machine_with(FakeWorker(DURATIONS_NS, states=states), monkeypatch), threads=4)

    watch.measure_blocks([FAST], 2, min_seconds=0, min_runs=1)
    watch.measure([FAST], METHOD)

    assert watch.tainted == ()


def test_a_load_before_the_first_measurement_is_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = stopwatch_on(machine_with(FakeWorker(DURATIONS_NS, states=[{"load_1min": 4.0}]), monkeypatch), threads=4)

    assert watch.measure([FAST], METHOD).tainted == ("load was 4.0 on 4 cores",)


def test_a_load_long_after_a_measurement_is_that_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = machine_with(FakeWorker(DURATIONS_NS, states=[{}, {}, {"load_1min": 4.0}]), monkeypatch)
    watch = stopwatch_on(machine, threads=4)
    watch.measure([FAST], METHOD)
    machine.now_seconds += 100

    assert watch.measure([FAST], METHOD).tainted == ("load was 4.0 on 4 cores",)


def test_times_around_a_restart_are_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FakeWorker(DURATIONS_NS, states=[{}, {"boot_id": "boot-2"}, {"boot_id": "boot-2"}])
    watch = stopwatch_on(machine_with(worker, monkeypatch))

    found = watch.measure([FAST], METHOD)

    assert worker.tasks == ["time", "time"]
    assert found.tainted == () and found.timings[0].median_us == 50


def test_a_restart_within_any_block_drops_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{}, {}, {}, {"boot_id": "boot-2"}, {"boot_id": "boot-2"}]
    worker = FakeWorker(DURATIONS_NS, states=states)

    stopwatch_on(machine_with(worker, monkeypatch)).measure_blocks([FAST], 3, min_seconds=0, min_runs=1)

    assert worker.tasks == ["time"] * 6


def test_a_device_that_never_gives_usable_times_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [{"boot_id": f"boot-{number}"} for number in range(100)]
    worker = FakeWorker(DURATIONS_NS, states=states)

    with pytest.raises(DeviceError, match="no measurement could be used: the device was restarted") as raised:
        stopwatch_on(machine_with(worker, monkeypatch)).measure([FAST], METHOD)

    assert worker.tasks == ["time"] * 3 and raised.value.hint == "see what disturbs it: edgekit target check shelf"


def test_version_and_machine_are_asked_for_once(stopwatch: DeviceStopwatch, worker: FakeWorker) -> None:
    assert (stopwatch.version(), stopwatch.machine().cpu) == ("exact 1.0", "Fake processor")
    stopwatch.machine(), stopwatch.version()

    assert worker.tasks == ["state"]


def test_behind_a_measurement_version_and_machine_cost_no_job(stopwatch: DeviceStopwatch, worker: FakeWorker) -> None:
    stopwatch.kernels(FAST)
    before = len(worker.job_texts)

    stopwatch.machine(), stopwatch.version()

    assert len(worker.job_texts) == before == 1


def test_the_machine_is_asked_again_after_a_minute(
    stopwatch: DeviceStopwatch, worker: FakeWorker, machine: FakeMachine
) -> None:
    stopwatch.machine()
    machine.now_seconds += 61
    worker.states = [{"governor": "powersave"}]

    assert stopwatch.machine().governor == "powersave"


def test_the_machine_is_told_as_it_was_before_edgekit_made_it_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FakeWorker(DURATIONS_NS, states=[{"load_1min": 0.1}, {"load_1min": 4.0}])
    watch = stopwatch_on(machine_with(worker, monkeypatch), threads=4)

    watch.measure([FAST], METHOD)
    watch.measure([SLOW], METHOD)

    assert watch.machine().load_1min == 0.1


def test_kernels_are_named_as_the_worker_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = FakeWorker(DURATIONS_NS, nodes={FAST: [node("Conv"), node("Relu")]})
    watch = stopwatch_on(machine_with(worker, monkeypatch))

    assert watch.kernels(FAST) == ("Conv[float]", "Relu[float]")
    assert watch.placement(FAST) == {"CPUExecutionProvider": ("Conv_0", "Relu_0")}
    assert worker.tasks.count("kernels") == 1


def delegating(monkeypatch: pytest.MonkeyPatch, **nodes: list[dict[str, str]]) -> tuple[DeviceStopwatch, FakeWorker]:
    """A stopwatch for nnapi, where the nodes of the models ``fast`` and ``slow`` are placed as given."""
    contents = {"fast": FAST, "slow": SLOW}
    worker = FakeWorker(DURATIONS_NS, nodes={contents[name]: found for name, found in nodes.items()})
    return stopwatch_on(machine_with(worker, monkeypatch), provider="nnapi"), worker


def test_before_times_of_another_provider_are_taken_it_is_seen_what_runs_there(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, worker = delegating(monkeypatch, fast=[node("Conv", NNAPI), node("Relu", NNAPI)])

    watch.measure([FAST], METHOD)
    watch.measure([FAST], METHOD)

    assert worker.tasks == ["kernels", "time", "time"] and watch.tainted == ()


def test_a_model_of_which_nothing_is_taken_over_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, worker = delegating(monkeypatch, fast=[node("Conv"), node("Relu")])

    with pytest.raises(DeviceError, match="took over nothing of the model") as raised:
        watch.measure_whole([FAST])

    assert worker.tasks == ["kernels"] and "those of the CPU" in str(raised.value.hint)


def test_one_whole_model_that_is_not_taken_over_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("Conv", NNAPI)] * 2, slow=[node("Conv"), node("Relu")])

    with pytest.raises(DeviceError, match="nothing of one of the 2 models"):
        watch.measure_blocks([FAST, SLOW], 2)


def test_parts_that_are_not_taken_over_are_listed_where_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("Conv", NNAPI)] * 2, slow=[node("Softmax"), node("Relu")])

    found = watch.measure([FAST, SLOW], METHOD)

    assert found.tainted == ("the provider nnapi left to the CPU: Softmax, Relu",) == watch.tainted


def test_parts_of_which_none_is_taken_over_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("Conv")] * 2, slow=[node("Softmax"), node("Relu")])

    with pytest.raises(DeviceError, match="took over nothing"):
        watch.measure([FAST, SLOW], METHOD)


def test_what_a_run_costs_is_measured_where_the_runtime_puts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("Relu")])

    assert watch.measure([FAST], METHOD).tainted == ("the provider nnapi left to the CPU: Relu",)


def test_a_model_that_is_partly_taken_over_is_timed_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("Conv", NNAPI), node("Softmax"), node("Softmax")])

    watch.measure_whole([FAST], min_seconds=0, min_runs=1)

    assert watch.tainted == ("the provider nnapi left to the CPU: Softmax",)


def test_a_long_list_of_what_was_left_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("Conv", NNAPI), *(node(f"Op{number}") for number in range(25))])

    (reason,) = watch.measure([FAST], METHOD).tainted

    assert reason.endswith("Op19 and 5 more")


def test_kernels_of_another_provider_say_what_ran_them(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("NNAPI_1", NNAPI), node("Softmax")])

    assert watch.kernels(FAST) == ("nnapi:NNAPI_1[float]", "cpu:Softmax[float]")


def test_kernels_that_are_not_told_node_by_node_are_named_by_their_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [node("NNAPI_1", NNAPI), node("Softmax")]
    event = {"event": "kernels", "task": 1, "model": "m", "kernels": ["Softmax[float]"], "nodes": nodes}
    watch = stopwatch_on(machine_with(saying(*told(STATE_EVENT, event)), monkeypatch), provider="nnapi")

    assert watch.kernels(FAST) == ("nnapi:NNAPI_1", "cpu:Softmax")


def test_kernels_of_a_model_that_is_not_taken_over_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, _ = delegating(monkeypatch, fast=[node("Conv"), node("Relu")])

    with pytest.raises(DeviceError, match="nothing was taken over"):
        watch.kernels(FAST)


def test_the_cpu_is_asked_for_no_placement(stopwatch: DeviceStopwatch, worker: FakeWorker) -> None:
    stopwatch.measure([FAST], METHOD)

    assert worker.tasks == ["time"]


def test_a_model_runs_on_all_samples(stopwatch: DeviceStopwatch) -> None:
    values = np.arange(10, dtype=np.float32).reshape(5, 2)

    assert np.array_equal(stopwatch.run(FAST, values), 2 * values)


def test_a_model_that_does_not_load_is_bad_input(stopwatch: DeviceStopwatch) -> None:
    with pytest.raises(BadInputError, match="shelf: this is no model"):
        stopwatch.measure([FAST, b"unknown"], METHOD)


@pytest.mark.parametrize(
    ("code", "expected", "hint"),
    [
        ("load_failed", BadInputError, None),
        ("run_failed", BadInputError, None),
        ("no_runtime", DeviceError, "install it: edgekit target setup shelf"),
        ("no_provider", DeviceError, "choose another provider in the target file"),
        ("of_the_future", DeviceError, None),
    ],
)
def test_what_the_worker_could_not_do_is_an_error_of_its_kind(
    code: str, expected: type[Exception], hint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = json.dumps({"event": "error", "code": code, "message": "it did not go"}).encode() + b"\n"
    watch = stopwatch_on(machine_with(saying(HELLO, error, DONE), monkeypatch))

    with pytest.raises(expected, match="shelf: it did not go") as raised:
        watch.version()

    assert raised.value.hint == hint  # type: ignore[attr-defined]


def told(*events: Mapping[str, Any]) -> list[bytes]:
    """What a worker says that was asked to time `FAST`, one event replaced or left out."""
    return [HELLO, *(json.dumps(event).encode() + b"\n" for event in events), DONE]


NAME = pushed_name(FAST) + ".onnx"
STATE_EVENT = {"event": "state"}
BEGIN = {"event": "begin", "task": 0, "models": [NAME], "runs_per_round": [4]}
ROUND = {"event": "round", "task": 0, "fastest_ns": [50_000], "total_ns": [200_000]}
END = {"event": "end", "task": 0}
NONSENSE: Mapping[str, Sequence[Mapping[str, Any]]] = {
    "nothing": [],
    "no state": [BEGIN, ROUND, END],
    "one state": [STATE_EVENT, BEGIN, ROUND, END],
    "three states": [STATE_EVENT, BEGIN, ROUND, END, STATE_EVENT, STATE_EVENT],
    "no begin": [STATE_EVENT, ROUND, END, STATE_EVENT],
    "two begins": [STATE_EVENT, BEGIN, BEGIN, ROUND, END, STATE_EVENT],
    "no round": [STATE_EVENT, BEGIN, END, STATE_EVENT],
    "rounds of another task": [STATE_EVENT, BEGIN, {**ROUND, "task": 1}, END, STATE_EVENT],
    "times of another model": [STATE_EVENT, {**BEGIN, "models": ["other.onnx"]}, ROUND, END, STATE_EVENT],
    "a time too many": [STATE_EVENT, BEGIN, {**ROUND, "fastest_ns": [1, 2]}, END, STATE_EVENT],
    "no time": [STATE_EVENT, BEGIN, ROUND, {**ROUND, "fastest_ns": []}, END, STATE_EVENT],
    "a number of runs too many": [STATE_EVENT, {**BEGIN, "runs_per_round": [4, 4]}, ROUND, END, STATE_EVENT],
    "cold times that nobody asked for": [
        STATE_EVENT,
        BEGIN,
        ROUND,
        {"event": "cold", "task": 0, "ns": [1]},
        END,
        STATE_EVENT,
    ],
}


def test_what_the_nonsense_below_is_made_of_makes_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    events = told(STATE_EVENT, BEGIN, ROUND, END, STATE_EVENT)

    found = stopwatch_on(machine_with(saying(*events), monkeypatch)).measure([FAST], METHOD)

    assert found.timings[0].median_us == 50


@pytest.mark.parametrize("events", NONSENSE.values(), ids=list(NONSENSE))
def test_answers_that_do_not_fit_the_question_are_the_devices_fault(
    events: Sequence[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    watch = stopwatch_on(machine_with(saying(*told(*events)), monkeypatch))

    with pytest.raises(DeviceError, match="the worker on 'shelf' told") as raised:
        watch.measure([FAST], METHOD)

    assert raised.value.hint == "install it again: edgekit target setup shelf"


@pytest.mark.parametrize("question", ["version", "kernels", "nnapi"])
def test_an_answer_without_what_was_asked_for_is_the_devices_fault(
    question: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = "nnapi" if question == "nnapi" else "cpu"
    watch = stopwatch_on(machine_with(saying(DONE), monkeypatch), provider=provider)
    ask: dict[str, Callable[[], object]] = {
        "version": watch.version,
        "kernels": lambda: watch.kernels(FAST),
        "nnapi": lambda: watch.measure([FAST], METHOD),
    }

    with pytest.raises(DeviceError, match="the worker on 'shelf' told"):
        ask[question]()


RESULTS = {
    "no array": b"hello",
    "nothing": b"",
    "a header that lies": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999, 9999999), }".ljust(117)
    + b"\n",
    "an object": b"\x93NUMPY\x01\x00v\x00"
    + b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(117)
    + b"\ncos\nsystem\n(S'touch canary'\ntR.",
}


@pytest.mark.parametrize("content", RESULTS.values(), ids=list(RESULTS))
def test_results_that_are_none_are_the_devices_fault(
    content: bytes, stopwatch: DeviceStopwatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(FakeDevice, "fetch", lambda *_: content)
    monkeypatch.setattr(remote, "read_installation", lambda _: INSTALLATION)

    with pytest.raises(DeviceError, match="cannot be read"):
        stopwatch.run(FAST, np.zeros((1, 2), np.float32))

    assert not Path("canary").exists()


@pytest.mark.parametrize("wrong", [np.zeros((2, 2), np.float32), np.zeros((3, 2)), np.float32(3)])
def test_results_of_other_samples_are_the_devices_fault(
    wrong: Any, stopwatch: DeviceStopwatch, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    np.save(tmp_path / "wrong.npy", wrong)
    monkeypatch.setattr(FakeDevice, "fetch", lambda *_: (tmp_path / "wrong.npy").read_bytes())
    monkeypatch.setattr(remote, "read_installation", lambda _: INSTALLATION)

    with pytest.raises(DeviceError, match="3 results are needed"):
        stopwatch.run(FAST, np.zeros((3, 2), np.float32))


def test_files_stay_while_it_is_open_and_are_gone_when_it_is_closed(
    stopwatch: DeviceStopwatch, machine: FakeMachine
) -> None:
    with stopwatch:
        stopwatch.measure([FAST, SLOW], METHOD)
        assert kept_files(machine) == {pushed_name(FAST), pushed_name(SLOW)}

    assert kept_files(machine) == set()


def test_files_are_gone_after_an_error_too(stopwatch: DeviceStopwatch, machine: FakeMachine) -> None:
    with pytest.raises(BadInputError), stopwatch:
        stopwatch.measure([b"unknown"], METHOD)

    assert kept_files(machine) == set() and machine.jobs == {}


def test_files_of_a_job_that_goes_on_stay(stopwatch: DeviceStopwatch, machine: FakeMachine) -> None:
    with stopwatch:
        stopwatch.version()
        machine.faults = dict.fromkeys(range(machine.exchanges + 6, 10_000), "cut_before")
        with pytest.raises(LinkLostError):
            stopwatch.measure([FAST], METHOD)
        machine.faults = {}

    assert pushed_name(FAST) in kept_files(machine) and len(machine.jobs) == 1


def test_what_was_left_behind_is_gone_when_it_was_picked_up(stopwatch: DeviceStopwatch, machine: FakeMachine) -> None:
    with pytest.raises(LinkLostError), stopwatch:
        stopwatch.version()
        machine.faults = dict.fromkeys(range(machine.exchanges + 6, 10_000), "cut_before")
        stopwatch.measure([FAST], METHOD)
    machine.faults = {}

    with stopwatch_on(machine) as again:
        again.measure([FAST], METHOD)

    assert kept_files(machine) == set() and machine.jobs == {}


def test_a_model_that_does_not_fit_is_refused_before_anything_is_pushed(machine: FakeMachine) -> None:
    watch = stopwatch_on(machine, storage_bytes=len(FAST) - 1)

    with pytest.raises(DeviceError) as raised:
        watch.measure([FAST], METHOD)

    assert f"{len(FAST)} bytes" in raised.value.message and f"allows {len(FAST) - 1}" in raised.value.message
    assert kept_files(machine) == set()


def test_a_model_that_just_fits_is_timed(machine: FakeMachine) -> None:
    stopwatch_on(machine, storage_bytes=len(FAST)).measure([FAST], METHOD)

    assert kept_files(machine) == {pushed_name(FAST)}


def test_models_that_do_not_fit_together_are_refused_together(machine: FakeMachine) -> None:
    with pytest.raises(DeviceError, match=r"2 file\(s\)"):
        stopwatch_on(machine, storage_bytes=len(FAST) + 1).measure([FAST, SLOW], METHOD)


def test_earlier_files_make_room_for_later_ones(machine: FakeMachine) -> None:
    watch = stopwatch_on(machine, storage_bytes=len(FAST) + 1)

    watch.measure([FAST], METHOD)
    watch.measure([SLOW], METHOD)

    assert kept_files(machine) == {pushed_name(SLOW)}


def test_without_a_limit_there_is_one_for_what_is_kept(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "KEPT_BYTES", len(FAST) + 1)
    watch = stopwatch_on(machine)

    watch.measure([FAST], METHOD)
    watch.measure([SLOW], METHOD)
    watch.measure([FAST, SLOW], METHOD)

    assert kept_files(machine) == {pushed_name(FAST), pushed_name(SLOW)}


def test_a_link_lost_in_any_exchange_changes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2, 22):
        worker = FakeWorker(DURATIONS_NS)
        machine = machine_with(worker, monkeypatch)
        machine.faults = {number: "cut_after"}

        with stopwatch_on(machine) as watch:
            assert watch.version() == "exact 1.0" and watch.machine().cores == 4
            assert [timing.median_us for timing in watch.measure([FAST, SLOW], METHOD).timings] == [50, 700]

        assert worker.tasks == ["state", "time"], number


RUNTIMES: tuple[RuntimeName, ...] = ("onnx", "tflite")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("device")


@pytest.fixture(params=RUNTIMES)
def real(request: pytest.FixtureRequest, folder: Path) -> Iterator[DeviceStopwatch]:
    if request.param == "tflite":
        pytest.importorskip("ai_edge_litert", reason="the worker needs LiteRT: pip install 'edgekit[tflite]'")
    device = open_local("here", folder)
    write_installation(device, with_python(device, sys.executable))
    with DeviceStopwatch(device, get(request.param), RuntimeOptions()) as stopwatch:
        yield stopwatch


def test_the_real_worker_tells_what_this_process_would(real: DeviceStopwatch) -> None:
    runtime, model = real.runtime, model_bytes(real.runtime.name)
    local = LocalStopwatch(runtime)
    values = samples(runtime.name, 3)

    assert real.version() == local.version()
    assert real.kernels(model) == local.kernels(model)
    assert np.array_equal(real.run(model, values), local.run(model, values))
    assert lasting(real.machine()) == lasting(local.machine())


def lasting(machine: Any) -> tuple[str, int, str, str, str]:
    """What does not change from one moment to the next."""
    return machine.cpu, machine.cores, machine.architecture, machine.kernel, machine.governor


def test_the_real_worker_takes_times_and_leaves_nothing(real: DeviceStopwatch, folder: Path) -> None:
    model = model_bytes(real.runtime.name)

    found = real.measure([model, model], Method(rounds=2, runs_per_round=4), cold_count=1)
    (block,) = real.measure_blocks([model], 1, min_seconds=0, min_runs=5)
    real.close()

    assert 0.5 < found.timings[0].median_us < 1e5 and found.timings[0] == found.timings[1]
    assert found.cold[0].count == 5 and block[0].count == 5
    assert not list((folder / "jobs").iterdir())
    assert sorted(path.name[:7] for path in (folder / "files").iterdir()) == ["install", "worker-"]
