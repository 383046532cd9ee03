"""The C worker's parts as Python sees them: built as a library, with the layouts of its structures."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable, Sequence
from ctypes import POINTER, c_bool, c_char, c_char_p, c_double, c_int, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path
from typing import Any

import pytest

from edgekit.devices.native_worker import source_folder
from edgekit.devices.worker import Job, KernelsTask, RunTask, StateTask, TimeTask

SANITIZERS = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer")
TIME_FIELDS = ("rounds", "runs", "warmup", "repetitions", "min_runs", "cold")


class TimeSettings(ctypes.Structure):
    _fields_ = [*((name, c_uint64) for name in TIME_FIELDS), ("min_seconds", c_double)]


class CTask(ctypes.Structure):
    _fields_ = [
        ("kind", c_int),
        ("time", TimeSettings),
        ("models", POINTER(c_char_p)),
        ("model_count", c_size_t),
        ("input", c_char_p),
        ("output", c_char_p),
    ]


class CJob(ctypes.Structure):
    _fields_ = [
        ("runtime", c_char_p),
        ("provider", c_char_p),
        ("library", c_char_p),
        ("threads", c_uint64),
        ("tasks", POINTER(CTask)),
        ("task_count", c_size_t),
        ("text", c_void_p),
        ("names", c_void_p),
    ]


class JobError(ctypes.Structure):
    _fields_ = [("line", c_size_t), ("message", c_char * 256)]


class CState(ctypes.Structure):
    _fields_ = [
        ("governor", c_char * 64),
        ("boot_id", c_char * 64),
        ("throttled", c_char * 64),
        ("frequency_mhz", c_double),
        ("max_frequency_mhz", c_double),
        ("load_1min", c_double),
        ("temperature_celsius", c_double),
        ("has_temperature", c_bool),
        ("thermal_status", c_int),
        ("monotonic_ns", c_int64),
    ]


Invoke = ctypes.CFUNCTYPE(c_bool, c_void_p, c_size_t)
NowNs = ctypes.CFUNCTYPE(c_int64, c_void_p)
Begin = ctypes.CFUNCTYPE(None, c_void_p, POINTER(c_uint64))
TellRound = ctypes.CFUNCTYPE(None, c_void_p, POINTER(c_int64), POINTER(c_int64))
TellCold = ctypes.CFUNCTYPE(None, c_void_p, POINTER(c_int64))


class CTiming(ctypes.Structure):
    _fields_ = [
        ("context", c_void_p),
        ("models", c_size_t),
        ("invoke", Invoke),
        ("now_ns", NowNs),
        ("begin", Begin),
        ("round", TellRound),
        ("cold", TellCold),
    ]


class Parts:
    """The worker's functions."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        for name in ("job_parse", "timing_carry_out"):
            getattr(self._library, name).restype = c_bool
        self._library.timing_quiet_count.restype = c_size_t

    def parse_job(self, text: bytes) -> Job | str:
        """The job in the terms of the Python worker, or what is wrong with it."""
        job, error = CJob(), JobError()
        good = self._library.job_parse(text, c_size_t(len(text)), ctypes.byref(job), ctypes.byref(error))
        try:
            return _to_job(job) if good else f"line {error.line}: {error.message.decode()}"
        finally:
            self._library.job_free(ctypes.byref(job))

    def quiet_count(self, fastest_ns: Sequence[Sequence[int]]) -> int:
        flat = [ns for times in fastest_ns for ns in times]
        array = (c_int64 * len(flat))(*flat)
        return int(self._library.timing_quiet_count(array, c_size_t(len(fastest_ns)), c_size_t(len(fastest_ns[0]))))

    def state(self, root: Path) -> CState:
        found = CState()
        self._library.state_read(str(root).encode(), ctypes.byref(found))
        return found

    def time(
        self, task: TimeTask, models: int, invoke: Callable[[int], bool], clock: Callable[[], int]
    ) -> tuple[list[list[int]], list[Any], list[list[int]], int | None]:
        """Runs of a round, rounds (fastest and total), cold rounds, and the model that failed."""
        runs: list[list[int]] = []
        rounds: list[Any] = []
        cold: list[list[int]] = []
        timing = CTiming(
            None,
            models,
            Invoke(lambda _, model: invoke(model)),
            NowNs(lambda _: clock()),
            Begin(lambda _, counts: runs.append(counts[:models])),
            TellRound(lambda _, fastest, total: rounds.append((fastest[:models], total[:models]))),
            TellCold(lambda _, ns: cold.append(ns[:models])),
        )
        settings = TimeSettings(*(getattr(task, name) for name in TIME_FIELDS), task.min_seconds)
        failed = c_size_t()
        done = self._library.timing_carry_out(ctypes.byref(timing), ctypes.byref(settings), ctypes.byref(failed))
        return runs, rounds, cold, None if done else failed.value


def build_parts(folder: Path) -> Parts:
    """Everything but ``main`` as a library."""
    sources = [str(path) for path in sorted(source_folder().glob("*.c")) if path.name != "main.c"]
    compile_worker(folder / "parts.so", ["-O2", "-shared", "-fPIC", *sources])
    return Parts(folder / "parts.so")


def compile_worker(output: Path, arguments: Sequence[str]) -> None:
    """Run the C compiler with the worker's own warnings; skips the test where there is none."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (cc) to build the worker with")
    flags = ("-std=c11", "-D_POSIX_C_SOURCE=200809L", "-Wall", "-Wextra", "-Wpedantic", "-Werror")
    command = [compiler, *flags, f"-I{source_folder()}", "-o", str(output), *arguments, "-ldl"]
    completed = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert completed.returncode == 0, completed.stderr


def _to_job(job: CJob) -> Job:
    tasks = tuple(_to_task(job.tasks[index]) for index in range(job.task_count))
    return Job(job.runtime.decode(), job.provider.decode(), job.threads, tasks)


def _to_task(task: CTask) -> Any:
    models = tuple(name.decode() for name in task.models[: task.model_count])
    if task.kind == 0:
        numbers = {name: getattr(task.time, name) for name in TIME_FIELDS}
        return TimeTask(**numbers, min_seconds=task.time.min_seconds, models=models)
    if task.kind == 1:
        return KernelsTask(models[0])
    return RunTask(models[0], task.input.decode(), task.output.decode()) if task.kind == 2 else StateTask()
