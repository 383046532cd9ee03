"""The C worker passes the suite of all workers, agrees with the Python one in every number, and survives what is thrown
at it; on a phone, as far as there is one here, it says what the accelerator took over."""

from __future__ import annotations

import io
import json
import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.devices import native_worker, worker
from edgekit.devices.native_worker import find_worker, host_architecture
from edgekit.devices.worker import TimeTask, WorkerError
from edgekit.errors import DeviceError
from edgekit.profile.frame import with_random_weights
from edgekit.runtimes import get
from edgekit.types import INPUT, Layer, NetworkSpec, UnitSpec
from tests.devices import arm, nnapi
from tests.devices.native_parts import SANITIZERS, Parts, build_parts, compile_worker
from tests.devices.worker_conformance import BAD_JOBS, Answer, WorkerConformance, model_bytes
from tests.profile.networks import conv

_BUILDS = nnapi.CACHE / "native"
_GOOD_JOB = """edgekit-job 1
runtime onnx
provider cpu
threads 2
library libonnxruntime.so
state
time rounds=3 runs=5 warmup=2 repetitions=4 min_runs=7 min_seconds=0.125 cold=1
model a.onnx
model b.onnx
kernels a.onnx
time
model c.onnx
run a.onnx in.npy out.npy
"""
_PROFILE = """[
{"cat": "Session", "name": "model_loading", "args": {}},
{"cat": "Node", "dur": 5, "name": "first_kernel_time", "args": {"op_name": "Conv", "provider": "CPUExecutionProvider",
 "input_type_shape": [{"float": [1, 4, 8, 8]}, {"int64": []}], "thread": {"a": [1, 2.5e3, null, true, "\\u00e4\\n"]}}}
]"""


def host_library() -> Path:
    """ONNX Runtime's library as its Python package brings it."""
    package = pytest.importorskip("onnxruntime", reason="the worker needs ONNX Runtime's library")
    return next((Path(package.__file__).parent / "capi").glob("libonnxruntime.so.*"))


def worker_for(system: native_worker.System, architecture: native_worker.Architecture) -> Path:
    try:
        return find_worker(system, architecture, _BUILDS)
    except DeviceError as error:
        pytest.skip(error.message)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return build_parts(tmp_path_factory.mktemp("parts"))


