"""The Python worker carries out jobs with each runtime, is read by old Pythons too, and tells a machine's state."""

from __future__ import annotations

import ast
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.devices import worker
from edgekit.devices.worker import KernelsTask, RunTask, StateTask, TimeTask, WorkerError, parse_job
from edgekit.profile.frame import random_input
from edgekit.runtimes.tflite.session import kernel_names
from tests.devices.worker_conformance import TaskConformance, WorkerConformance, model_bytes

_PROGRAM = Path(worker.__file__)


_COMMAND_LINE = (sys.executable, str(_PROGRAM))


class TestOnnxRuntime(WorkerConformance):
    def command_line(self) -> Sequence[str]:
        return _COMMAND_LINE

    def test_open_batches_and_inputs_of_any_type_are_filled(self, folder: Path) -> None:
        (folder / "many").write_bytes(_many_inputs())

        answer = self.work(folder, "time rounds=1 runs=2 cold=1 repetitions=1", "model many", "kernels many")

        assert answer.errors() == [] and len(answer.of("round")) == 1, answer.events

    def test_a_model_with_other_open_dimensions_is_not_loaded(self, folder: Path) -> None:
        (folder / "open").write_bytes(_float_identity(["batch", 3, "height"]))

        answer = self.work(folder, "kernels open")

        assert answer.errors() == [(0, "load_failed")] and "'height'" in answer.of("error")[0]["message"]

    def test_a_fixed_batch_is_filled_up_and_its_result_cut(self, folder: Path) -> None:
        (folder / "four").write_bytes(_float_identity([4, 3]))
        rows = np.arange(18, dtype=np.float32).reshape(6, 3)
        np.save(folder / "in.npy", rows)

        self.work(folder, "run four in.npy out.npy")

        np.testing.assert_array_equal(np.load(folder / "out.npy"), rows)

    def test_a_model_that_fails_when_it_runs_fails_alone(self, folder: Path) -> None:
        (folder / "fails").write_bytes(_reshape_that_fails())

        answer = self.work(folder, "time rounds=1 cold=0", "model a", "model fails", "kernels fails", "state")

        assert answer.errors() == [(0, "run_failed"), (1, "run_failed")]
        assert [event["model"] for event in answer.of("error")] == ["fails", "fails"]


class TestLitert(TaskConformance):
    runtime = "tflite"

    def command_line(self) -> Sequence[str]:
        return _COMMAND_LINE

    def environment(self) -> Mapping[str, str]:
        return {"EDGEKIT_TFLITE_BACKEND": "litert"}


@pytest.mark.skipif(int(np.__version__.split(".")[0]) > 1, reason="tflite-runtime works with numpy 1 only")
class TestTfliteRuntime(TaskConformance):
    runtime = "tflite"

    def command_line(self) -> Sequence[str]:
        return _COMMAND_LINE

    @pytest.fixture(autouse=True)
    def _same_backend_on_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("tflite_runtime.interpreter", reason="tflite-runtime is not installed")
        monkeypatch.setenv("EDGEKIT_TFLITE_BACKEND", "tflite-runtime")

    def test_a_model_that_crashes_the_interpreter_fails_alone(self, folder: Path) -> None:
        (folder / "bad").write_bytes(_crashing_tflite())

        answer = self.work(folder, "kernels bad", "kernels a")

        assert answer.errors() == [(0, "load_failed")] and "crashes" in answer.of("error")[0]["message"]
        assert len(answer.of("kernels")) == 1


def test_the_worker_is_one_file_that_old_pythons_read() -> None:
    tree = ast.parse(_PROGRAM.read_text(encoding="utf-8"), feature_version=(3, 9))

    modules = {name.split(".")[0] for node in ast.walk(tree) for name in _imported(node)}
    assert modules <= {*sys.stdlib_module_names, "numpy"}


def test_reading_the_worker_imports_no_numpy_and_no_runtime() -> None:
    question = "import sys, edgekit.devices.worker; print({'numpy', 'onnxruntime'} & set(sys.modules))"

    answer = subprocess.run([sys.executable, "-c", question], capture_output=True, text=True, timeout=60)

    assert answer.stdout == "set()\n", answer.stderr


def test_a_job_is_read_with_its_defaults() -> None:
    job = parse_job("edgekit-job 1\nruntime tflite\ntime\nmodel a.b_c-1\nstate\n")

    assert (job.runtime, job.provider, job.threads) == ("tflite", "cpu", 1)
    assert job.tasks == (TimeTask(9, 12, 3, 3, 0, 0.0, 5, ("a.b_c-1",)), StateTask())


def test_a_job_is_read_with_everything_in_it() -> None:
    job = parse_job(
        "edgekit-job 1\nthreads 4\nlibrary lib.so\nprovider nnapi\nruntime onnx\n"
        "time cold=0 min_seconds=86400 min_runs=7 repetitions=1 warmup=0 runs=1000000 rounds=1\nmodel a\nmodel b\n"
        "kernels a\nrun a in out\n"
    )

    assert (job.runtime, job.provider, job.threads) == ("onnx", "nnapi", 4)
    assert job.tasks == (
        TimeTask(1, 1_000_000, 0, 1, 7, 86400.0, 0, ("a", "b")),
        KernelsTask("a"),
        RunTask("a", "in", "out"),
    )


