"""What every worker must do (docs/jobs.md); one passes by inheriting `WorkerConformance` and saying how it starts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekit.devices.events import State, parse_events
from edgekit.devices.worker import quiet_count
from edgekit.profile.frame import framed, plausible_ranges, with_random_weights
from edgekit.runtimes import FloatArray, get
from edgekit.types import NumberFormat, RuntimeName
from tests.profile.networks import conv

DEADLINE_SECONDS = 60.0
_QUICK = "time rounds=1 runs=2 warmup=0 repetitions=1 cold=0"

BAD_JOBS = {
    "an empty file": "",
    "another first line": "edgekit-job 2\nruntime onnx\nstate\n",
    "a first line with more behind it": "edgekit-job 1 \nruntime onnx\nstate\n",
    "no runtime": "edgekit-job 1\nstate\n",
    "no task": "edgekit-job 1\nruntime onnx\n",
    "no newline at the end": "edgekit-job 1\nruntime onnx\nstate",
    "an empty line": "edgekit-job 1\nruntime onnx\n\nstate\n",
    "carriage returns": "edgekit-job 1\r\nruntime onnx\r\nstate\r\n",
    "an unknown key": "edgekit-job 1\nruntime onnx\npriority 3\nstate\n",
    "an unknown runtime": "edgekit-job 1\nruntime torch\nstate\n",
    "an unknown provider": "edgekit-job 1\nruntime onnx\nprovider cuda\nstate\n",
    "a setting given twice": "edgekit-job 1\nruntime onnx\nruntime onnx\nstate\n",
    "a setting behind a task": "edgekit-job 1\nruntime onnx\nstate\nthreads 2\n",
    "no threads": "edgekit-job 1\nruntime onnx\nthreads 0\nstate\n",
    "too many threads": "edgekit-job 1\nruntime onnx\nthreads 1025\nstate\n",
    "threads in words": "edgekit-job 1\nruntime onnx\nthreads two\nstate\n",
    "a value too many": "edgekit-job 1\nruntime onnx\nstate now\n",
    "a value too few": "edgekit-job 1\nruntime onnx\nrun a.onnx in.npy\n",
    "two spaces": "edgekit-job 1\nruntime  onnx\nstate\n",
    "time without a model": "edgekit-job 1\nruntime onnx\ntime\nstate\n",
    "time without a model at the end": "edgekit-job 1\nruntime onnx\nstate\ntime rounds=3\n",
    "a model without time": "edgekit-job 1\nruntime onnx\nmodel a.onnx\nstate\n",
    "a model behind another task": "edgekit-job 1\nruntime onnx\ntime\nmodel a.onnx\nstate\nmodel a.onnx\n",
    "an unknown parameter": "edgekit-job 1\nruntime onnx\ntime laps=3\nmodel a.onnx\n",
    "a parameter given twice": "edgekit-job 1\nruntime onnx\ntime cold=1 cold=1\nmodel a.onnx\n",
    "a parameter without a value": "edgekit-job 1\nruntime onnx\ntime rounds\nmodel a.onnx\n",
    "no rounds": "edgekit-job 1\nruntime onnx\ntime rounds=0\nmodel a.onnx\n",
    "negative runs": "edgekit-job 1\nruntime onnx\ntime runs=-1\nmodel a.onnx\n",
    "a signed number": "edgekit-job 1\nruntime onnx\ntime runs=+1\nmodel a.onnx\n",
    "a number with a fraction": "edgekit-job 1\nruntime onnx\ntime runs=1.5\nmodel a.onnx\n",
    "too many rounds": "edgekit-job 1\nruntime onnx\ntime rounds=1000001\nmodel a.onnx\n",
    "a number beyond 64 bits": "edgekit-job 1\nruntime onnx\ntime rounds=18446744073709551617\nmodel a.onnx\n",
    "digits of another script": "edgekit-job 1\nruntime onnx\ntime rounds=٣\nmodel a.onnx\n",
    "infinite seconds": "edgekit-job 1\nruntime onnx\ntime min_seconds=inf\nmodel a.onnx\n",
    "not a number of seconds": "edgekit-job 1\nruntime onnx\ntime min_seconds=nan\nmodel a.onnx\n",
    "seconds with an exponent": "edgekit-job 1\nruntime onnx\ntime min_seconds=1e3\nmodel a.onnx\n",
    "over a day": "edgekit-job 1\nruntime onnx\ntime min_seconds=86400.5\nmodel a.onnx\n",
    "a path": "edgekit-job 1\nruntime onnx\nkernels models/a.onnx\n",
    "an absolute path": "edgekit-job 1\nruntime onnx\nkernels /etc/passwd\n",
    "a path upwards": "edgekit-job 1\nruntime onnx\nrun a.onnx in.npy ../out.npy\n",
    "the folder above": "edgekit-job 1\nruntime onnx\nrun a.onnx in.npy ..\n",
    "a hidden file": "edgekit-job 1\nruntime onnx\nkernels .a.onnx\n",
    "a name like an option": "edgekit-job 1\nruntime onnx\nkernels -a.onnx\n",
    "a name that a shell would run": "edgekit-job 1\nruntime onnx\nkernels $(id).onnx\n",
    "a name with a quote": "edgekit-job 1\nruntime onnx\nkernels a'.onnx\n",
    "a name with an umlaut": "edgekit-job 1\nruntime onnx\nkernels ä.onnx\n",
    "a name that is too long": f"edgekit-job 1\nruntime onnx\nkernels {'a' * 129}\n",
    "a NUL byte": "edgekit-job 1\nruntime onnx\nkernels a\0.onnx\n",
    "a library elsewhere": "edgekit-job 1\nruntime onnx\nlibrary /tmp/evil.so\nstate\n",
    "over a mebibyte": "edgekit-job 1\nruntime onnx\n" + "state\n" * 180_000,
}


@dataclass(frozen=True)
class Answer:
    """What a worker wrote, and how it ended."""

    exit_code: int
    events: list[dict[str, Any]]
    stderr: str

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def errors(self) -> list[tuple[int | None, str]]:
        return [(event["task"], event["code"]) for event in self.of("error")]


@cache
def model_bytes(runtime: RuntimeName, number_format: NumberFormat = "fp32", channels: int = 8) -> bytes:
    """A convolution behind a stem, of a few microseconds."""
    spec = framed(conv(channels, 8, channels).in_format(number_format))
    ranges = plausible_ranges(spec) if number_format == "int8" else None
    return get(runtime).write(with_random_weights(spec), number_format, ranges)


def samples(runtime: RuntimeName, count: int, seed: int = 1) -> FloatArray:
    """Samples that `model_bytes` takes."""
    shape = get(runtime).load(model_bytes(runtime)).input_shape[1:]
    return np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32)


class TaskConformance:
    """Tasks as one runtime carries them out. An implementation says how it is started and, where it needs them, its
    settings and files."""

    runtime: RuntimeName = "onnx"
    absent_provider = "nnapi"
    """A provider that this runtime does not have on the machine of the tests."""

    def command_line(self) -> Sequence[str]:
        """What starts the worker; the name of the job file is appended."""
        raise NotImplementedError

    def settings(self) -> Sequence[str]:
        """Further lines of each job, such as ``library``."""
        return ()

    def files(self) -> Mapping[str, Path]:
        """Further files of each job, by the names that they have there."""
        return {}

    def environment(self) -> Mapping[str, str]:
        return {}

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """A job's folder with an fp32 model ``a``, an int8 model ``b`` and three samples."""
        (tmp_path / "a").write_bytes(model_bytes(self.runtime))
        (tmp_path / "b").write_bytes(model_bytes(self.runtime, "int8"))
        np.save(tmp_path / "in.npy", samples(self.runtime, 3))
        for name, source in self.files().items():
            (tmp_path / name).symlink_to(source)
        return tmp_path

    def write_job(self, folder: Path, *lines: str) -> None:
        head = ("edgekit-job 1", f"runtime {self.runtime}", *self.settings())
        (folder / "job.txt").write_text("".join(f"{line}\n" for line in (*head, *lines)))

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*self.command_line(), "job.txt"],
            cwd=folder,
            env={**os.environ, **self.environment()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # What is read line by line must leave the rest to `communicate`.
            bufsize=0,
        )

    def finish(self, process: subprocess.Popen[bytes]) -> Answer:
        try:
            stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
        lines = stdout.decode("utf-8").splitlines()
        return Answer(process.returncode, [json.loads(line) for line in lines], stderr.decode("utf-8", "replace"))

    def work(self, folder: Path, *lines: str) -> Answer:
        self.write_job(folder, *lines)
        return self.finish(self.start(folder))

    def test_a_whole_job_tells_its_events_in_order(self, folder: Path) -> None:
        answer = self.work(
            folder,
            "threads 1",
            "time rounds=1 runs=2 warmup=1 repetitions=1 cold=1",
            "model a",
            "kernels a",
            "run a in.npy out.npy",
            "state",
        )

        kinds = [event["event"] for event in answer.events]
        timed = ["state", "begin", "round", "cold", "end", "state"]
        assert kinds == ["hello", *timed, "kernels", "output", "state", "done"], answer.stderr
        assert answer.exit_code == 0

    def test_tasks_are_numbered(self, folder: Path) -> None:
        answer = self.work(folder, "state", "kernels a", _QUICK, "model a", "run a in.npy out.npy")

        assert [event["task"] for event in answer.events if "task" in event] == [1, 2, 2, 2, 3]

    def test_hello_names_worker_runtime_and_machine(self, folder: Path) -> None:
        hello = self.work(folder, "state").events[0]

        assert hello["event"] == "hello" and hello["version"] == 1 and hello["worker"] in ("python", "c")
        assert hello["runtime"] == self.runtime and hello["runtime_version"].split()[-1][0].isdigit()
        assert hello["architecture"] == os.uname().machine and hello["pid"] > 1
        assert hello["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()

    def test_a_state_is_one_that_the_host_believes(self, folder: Path) -> None:
        (event,) = self.work(folder, "state").of("state")

        (state,) = parse_events([json.dumps(event).encode()], "this machine")
        assert isinstance(state, State)
        assert state.monotonic_ns > 0 and state.boot_id != "unknown"
        assert set(event) >= {"event", *state.__struct_fields__}

    def test_every_model_has_a_time_in_each_round(self, folder: Path) -> None:
        answer = self.work(folder, "time rounds=3 runs=4 warmup=1 repetitions=2 cold=2", "model a", "model b")

        (begin,) = answer.of("begin")
        assert begin["models"] == ["a", "b"] and begin["runs_per_round"] == [4, 4]
        for found in answer.of("round"):
            for fastest, total in zip(found["fastest_ns"], found["total_ns"], strict=True):
                assert isinstance(fastest, int) and isinstance(total, int) and 0 < 4 * fastest <= total
        assert [len(found["ns"]) for found in answer.of("cold")] == [2, 2]
        assert all(ns > 0 for found in answer.of("cold") for ns in found["ns"])

    def test_rounds_end_when_enough_are_quiet(self, folder: Path) -> None:
        answer = self.work(folder, "time rounds=4 runs=3 warmup=1 repetitions=5 cold=0", "model a", "model b")

        rounds = [found["fastest_ns"] for found in answer.of("round")]
        assert all(quiet_count(rounds[:count]) < 4 for count in range(1, len(rounds)))
        assert quiet_count(rounds) >= 4 or len(rounds) == 20

    def test_rounds_go_on_until_every_model_has_its_runs_and_seconds(self, folder: Path) -> None:
        answer = self.work(folder, "time runs=5 warmup=0 min_runs=12 min_seconds=0.01 cold=0", "model a", "model b")

        totals = np.array([found["total_ns"] for found in answer.of("round")]).cumsum(axis=0)
        is_enough = [(count + 1) * 5 >= 12 and total.min() >= 10_000_000 for count, total in enumerate(totals)]
        assert is_enough == [False] * (len(totals) - 1) + [True]

    def test_a_single_run_is_enough_to_end(self, folder: Path) -> None:
        answer = self.work(folder, "time runs=5 min_runs=1 cold=0", "model a")

        assert len(answer.of("round")) == 1

    def test_a_round_does_not_take_long_however_many_runs_are_wanted(self, folder: Path) -> None:
        answer = self.work(folder, "time rounds=1 runs=1000000 warmup=1000000 repetitions=1 cold=0", "model a")

        (begin,), (found,) = answer.of("begin"), answer.of("round")
        assert 3 <= begin["runs_per_round"][0] < 1_000_000
        # Five times what is allowed, because the run that decides may have been quicker than all that follow.
        assert begin["runs_per_round"][0] * found["fastest_ns"][0] <= 5 * 20_000_000

    @pytest.mark.parametrize("threads", [1, 2])
    @pytest.mark.parametrize("name", ["a", "b"])
    def test_kernels_are_those_that_edgekit_names(self, folder: Path, name: str, threads: int) -> None:
        answer = self.work(folder, f"threads {threads}", f"kernels {name}")

        (found,) = answer.of("kernels")
        expected = get(self.runtime).load((folder / name).read_bytes(), threads).kernels()
        assert tuple(found["kernels"]) == expected
        assert [node["operator"] for node in found["nodes"]] == [
            kernel.split(":")[-1].split("[")[0] for kernel in expected
        ]

    def test_every_node_names_its_provider(self, folder: Path) -> None:
        answer = self.work(folder, "kernels b")

        known = {"CPUExecutionProvider"} if self.runtime == "onnx" else {"xnnpack", "builtin"}
        assert {node["provider"] for node in answer.of("kernels")[0]["nodes"]} <= known

    @pytest.mark.parametrize("name", ["a", "b"])
    def test_results_are_those_of_edgekit(self, folder: Path, name: str) -> None:
        answer = self.work(folder, f"run {name} in.npy out.npy")

        assert answer.of("output") == [
            {"event": "output", "task": 0, "model": name, "file": "out.npy", "samples": 3}
        ], answer.events
        result = np.load(folder / "out.npy", allow_pickle=False)
        expected = get(self.runtime).load((folder / name).read_bytes()).run(np.load(folder / "in.npy"))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)

    def test_results_of_one_model_can_be_the_input_of_another_task(self, folder: Path) -> None:
        answer = self.work(folder, "run a in.npy first.npy", "run a in.npy second.npy")

        assert (folder / "first.npy").read_bytes() == (folder / "second.npy").read_bytes()
        assert answer.exit_code == 0

    def test_a_job_leaves_nothing_but_its_output(self, folder: Path) -> None:
        before = {path.name for path in folder.iterdir()} | {"job.txt", "out.npy"}

        self.work(folder, _QUICK, "model a", "kernels a", "run a in.npy out.npy")

        assert {path.name for path in folder.iterdir()} == before

    @pytest.mark.parametrize("content", [None, b"", b"no model at all", "cut"], ids=["missing", "empty", "text", "cut"])
    def test_a_broken_model_is_told_and_the_next_task_goes_on(self, folder: Path, content: bytes | str | None) -> None:
        if content is not None:
            whole = (folder / "a").read_bytes()
            (folder / "bad").write_bytes(content if isinstance(content, bytes) else whole[: len(whole) // 2])

        answer = self.work(folder, _QUICK, "model a", "model bad", "kernels bad", "run bad in.npy out.npy", "state")

        assert [event["event"] for event in answer.events] == ["hello", *["error"] * 3, "state", "done"], answer.stderr
        assert answer.errors() == [(0, "load_failed"), (1, "load_failed"), (2, "load_failed")]
        assert answer.exit_code == 1

    def test_an_error_names_the_model_in_one_line(self, folder: Path) -> None:
        (error,) = self.work(folder, "kernels missing").of("error")

        assert error["model"] == "missing" and error["message"] and "\n" not in error["message"]

    def test_samples_that_do_not_fit_fail_their_run_alone(self, folder: Path) -> None:
        shape = samples(self.runtime, 2).shape
        np.save(folder / "0.npy", np.zeros((2, 3), np.float32))
        np.save(folder / "1.npy", np.zeros(shape, np.float64))
        np.save(folder / "2.npy", np.zeros((*shape[:-1], shape[-1] + 1), np.float32))
        np.save(folder / "3.npy", np.zeros((0, *shape[1:]), np.float32))

        answer = self.work(folder, *(f"run a {index}.npy out.npy" for index in range(4)), "run a in.npy good.npy")

        assert answer.errors() == [(index, "run_failed") for index in range(4)]
        assert (folder / "good.npy").exists() and not (folder / "out.npy").exists()

    def test_a_file_that_is_no_array_fails_its_run_alone(self, folder: Path) -> None:
        contents = (
            b"",
            b"\x93NUMPY",
            b"\x93NUMPY\x01\x00\xff\xff{",
            b"PK\x03\x04",
            (folder / "in.npy").read_bytes()[:-1],
        )
        for index, content in enumerate(contents):
            (folder / f"{index}.npy").write_bytes(content)

        answer = self.work(folder, *(f"run a {index}.npy out.npy" for index in range(6)), "run a in.npy good.npy")

        assert answer.errors() == [(index, "run_failed") for index in range(6)]
        assert (folder / "good.npy").exists() and not (folder / "out.npy").exists()

    def test_a_provider_that_is_absent_ends_the_job(self, folder: Path) -> None:
        answer = self.work(folder, f"provider {self.absent_provider}", "kernels a", "state")

        assert [event["event"] for event in answer.events] == ["hello", "error", "done"]
        assert answer.errors() == [(None, "no_provider")] and answer.exit_code == 1

    def test_lines_come_while_the_job_runs_and_sigterm_ends_it(self, folder: Path) -> None:
        self.write_job(folder, "time runs=5 min_seconds=600", "model a")
        process = self.start(folder)
        assert process.stdout is not None
        try:
            kinds = [json.loads(process.stdout.readline())["event"] for _ in range(5)]
            stopped_at = time.monotonic()
            process.send_signal(signal.SIGTERM)
            answer = self.finish(process)
        finally:
            process.kill()

        assert kinds == ["hello", "state", "begin", "round", "round"]
        assert time.monotonic() - stopped_at < 5 and answer.exit_code != 0
        assert {"event": "done"} not in answer.events


class WorkerConformance(TaskConformance):
    """The whole suite: tasks, and what is no job at all, which is the same for every runtime of a worker."""

    @pytest.mark.parametrize("text", BAD_JOBS.values(), ids=BAD_JOBS.keys())
    def test_a_bad_job_is_refused_before_anything_is_done(self, folder: Path, text: str) -> None:
        before = sorted(path.name for path in folder.iterdir())
        (folder / "job.txt").write_bytes(text.encode("utf-8"))

        answer = self.finish(self.start(folder))

        assert answer.exit_code == 2
        assert [(event["event"], event["code"], event["task"]) for event in answer.events] == [
            ("error", "bad_job", None)
        ], answer.stderr
        assert sorted(path.name for path in folder.iterdir()) == sorted([*before, "job.txt"])

    def test_a_bad_job_names_the_line(self, folder: Path) -> None:
        (folder / "job.txt").write_text("edgekit-job 1\nruntime onnx\nstate\nkernels a/b\n")

        answer = self.finish(self.start(folder))

        assert "line 4" in answer.events[0]["message"]

    def test_bytes_that_are_no_text_are_a_bad_job(self, folder: Path) -> None:
        (folder / "job.txt").write_bytes(b"edgekit-job 1\nruntime onnx\nkernels \xff\xfe\n")

        assert self.finish(self.start(folder)).exit_code == 2

    def test_a_job_file_that_is_missing_is_a_bad_job(self, folder: Path) -> None:
        assert self.finish(self.start(folder)).exit_code == 2