class TestHost(WorkerConformance):
    def command_line(self) -> Sequence[str]:
        return [str(worker_for("linux", host_architecture()))]

    def settings(self) -> Sequence[str]:
        return ["library libonnxruntime.so"]

    def files(self) -> Mapping[str, Path]:
        return {"libonnxruntime.so": host_library()}

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """Unbuffered: what a buffer had read ahead of a line would be lost to ``communicate``."""
        return subprocess.Popen(
            [*self.command_line(), "job.txt"],
            cwd=folder,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def test_a_library_that_is_missing_is_no_runtime(self, folder: Path) -> None:
        (folder / "libonnxruntime.so").unlink()

        answer = self.work(folder, "state")

        assert [event["event"] for event in answer.events] == ["hello", "error", "done"]
        assert answer.errors() == [(None, "no_runtime")] and answer.exit_code == 1

    def test_a_library_that_is_another_is_no_runtime(self, folder: Path, tmp_path: Path) -> None:
        (folder / "libonnxruntime.so").unlink()
        compile_worker(folder / "libonnxruntime.so", ["-shared", str(_source(tmp_path, "int nothing;"))])

        answer = self.work(folder, "state")

        assert answer.errors() == [(None, "no_runtime")]
        assert "OrtGetApiBase" in answer.of("error")[0]["message"]

    def test_a_runtime_that_is_too_old_is_no_runtime(self, folder: Path, tmp_path: Path) -> None:
        (folder / "libonnxruntime.so").unlink()
        old = """
            typedef struct { const void *(*table)(unsigned); const char *(*version)(void); } Base;
            static const void *table(unsigned version) { return version > 15 ? 0 : ""; }
            static const char *version(void) { return "1.15.0"; }
            const Base *OrtGetApiBase(void) { static const Base base = {table, version}; return &base; }
        """
        compile_worker(folder / "libonnxruntime.so", ["-shared", "-fPIC", str(_source(tmp_path, old))])

        answer = self.work(folder, "state")

        assert "older than 1.16" in answer.of("error")[0]["message"]

    def test_tflite_is_no_runtime_of_this_worker(self, folder: Path) -> None:
        (folder / "job.txt").write_text("edgekit-job 1\nruntime tflite\nstate\n")

        answer = self.finish(self.start(folder))

        assert answer.errors() == [(None, "no_runtime")]

    def test_a_fixed_batch_is_filled_up_and_its_result_cut(self, folder: Path) -> None:
        (folder / "four").write_bytes(_identity([4, 3]))
        rows = np.arange(18, dtype=np.float32).reshape(6, 3)
        np.save(folder / "in.npy", rows)

        self.work(folder, "run four in.npy out.npy")

        np.testing.assert_array_equal(np.load(folder / "out.npy"), rows)

    def test_open_batches_and_inputs_of_any_type_are_filled(self, folder: Path) -> None:
        (folder / "many").write_bytes(_many_inputs())

        answer = self.work(folder, "time rounds=1 runs=2 cold=1 repetitions=1", "model many", "kernels many")

        assert answer.errors() == [] and len(answer.of("kernels")) == 1, answer.events

    def test_a_model_with_other_open_dimensions_is_not_loaded(self, folder: Path) -> None:
        (folder / "open").write_bytes(_identity(["batch", 3, "height"]))

        assert self.work(folder, "kernels open").errors() == [(0, "load_failed")]

    def test_a_model_that_fails_when_it_runs_fails_alone(self, folder: Path) -> None:
        (folder / "fails").write_bytes(_failing())

        answer = self.work(folder, "time cold=0", "model a", "model fails", "kernels fails", "run a in.npy out.npy")

        assert answer.errors() == [(0, "run_failed"), (1, "run_failed")]
        assert [error["model"] for error in answer.of("error")] == ["fails", "fails"]
        assert len(answer.of("output")) == 1 and not list(folder.glob(".kernels*"))

    def test_scalars_cannot_be_run_on_samples(self, folder: Path) -> None:
        (folder / "scalar").write_bytes(_identity([]))

        assert self.work(folder, "run scalar in.npy out.npy").errors() == [(0, "run_failed")]

    def test_damaged_models_are_survived_and_told(self, folder: Path, sanitized: Callable[[str], Path]) -> None:
        """The worker's own memory is watched; what ONNX Runtime does is its own affair, but it must not crash."""
        whole, dice = model_bytes("onnx"), random.Random(0)
        names = []
        for index in range(40):
            names.append(f"m{index}.onnx")
            (folder / names[-1]).write_bytes(_mutated(whole, dice))
        self.write_job(folder, *(f"run {name} in.npy out.npy" for name in names))

        completed = subprocess.run(
            [sanitized("worker"), "job.txt"],
            cwd=folder,
            env=_SANITIZER_ENVIRONMENT | {"ASAN_OPTIONS": "detect_leaks=0"},
            capture_output=True,
            timeout=120,
        )

        events = [json.loads(line) for line in completed.stdout.splitlines()]
        assert events[-1] == {"event": "done"}, completed.stderr[-2000:]
        assert len(events) == 42 and b"Sanitizer" not in completed.stderr


def test_both_workers_read_the_same_in_a_job(parts: Parts) -> None:
    assert parts.parse_job(_GOOD_JOB.encode()) == worker.parse_job(_GOOD_JOB)


@pytest.mark.parametrize("text", BAD_JOBS.values(), ids=BAD_JOBS.keys())
def test_both_workers_refuse_the_same_line_of_a_job(parts: Parts, text: str) -> None:
    found = parts.parse_job(text.encode())

    if len(text) > 2**20:  # Its size is looked at when the file is read.
        return
    with pytest.raises(WorkerError) as raised:
        worker.parse_job(text)
    assert isinstance(found, str)
    assert "NUL" in found or found.split(":")[0] == raised.value.message.split(":")[0]


def test_both_workers_agree_about_thousands_of_damaged_jobs(parts: Parts) -> None:
    dice = random.Random(1)
    verdicts = []
    for _ in range(3000):
        text = _mutated_text(_GOOD_JOB, dice)
        found = parts.parse_job(text.encode())
        try:
            expected: Any = worker.parse_job(text)
        except WorkerError:
            expected = str
        verdicts.append(expected is not str)
        assert isinstance(found, str) if expected is str else found == expected, (text, found)
    assert 30 < sum(verdicts) < 2970


@settings(max_examples=200, deadline=None)
@given(data=st.data(), models=st.integers(1, 5), count=st.integers(1, 12))
def test_both_workers_count_the_same_quiet_rounds(parts: Parts, data: st.DataObject, models: int, count: int) -> None:
    times = st.lists(st.integers(0, 130) | st.integers(0, 10**12), min_size=models, max_size=models)
    rounds = data.draw(st.lists(times, min_size=count, max_size=count))

    assert parts.quiet_count(rounds) == worker.quiet_count(rounds)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    models=st.integers(1, 4),
    task=st.builds(
        TimeTask,
        rounds=st.integers(1, 5),
        runs=st.integers(1, 9),
        warmup=st.integers(0, 6),
        repetitions=st.integers(1, 3),
        min_runs=st.sampled_from([0, 0, 1, 20]),
        min_seconds=st.sampled_from([0.0, 0.0, 0.05]),
        cold=st.integers(0, 2),
    ),
)
def test_both_workers_take_the_same_times_from_the_same_clock(
    parts: Parts, seed: int, models: int, task: TimeTask
) -> None:
    assert _times_of_c(parts, task, _Clock(seed, models)) == _times_of_python(task, _Clock(seed, models))


