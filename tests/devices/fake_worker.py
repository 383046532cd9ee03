"""A worker for `FakeMachine`: it reads job files as the real one does, and each run of a model takes an exact time.

What each model costs is told by its content; what goes wrong is told by the test.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from edgekit.devices.fake import ProgramError
from edgekit.devices.installation import Installation
from edgekit.devices.worker import (
    KernelsTask,
    RunTask,
    TimeTask,
    Trial,
    WorkerError,
    parse_job,
    quiet_rounds,
    rounds_until,
)
from tests.profile.clock import Clock

INSTALLATION = Installation(argv=("worker",))
STATE: dict[str, Any] = {"governor": "performance", "load_1min": 0.0, "boot_id": "boot-1", "monotonic_ns": 1}

Node = dict[str, str]


def steady(microseconds: float) -> Callable[[int], int]:
    """The duration of a model's n-th run that is always the same, in ns."""
    return lambda _: int(microseconds * 1000)


def node(operator: str, provider: str = "CPUExecutionProvider") -> Node:
    return {"name": f"{operator}_0", "operator": operator, "provider": provider}


class FakeWorker:
    """The program. ``durations_ns`` gives the duration of the n-th run of a model by its content, ``nodes`` its nodes;
    ``states`` are what it tells of the machine, one after the other, the last again and again."""

    def __init__(
        self,
        durations_ns: Mapping[bytes, Callable[[int], int]] | None = None,
        *,
        nodes: Mapping[bytes, Sequence[Node]] | None = None,
        states: Sequence[Mapping[str, Any]] = ({},),
    ) -> None:
        self.durations_ns = dict(durations_ns or {})
        self.nodes = dict(nodes or {})
        self.states = [dict(state) for state in states]
        self.job_texts: list[str] = []
        """Every job that was started."""

    def __call__(self, argv: Sequence[str], files: dict[str, bytes], environment: Mapping[str, str]) -> Iterator[bytes]:
        text = files[argv[-1]].decode()
        self.job_texts.append(text)
        for event in self._work(text, files):
            yield json.dumps(event).encode() + b"\n"

    @property
    def tasks(self) -> list[str]:
        """First words of the tasks of all jobs, in order."""
        words = [line.split()[0] for text in self.job_texts for line in text.splitlines()]
        return [word for word in words if word in ("time", "kernels", "run", "state")]

    def _work(self, text: str, files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
        job = parse_job(text)
        yield self.hello(job.runtime)
        failed = False
        for index, task in enumerate(job.tasks):
            try:
                if isinstance(task, TimeTask):
                    yield from self._time(index, task, files)
                elif isinstance(task, KernelsTask):
                    yield from self._name_kernels(index, task, files, job.provider)
                elif isinstance(task, RunTask):
                    yield from self._run(index, task, files)
                else:
                    yield self._state()
            except WorkerError as error:
                failed = True
                yield {"event": "error", "task": index, "code": error.code, "model": error.model, "message": str(error)}
        yield {"event": "done"}
        if failed:
            raise ProgramError(1)

    def hello(self, runtime: str) -> dict[str, Any]:
        return {
            "event": "hello",
            "worker": "python",
            "version": 1,
            "runtime": runtime,
            "runtime_version": "exact 1.0",
            "boot_id": "boot-1",
        }

    def _state(self) -> dict[str, Any]:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return {"event": "state", **STATE, **state}

    def _time(self, index: int, task: TimeTask, files: Mapping[str, bytes]) -> Iterator[dict[str, Any]]:
        clock = Clock()
        invokes = [self._invoke(clock, model, files) for model in task.models]
        yield self._state()
        trials = [Trial(invoke, task.runs, task.warmup, clock) for invoke in invokes]
        counts = [trial.runs_per_round for trial in trials]
        yield {"event": "begin", "task": index, "models": list(task.models), "runs_per_round": counts}
        if task.min_runs or task.min_seconds:
            rounds = rounds_until(trials, task.min_runs, task.min_seconds)
        else:
            rounds = quiet_rounds(trials, task.rounds, task.repetitions)
        for found in rounds:
            yield {"event": "round", "task": index, **found._asdict()}
        for _ in range(task.cold):
            yield {"event": "cold", "task": index, "ns": [_timed(invoke, clock) for invoke in invokes]}
        yield {"event": "end", "task": index}
        yield self._state()

    def _invoke(self, clock: Clock, model: str, files: Mapping[str, bytes]) -> Callable[[], None]:
        if files[model] not in self.durations_ns:
            raise WorkerError("load_failed", "this is no model", model)
        duration_ns, runs = self.durations_ns[files[model]], iter(range(10**9))

        def invoke() -> None:
            clock.now_ns += duration_ns(next(runs))

        return invoke

    def _name_kernels(
        self, index: int, task: KernelsTask, files: Mapping[str, bytes], provider: str
    ) -> Iterator[dict[str, Any]]:
        nodes = self.nodes.get(files[task.model], ())
        names = [f"{node['operator']}[float]" for node in nodes]
        yield {"event": "kernels", "task": index, "model": task.model, "kernels": names, "nodes": list(nodes)}
        if provider != "cpu" and not any(node["provider"] != "CPUExecutionProvider" for node in nodes):
            raise WorkerError("not_delegated", "nothing was taken over", task.model)

    def _run(self, index: int, task: RunTask, files: dict[str, bytes]) -> Iterator[dict[str, Any]]:
        samples = np.load(io.BytesIO(files[task.input]))
        stream = io.BytesIO()
        np.save(stream, 2 * samples)
        files[task.output] = stream.getvalue()
        yield {"event": "output", "task": index, "model": task.model, "file": task.output, "samples": len(samples)}


def _timed(invoke: Callable[[], None], clock: Clock) -> int:
    start = clock()
    invoke()
    return clock() - start