_LINES = st.one_of(
    st.sampled_from(["edgekit-job 1", "runtime onnx", "threads 1", "time", "model a", "kernels a", "state", ""]),
    st.from_regex(r"(time|run|threads|library) [ -~]{0,20}", fullmatch=True),
    st.text(max_size=20),
)


@given(lines=st.lists(_LINES, max_size=8))
@settings(deadline=None)
def test_any_text_is_a_job_or_a_bad_job(lines: list[str]) -> None:
    try:
        assert parse_job("\n".join(["edgekit-job 1", *lines, ""])).tasks
    except WorkerError as error:
        assert error.code == "bad_job" and error.message.startswith("line ")


def test_the_first_float_input_is_what_the_host_would_take() -> None:
    first, second = worker.random_inputs([((2, 3), "float32"), ((2, 3), "float32")])

    np.testing.assert_array_equal(first, random_input((2, 3)))
    assert not np.array_equal(first, second)


@pytest.mark.parametrize(
    ("numpy_type", "lowest", "highest"),
    [("int64", 0, 1), ("int32", 0, 1), ("uint16", 0, 1), ("bool", 0, 1), ("uint8", 0, 255), ("int8", -128, 127)],
)
def test_integers_are_small_where_they_may_be_indices(numpy_type: str, lowest: int, highest: int) -> None:
    (values,) = worker.random_inputs([((100, 100), numpy_type)])

    assert values.dtype == numpy_type and (int(values.min()), int(values.max())) == (lowest, highest)


@pytest.mark.parametrize("numpy_type", ["float16", "float64"])
def test_other_floats_and_scalars_are_filled_too(numpy_type: str) -> None:
    (values,) = worker.random_inputs([((), numpy_type)])

    assert values.dtype == numpy_type and values.shape == () and np.isfinite(values)


def test_partly_delegated_graphs_are_named_as_by_the_host() -> None:
    operators = [
        {"op_name": "CONV_2D", "inputs": [0, 1], "outputs": [2]},
        {"op_name": "CUSTOM", "inputs": [2], "outputs": [3]},
        {"op_name": "ADD", "inputs": [3, 2], "outputs": [4]},
        {"op_name": "DELEGATE", "inputs": [0, 1], "outputs": [2]},
    ]
    types = {2: "int8", 3: "float32", 4: "float32"}

    found = worker.tflite_kernels(operators, types)

    assert tuple(found.names) == kernel_names(operators, types)
    assert [node["provider"] for node in found.nodes] == ["xnnpack", "builtin", "builtin"]


def test_tflite_runtime_under_numpy_2_is_no_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tflite_runtime.interpreter", reason="tflite-runtime is not installed")
    monkeypatch.setenv("EDGEKIT_TFLITE_BACKEND", "tflite-runtime")
    monkeypatch.setattr(np, "__version__", "2.4.0")

    with pytest.raises(WorkerError, match=r"numpy 1, not 2\.4\.0") as caught:
        worker.TfliteRuntime("cpu", 1)

    assert caught.value.code == "no_runtime"


def test_a_runtime_that_is_not_installed_ends_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)

    events, exit_code = _work("edgekit-job 1\nruntime onnx\nstate\n")

    assert [event["event"] for event in events] == ["hello", "error", "done"] and exit_code == 1
    assert (events[1]["code"], events[1]["task"]) == ("no_runtime", None)


@pytest.mark.parametrize(("nodes_on_nnapi", "codes"), [(0, ["not_delegated"]), (1, []), (2, [])])
def test_a_model_that_stays_on_the_cpu_is_told(
    monkeypatch: pytest.MonkeyPatch, nodes_on_nnapi: int, codes: list[str]
) -> None:
    monkeypatch.setattr(worker, "OnnxRuntime", lambda *_: _Phone(nodes_on_nnapi))

    events, _ = _work("edgekit-job 1\nruntime onnx\nprovider nnapi\nkernels a\n")

    assert [event["event"] for event in events] == ["hello", "kernels", *["error"] * len(codes), "done"]
    assert [event["code"] for event in events if event["event"] == "error"] == codes


class _Phone:
    """ONNX Runtime with NNAPI, which takes over some of a model's two nodes."""

    version, available, is_provided = "onnxruntime 1.0", ["NnapiExecutionProvider"], True
    delegate = "NnapiExecutionProvider"

    def __init__(self, nodes_on_nnapi: int) -> None:
        self._providers = [self.delegate] * nodes_on_nnapi + ["CPUExecutionProvider"] * (2 - nodes_on_nnapi)

    def load(self, _: str) -> _Phone:
        return self

    def kernels(self) -> worker.Kernels:
        return worker.onnx_kernels(
            [
                {"name": f"n{index}_kernel_time", "args": {"op_name": "Conv", "provider": provider}}
                for index, provider in enumerate(self._providers)
            ]
        )