def test_timing_ends_at_the_model_that_fails(parts: Parts) -> None:
    clock = _Clock(0, 3)

    *_, failed = parts.time(TimeTask(), 3, lambda model: clock.run(model) and model != 1, clock.now)

    assert failed == 1


def test_both_workers_read_the_same_state(parts: Parts, tmp_path: Path) -> None:
    for core, megahertz, governor in ((0, 1500, "powersave"), (4, 2400, "schedutil"), (10, 2400, "performance")):
        clock = tmp_path / f"sys/devices/system/cpu/cpu{core}/cpufreq"
        clock.mkdir(parents=True)
        for name, value in (("cpuinfo_max_freq", 1000), ("scaling_cur_freq", 600), ("scaling_max_freq", 900)):
            (clock / name).write_text(f"{megahertz * value}\n")
        (clock / "scaling_governor").write_text(f"{governor}\n")
    for zone, text in enumerate(("48312\n", "-273000\n", "61500\n", "many\n")):
        folder = tmp_path / f"sys/class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "temp").write_text(text)
    boot = tmp_path / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text("c0ffee\n")
    (tmp_path / "proc/loadavg").write_text("1.25 0.50 0.25 1/100 4242\n")

    assert _state_of_c(parts, tmp_path) == _state_of_python(tmp_path)
    assert _state_of_c(parts, tmp_path)["governor"] == "schedutil"


def test_a_machine_that_tells_nothing_has_an_unknown_state(parts: Parts, tmp_path: Path) -> None:
    assert _state_of_c(parts, tmp_path) == _state_of_python(tmp_path)


def test_the_clock_of_a_pc_is_read_where_no_governor_is(parts: Parts, tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: x\ncpu MHz\t\t: 2596.096\n")

    assert _state_of_c(parts, tmp_path) == _state_of_python(tmp_path)


@pytest.mark.parametrize(
    ("script", "throttled", "status"),
    [
        ("echo throttled=0x50005; echo Thermal Status: 3", "0x50005", 3),
        ("echo nothing", "", -1),
        ("exit 3", "", -1),
        ("exec >&-; exec sleep 30", "", -1),
    ],
    ids=["told", "not told", "failed", "silent"],
)
def test_the_tools_of_a_pi_and_of_android_are_asked(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, throttled: str, status: int
) -> None:
    _programs(tmp_path, script)
    monkeypatch.setenv("PATH", f"/nowhere:{tmp_path}:/usr/bin:/bin")

    state = parts.state(tmp_path)

    assert (state.throttled.decode(), state.thermal_status) == (throttled, status)


def test_a_tool_that_hangs_is_ended_at_its_deadline(
    parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vcgencmd").write_text("#!/bin/sh\necho $$ > pid\nexec sleep 60\n")
    (tmp_path / "vcgencmd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)

    started_at = time.monotonic()
    state = parts.state(tmp_path)

    assert state.throttled == b"" and time.monotonic() - started_at < 20
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


_SANITIZER_ENVIRONMENT = {"UBSAN_OPTIONS": "print_stacktrace=1", "PATH": "/usr/bin:/bin", "ORT_DISABLE_TELEMETRY": "1"}


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Builds ``worker`` or the fuzz program ``fuzz`` with the address and undefined behaviour sanitizers."""
    folder = tmp_path_factory.mktemp("sanitized")
    sources = sorted(native_worker.source_folder().glob("*.c"))

    def build(name: str) -> Path:
        path = folder / name
        if not path.exists():
            own = [] if name == "worker" else [Path(__file__).with_name("native_fuzz.c")]
            files = [source for source in sources if name == "worker" or source.name != "main.c"]
            compile_worker(path, ["-O1", "-g", *SANITIZERS, *map(str, own + files)])
        return path

    return build


def test_thousands_of_damaged_files_are_refused_without_a_wrong_access(
    sanitized: Callable[[str], Path], tmp_path: Path
) -> None:
    dice = random.Random(2)
    array = _npy(np.arange(24, dtype=np.float32).reshape(2, 3, 4))
    seeds = {b"j": [_GOOD_JOB.encode()], b"n": [array, *_hostile_arrays()], b"p": [_PROFILE.encode(), b"[" * 10_000]}
    records = [(kind, seed) for kind, all_seeds in seeds.items() for seed in all_seeds]
    for kind, all_seeds in seeds.items():
        records += [(kind, _mutated(dice.choice(all_seeds[:1]), dice)) for _ in range(2500)]

    lines = _fuzz(sanitized("fuzz"), tmp_path, records)

    assert len(lines) == len(records)
    good = {kind: [line[0] for line, (of, _) in zip(lines, records, strict=True) if of == kind] for kind in seeds}
    assert all({"0", "1"} == set(verdicts) for verdicts in good.values())


def test_an_array_is_read_as_numpy_wrote_it(sanitized: Callable[[str], Path], tmp_path: Path) -> None:
    shapes: list[tuple[int, ...]] = [(), (1,), (0, 3), (5,), (2, 3), (1, 2, 3, 4, 1, 2, 1, 2)]
    arrays = [np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for shape in shapes]

    lines = _fuzz(sanitized("fuzz"), tmp_path, [(b"n", _npy(array)) for array in arrays])

    assert [line.split() for line in lines] == [["1", f"{array.sum():g}"] for array in arrays]


def test_hostile_arrays_are_refused(sanitized: Callable[[str], Path], tmp_path: Path) -> None:
    arrays = _hostile_arrays()

    assert _fuzz(sanitized("fuzz"), tmp_path, [(b"n", array) for array in arrays]) == ["0 0"] * len(arrays)


def test_any_text_becomes_json(sanitized: Callable[[str], Path], tmp_path: Path) -> None:
    dice = random.Random(3)
    plain = ['"', "\\", "\x01\x1f\x7f\n\t", "äß€𝄞", "a" * 5000, ""]
    texts = [text.encode() for text in plain] + [dice.randbytes(30).replace(b"\0", b"") for _ in range(1000)]

    lines = _fuzz(sanitized("fuzz"), tmp_path, [(b"t", text) for text in texts])

    decoded = [json.loads(line) for line in lines]
    assert decoded[: len(plain)] == plain and len(decoded) == len(texts)


def test_a_worker_is_built_once_for_the_same_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worker_for("linux", host_architecture())
    first = find_worker("linux", host_architecture(), tmp_path)
    monkeypatch.setattr(native_worker, "_carry_out", None)

    assert find_worker("linux", host_architecture(), tmp_path) == first


def test_without_a_compiler_the_hint_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DeviceError, match="no C compiler for aarch64") as raised:
        find_worker("linux", "aarch64", tmp_path)

    assert raised.value.hint is not None and "apt install gcc" in raised.value.hint


def test_a_folder_that_is_no_ndk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(tmp_path))

    with pytest.raises(DeviceError, match="ANDROID_NDK_ROOT"):
        find_worker("android", "aarch64", tmp_path)


def test_the_compiler_of_an_ndk_is_used_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clang = tmp_path / "toolchains/llvm/prebuilt/linux-x86_64/bin/aarch64-linux-android24-clang"
    clang.parent.mkdir(parents=True)
    clang.write_text('#!/bin/sh\nprintf %s "$*" > worker\n')
    clang.chmod(0o755)
    monkeypatch.setenv("ANDROID_NDK_ROOT", str(tmp_path))

    arguments = find_worker("android", "aarch64", tmp_path).read_text().split()

    assert "-pie" in arguments and any(name.endswith("/main.c") for name in arguments)


def test_a_failed_build_is_told_with_the_compilers_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = tmp_path / "sources"
    sources.mkdir()
    (sources / "main.c").write_text("int main(void) { return nothing_known; }\n")
    monkeypatch.setattr(native_worker, "source_folder", lambda: sources)
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler (cc) that could fail")

    with pytest.raises(DeviceError, match="nothing_known"):
        find_worker("linux", host_architecture(), tmp_path)


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_a_worker_for_android_asks_for_what_android_has(architecture: native_worker.Architecture) -> None:
    program = worker_for("android", architecture).read_bytes()

    assert program[:4] == b"\x7fELF" and program[18:20] == {"x86_64": b"\x3e\x00", "aarch64": b"\xb7\x00"}[architecture]
    assert b"/system/bin/linker64\0" in program and b"GLIBC" not in program


def test_the_worker_for_a_raspberry_pi_carries_out_a_job(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The aarch64 build with ONNX Runtime's own aarch64 library."""
    onnxruntime = pytest.importorskip("onnxruntime", reason="its version is the one that is fetched for aarch64")
    start = [*arm.emulator(tmp_path_factory.mktemp("system")), str(worker_for("linux", "aarch64"))]
    (tmp_path / "libonnxruntime.so").symlink_to(arm.onnxruntime_library(onnxruntime.__version__))
    (tmp_path / "a").write_bytes(_delegated_model())
    np.save(tmp_path / "in.npy", _images(3))
    (tmp_path / "job.txt").write_text(
        "edgekit-job 1\nruntime onnx\nlibrary libonnxruntime.so\ntime rounds=1 runs=2 repetitions=1 cold=1\nmodel a\n"
        "kernels a\nrun a in.npy out.npy\n"
    )

    completed = subprocess.run([*start, "job.txt"], cwd=tmp_path, capture_output=True, timeout=300)

    events = [json.loads(line) for line in completed.stdout.splitlines()]
    assert events and events[0]["architecture"] == "aarch64", completed.stderr
    kinds = ["hello", "state", "begin", "round", "cold", "end", "state", "kernels", "output", "done"]
    assert [event["event"] for event in events] == kinds and completed.returncode == 0
    expected = get("onnx").load(_delegated_model()).run(_images(3))
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def program() -> Path:
    return worker_for("android", "x86_64")


@pytest.fixture(scope="module")
def phone(program: Path, tmp_path_factory: pytest.TempPathFactory) -> nnapi.Phone:
    return nnapi.make_phone(tmp_path_factory.mktemp("phone"), program)


class TestPhone:
    """The Android build over Android's own ONNX Runtime with its NNAPI provider, on a stand-in for a phone."""

    @pytest.fixture
    def work(self, phone: nnapi.Phone, program: Path, tmp_path: Path) -> Callable[..., Answer]:
        def carry_out(*lines: str, **environment: str) -> Answer:
            head = ("edgekit-job 1", "runtime onnx", "provider nnapi", "library libonnxruntime.so")
            (tmp_path / "job.txt").write_text("".join(f"{line}\n" for line in (*head, *lines)))
            completed = subprocess.run(
                phone.argv(program, "job.txt"),
                cwd=tmp_path,
                env=os.environ | environment,
                capture_output=True,
                timeout=60,
            )
            events = [json.loads(line) for line in completed.stdout.splitlines()]
            return Answer(completed.returncode, events, completed.stderr.decode("utf-8", "replace"))

        (tmp_path / "delegated").write_bytes(_delegated_model())
        (tmp_path / "mixed").write_bytes(_mixed_model())
        np.save(tmp_path / "in.npy", _images(3))
        return carry_out

    def test_a_model_that_the_accelerator_takes_over_is_timed_there(self, work: Callable[..., Answer]) -> None:
        answer = work("time rounds=2 runs=3 repetitions=1 cold=1", "model delegated", "kernels delegated")

        (found,) = answer.of("kernels")
        assert [node["provider"] for node in found["nodes"]] == ["NnapiExecutionProvider"]
        assert len(answer.of("round")) == 2 and len(answer.of("end")) == 1 and answer.exit_code == 0
        assert "fake NNAPI: compiled" in answer.stderr

    def test_the_accelerator_computes_what_the_host_computes(self, work: Callable[..., Answer], tmp_path: Path) -> None:
        work("run delegated in.npy out.npy")

        expected = get("onnx").load(_delegated_model()).run(_images(3))
        np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, rtol=1e-4, atol=1e-5)

    def test_nodes_that_stay_behind_are_told_with_their_provider(self, work: Callable[..., Answer]) -> None:
        answer = work("kernels mixed")

        (found,) = answer.of("kernels")
        placed = {node["operator"].split("_")[0]: node["provider"] for node in found["nodes"]}
        assert placed["AveragePool"] == "CPUExecutionProvider" and placed["Nnapi"] == "NnapiExecutionProvider"
        assert answer.errors() == [] and answer.exit_code == 0

    def test_a_phone_too_old_for_nnapi_delegates_nothing(self, work: Callable[..., Answer]) -> None:
        answer = work("kernels delegated", "state", FAKE_ANDROID_API_LEVEL="26")

        assert {node["provider"] for node in answer.of("kernels")[0]["nodes"]} == {"CPUExecutionProvider"}
        assert answer.errors() == [(0, "not_delegated")] and answer.exit_code == 1
        assert answer.events[-1] == {"event": "done"}

    @pytest.mark.parametrize("lines", [["kernels delegated"], ["time", "model delegated"]], ids=["kernels", "time"])
    def test_an_accelerator_that_refuses_a_good_model_delegates_nothing(
        self, work: Callable[..., Answer], lines: list[str]
    ) -> None:
        answer = work(*lines, FAKE_NNAPI_OPERATIONS=",")

        assert answer.errors() == [(0, "not_delegated")] and answer.exit_code == 1
        assert "target devices" in answer.of("error")[0]["message"]

    def test_a_damaged_model_is_not_blamed_on_the_accelerator(
        self, work: Callable[..., Answer], tmp_path: Path
    ) -> None:
        (tmp_path / "bad").write_bytes(b"no model at all")

        assert work("kernels bad").errors() == [(0, "load_failed")]

    def test_a_device_without_nnapi_has_no_such_provider(
        self, phone: nnapi.Phone, program: Path, tmp_path: Path
    ) -> None:
        bare = tmp_path / "bare"
        shutil.copytree(phone.folder, bare, symlinks=True)
        (bare / "libneuralnetworks.so").unlink()
        (tmp_path / "job.txt").write_text("edgekit-job 1\nruntime onnx\nprovider nnapi\nstate\n")

        completed = subprocess.run(
            nnapi.Phone(bare).argv(program, "job.txt"), cwd=tmp_path, capture_output=True, timeout=60
        )

        assert [json.loads(line).get("code") for line in completed.stdout.splitlines()] == [None, "no_provider", None]


class _Clock:
    """Time that passes while models run: each has its own, with noise that depends on the seed alone."""

    def __init__(self, seed: int, models: int) -> None:
        self._dice = random.Random(seed)
        self._ns = 0
        self._usual_ns = [self._dice.choice([500, 40_000, 3_000_000, 30_000_000]) for _ in range(models)]

    def now(self) -> int:
        return self._ns

    def run(self, model: int) -> bool:
        slow = self._dice.choice([1.0, 1.0, 1.02, 1.2, 3.0])
        self._ns += int(self._usual_ns[model] * slow)
        return True


def _times_of_c(parts: Parts, task: TimeTask, clock: _Clock) -> Any:
    models = len(clock._usual_ns)
    runs, rounds, cold, failed = parts.time(task, models, clock.run, clock.now)
    assert failed is None
    return runs, rounds, cold


def _times_of_python(task: TimeTask, clock: _Clock) -> Any:
    invokes = [lambda model=model: clock.run(model) for model in range(len(clock._usual_ns))]
    trials = [worker.Trial(invoke, task.runs, task.warmup, clock.now) for invoke in invokes]
    rounds = [(found.fastest_ns, found.total_ns) for found in worker._rounds(trials, task)]
    cold = list(worker.cold_rounds(invokes, task.cold, clock.now))
    return [[trial.runs_per_round for trial in trials]], rounds, cold


def _state_of_c(parts: Parts, root: Path) -> dict[str, Any]:
    state = parts.state(root)
    return {
        "governor": state.governor.decode(),
        "frequency_mhz": pytest.approx(state.frequency_mhz),
        "max_frequency_mhz": pytest.approx(state.max_frequency_mhz),
        "temperature_celsius": state.temperature_celsius if state.has_temperature else None,
        "load_1min": state.load_1min,
        "boot_id": state.boot_id.decode(),
    }


def _state_of_python(root: Path) -> dict[str, Any]:
    state = worker.read_state(root)
    return {key: state[key] for key in state if key not in ("throttled", "thermal_status", "monotonic_ns")}


def _programs(folder: Path, script: str) -> None:
    for name in ("vcgencmd", "dumpsys"):
        lines = script.split("; ")
        # Each of the two programs tells its own line only.
        own = [line for line in lines if name == "vcgencmd" or "throttled" not in line]
        own = [line for line in own if name == "dumpsys" or "Thermal" not in line]
        (folder / name).write_text("#!/bin/sh\n" + "\n".join(own) + "\n")
        (folder / name).chmod(0o755)


def _source(folder: Path, text: str) -> Path:
    path = folder / "source.c"
    path.write_text(text)
    return path


def _fuzz(program: Path, folder: Path, records: Sequence[tuple[bytes, bytes]]) -> list[str]:
    path = folder / "records"
    path.write_bytes(b"".join(kind + struct.pack("<I", len(content)) + content for kind, content in records))
    completed = subprocess.run([program, path], env=_SANITIZER_ENVIRONMENT, capture_output=True, timeout=120)
    assert completed.returncode == 0, completed.stderr.decode("utf-8", "replace")[-3000:]
    return completed.stdout.decode("utf-8").removesuffix("\n").split("\n")


def _mutated(content: bytes, dice: random.Random) -> bytes:
    """One to four changes: a byte, a piece taken out, doubled, or everything behind it cut off."""
    changed = bytearray(content)
    for _ in range(dice.randint(1, 4)):
        at, length = dice.randrange(len(changed) or 1), dice.randint(1, 8)
        kind = dice.randrange(5)
        if kind <= 1 and changed:
            changed[at] = dice.randrange(256) if kind else dice.choice(b"0129(),.:=\n '\"{}[]-")
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        elif dice.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def _mutated_text(text: str, dice: random.Random) -> str:
    """As `_mutated`, and half of the time a whole line or word instead: these have a chance to stay good."""
    if dice.random() < 0.5:
        return _mutated(text.encode(), dice).decode("utf-8", "replace")
    lines = text.split("\n")
    at = dice.randrange(1, len(lines) - 1)
    change: Callable[[str], list[str]] = dice.choice(
        [
            lambda line: [],
            lambda line: [line, line],
            lambda line: [line, dice.choice(lines[1:])],
            lambda line: [line.replace("1", dice.choice(["0", "1000000", "1000001", "01", "1.5", ""]))],
            lambda line: [" ".join(line.split(" ")[:-1])],
        ]
    )
    lines[at : at + 1] = change(lines[at])
    return "\n".join(lines)


def _npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _hostile_arrays() -> list[bytes]:
    def headed(header: bytes, data: bytes = b"") -> bytes:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data

    def shaped(shape: str) -> bytes:
        return headed(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n".encode())

    shapes = ("(4611686018427387904,)", "(4294967296, 4294967296)", "(99999999999999999999,)", "(-1,)", "(1, 1")
    others = [
        headed(b""),
        headed(b"{"),
        headed(b"{'shape': (1,), 'shape': (1,), 'descr': '<f4'}", b"abcd"),
        headed(b"{'descr': '<f4', 'fortran_order': True, 'shape': (1,)}", b"abcd"),
        headed(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"abcdefgh"),
        b"\x93NUMPY\x01\x00\xff\xff{",
        b"\x93NUMPY",
        _npy(np.zeros(3, np.float64)),
        _npy(np.zeros(3, ">f4")),
        _npy(np.zeros(3, np.float32))[:-1],
        _npy(np.zeros(3, np.float32)) + b"\0",
    ]
    return [shaped(shape) for shape in shapes] + [shaped(f"({', '.join(['1'] * 9)})")] + others


def _onnx(nodes: list[Any], inputs: list[Any], outputs: list[Any], constants: Sequence[Any] = ()) -> bytes:
    onnx = pytest.importorskip("onnx", reason="these models are written with onnx")
    graph = onnx.helper.make_graph(nodes, "test", inputs, outputs, list(constants))
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def _tensor(name: str, type_name: str, shape: list[Any]) -> Any:
    onnx = pytest.importorskip("onnx", reason="these models are written with onnx")
    return onnx.helper.make_tensor_value_info(name, getattr(onnx.TensorProto, type_name), shape)


def _identity(shape: list[Any]) -> bytes:
    onnx = pytest.importorskip("onnx", reason="these models are written with onnx")
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    return _onnx([node], [_tensor("x", "FLOAT", shape)], [_tensor("y", "FLOAT", shape)])


def _many_inputs() -> bytes:
    onnx = pytest.importorskip("onnx", reason="these models are written with onnx")
    types = ("FLOAT", "DOUBLE", "FLOAT16", "INT8", "UINT8", "INT16", "UINT16", "INT32", "UINT32", "INT64", "UINT64")
    names = [*types, "BOOL"]
    nodes = [onnx.helper.make_node("Identity", [f"x{name}"], [f"y{name}"]) for name in names]
    inputs = [_tensor(f"x{name}", name, ["batch", 2]) for name in names]
    return _onnx(nodes, inputs, [_tensor(f"y{name}", name, ["batch", 2]) for name in names])


def _failing() -> bytes:
    """Divides a shape in a way that only shows when it runs: 3 numbers are to become 2 rows."""
    onnx = pytest.importorskip("onnx", reason="these models are written with onnx")
    shape = onnx.numpy_helper.from_array(np.array([2, -1], np.int64), "shape")
    node = onnx.helper.make_node("Reshape", ["x", "shape"], ["y"])
    return _onnx([node], [_tensor("x", "FLOAT", ["batch", 3])], [_tensor("y", "FLOAT", ["a", "b"])], [shape])


def _images(count: int) -> Any:
    return np.random.default_rng(0).standard_normal((count, 4, 8, 8), dtype=np.float32)


def _delegated_model() -> bytes:
    """A residual block, all of which the stand-in computes."""
    stem = Layer(name="stem", unit=conv(4, 8, 8, activation="relu"), inputs=(INPUT,))
    branch = Layer(name="branch", unit=conv(8, 8, 8, activation="none"), inputs=("stem",))
    add = UnitSpec(kind="add", input_shape=(8, 8, 8), output_shape=(8, 8, 8))
    return _written(stem, branch, Layer(name="sum", unit=add, inputs=("stem", "branch")))


def _mixed_model() -> bytes:
    """With an average over padding, which ONNX Runtime does not give to NNAPI."""
    pool = UnitSpec(
        kind="average_pool", input_shape=(8, 8, 8), output_shape=(8, 8, 8), kernel=(3, 3), padding=(1, 1, 1, 1)
    )
    stem = Layer(name="stem", unit=conv(4, 8, 8, activation="relu"), inputs=(INPUT,))
    average = Layer(name="average", unit=pool, inputs=("stem",))
    return _written(stem, average, Layer(name="last", unit=conv(8, 8, 8), inputs=("average",)))


def _written(*layers: Layer) -> bytes:
    spec = NetworkSpec(name="test", input_shape=(4, 8, 8), layers=layers)
    return get("onnx").write(with_random_weights(spec))