def test_the_state_is_that_of_the_core_that_can_run_the_fastest(tmp_path: Path) -> None:
    for core, megahertz in ((0, 1800), (4, 2400), (10, 2400)):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{megahertz}000\n")
        (folder / "scaling_max_freq").write_text(f"{megahertz - 100}000\n")
        (folder / "scaling_cur_freq").write_text(f"{megahertz - 200 - core}000\n")
        (folder / "scaling_governor").write_text(f"governor{core}\n")

    state = worker.read_state(tmp_path)

    assert (state["governor"], state["frequency_mhz"], state["max_frequency_mhz"]) == ("governor4", 2196.0, 2300.0)


def test_the_hottest_sane_zone_load_and_boot_are_read(tmp_path: Path) -> None:
    for index, text in enumerate(["41000", "62500", "-274000", "hot", "999999"]):
        zone = tmp_path / f"sys/class/thermal/thermal_zone{index}"
        zone.mkdir(parents=True)
        (zone / "temp").write_text(text)
    (tmp_path / "proc/sys/kernel/random").mkdir(parents=True)
    (tmp_path / "proc/sys/kernel/random/boot_id").write_text("b-1\n")
    (tmp_path / "proc/loadavg").write_text("0.25 0.10 0.05 1/100 999\n")

    state = worker.read_state(tmp_path)

    assert (state["temperature_celsius"], state["load_1min"], state["boot_id"]) == (62.5, 0.25, "b-1")


def test_a_machine_that_tells_nothing_has_an_unknown_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    state = worker.read_state(tmp_path)

    assert state.pop("monotonic_ns") > 0
    assert state == {
        "governor": "unknown",
        "frequency_mhz": 0.0,
        "max_frequency_mhz": 0.0,
        "temperature_celsius": None,
        "throttled": None,
        "thermal_status": None,
        "load_1min": 0.0,
        "boot_id": "unknown",
    }


def test_a_raspberry_pi_says_whether_it_is_throttled(program: Callable[[str, str], None]) -> None:
    program("vcgencmd", "[ $1 = get_throttled ] && echo throttled=0x50005")

    assert worker.read_state()["throttled"] == "0x50005"


def test_a_phone_says_its_thermal_status(program: Callable[[str, str], None]) -> None:
    program("dumpsys", '[ $1 = thermalservice ] && printf "IsStatusOverride: false\\nThermal Status: 2\\n"')

    assert worker.read_state()["thermal_status"] == 2


def test_a_tool_that_fails_or_hangs_tells_nothing(
    program: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_COMMAND_SECONDS", 0.2)
    program("vcgencmd", "echo VCHI initialization failed; exit 255")
    program("dumpsys", "exec sleep 30")

    state = worker.read_state()

    assert (state["throttled"], state["thermal_status"]) == (None, None)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Puts a program of that name and shell text in front of all others."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return write


def _work(text: str) -> tuple[list[dict[str, Any]], int]:
    """Events and exit code of a job that is carried out in this process."""
    events: list[dict[str, Any]] = []
    exit_code = worker.Worker(parse_job(text), lambda event: events.append(dict(event))).work()
    return events, exit_code


def _imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or "."] if isinstance(node, ast.ImportFrom) else []


def _crashing_tflite() -> bytes:
    """A file whose last tables, those of operators, are nonsense."""
    model = model_bytes("tflite")
    kept = len(model) * 9 // 10
    return model[:kept] + b"\xff" * (len(model) - kept)


def _onnx(nodes: list[Any], inputs: list[Any], outputs: list[str]) -> bytes:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    floats = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    graph = onnx.helper.make_graph(nodes, "test", inputs, floats)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _input(name: str, type_name: str, shape: list[Any]) -> Any:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, type_name), shape)


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> Any:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    return onnx.helper.make_node(operator, inputs, [output], **attributes)


def _many_inputs() -> bytes:
    """A table that is read at integer places, summed with flags and a scalar; two outputs."""
    return _onnx(
        [
            _node("Gather", ["table", "places"], "rows"),
            _node("Cast", ["flags"], "numbers", to=1),
            _node("Add", ["rows", "numbers"], "sum"),
            _node("Mul", ["sum", "factor"], "result"),
        ],
        [
            _input("table", "FLOAT", [2, 5]),
            _input("places", "INT64", ["batch"]),
            _input("flags", "BOOL", ["batch", 5]),
            _input("factor", "FLOAT", []),
        ],
        ["sum", "result"],
    )


def _float_identity(shape: list[Any]) -> bytes:
    return _onnx([_node("Identity", ["x"], "y")], [_input("x", "FLOAT", shape)], ["y"])


def _reshape_that_fails() -> bytes:
    """A reshape to the sizes that its second input holds: 0 or 1 each, which do not hold seven numbers."""
    return _onnx(
        [_node("Reshape", ["x", "sizes"], "y", allowzero=1)],
        [_input("x", "FLOAT", [7]), _input("sizes", "INT64", [2])],
        ["y"],
    )
