"""The stopwatch of a device that is not this machine: every question becomes a job of the worker there.

Rounds come back as they were timed and are summed up by the same functions as those of this machine (``measure``).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np

from edgekit.devices import Device, DeviceFacts
from edgekit.devices.events import Begin, Cold, Error, Event, Hello, Kernels, Round, State
from edgekit.devices.installation import Installation, read_installation
from edgekit.devices.jobs import Answer, Work, carry_out
from edgekit.errors import BadInputError, DeviceError
from edgekit.files import sha256_bytes
from edgekit.profile.measure import half_or_quiet, summarize_cold, summarize_rounds
from edgekit.profile.stopwatch import Measured, Stopwatch
from edgekit.profile.taint import Verdict, judge
from edgekit.runtimes import FloatArray, Runtime
from edgekit.types import (
    Machine,
    Method,
    Progress,
    ProgressCallback,
    RuntimeOptions,
    Timing,
    ignore_progress,
)

Kind = TypeVar("Kind")

_COLD_ROUNDS = 5
_MOST_ATTEMPTS = 3
_WHOLE = "runs=5 warmup=1 cold=0"
"""How `measure_interleaved` times whole models: short rounds, many of them."""


class DeviceStopwatch(Stopwatch):
    """Times models on ``device``, in the runtime there; ``runtime`` writes them here."""

    def __init__(self, device: Device, runtime: Runtime, options: RuntimeOptions) -> None:
        self.runtime = runtime
        self.threads = options.threads
        self._provider = options.provider
        self._device = device
        self._installation: Installation | None = None
        self._hello: Hello | None = None
        self._facts: DeviceFacts | None = None

    def version(self) -> str:
        """See `Stopwatch.version`."""
        if self._hello is None:
            self._carry_out(("state",), {})
        assert self._hello is not None
        return self._hello.runtime_version

    def machine(self) -> Machine:
        """See `Stopwatch.machine`."""
        facts = self._device.facts()
        (state,) = _only(State, self._carry_out(("state",), {}).events)
        return Machine(
            cpu=facts.cpu,
            cores=facts.cores,
            architecture=facts.architecture,
            kernel=facts.kernel,
            governor=state.governor,
            frequency_mhz=state.frequency_mhz,
            temperature_celsius=state.temperature_celsius,
            load_1min=state.load_1min,
        )

    def measure(self, models: Sequence[bytes], method: Method, cold_count: int = 0) -> Measured:
        """See `Stopwatch.measure`."""
        cold_rounds = _COLD_ROUNDS if cold_count else 0
        settings = f"rounds={method.rounds} runs={method.runs_per_round} warmup={method.warmup_runs} cold={cold_rounds}"
        names, files = _named(models, self.runtime.suffix)
        answer, verdict = self._calm((_timing(settings, names),), files)
        begin, rounds, cold = _timed(answer.events, task=0)
        timings = _spread(names, summarize_rounds(rounds, begin.runs_per_round, method.rounds), begin)
        times = _spread(names, summarize_cold(cold), begin)[:cold_count] if cold else []
        return Measured(tuple(timings), tuple(times), verdict.reasons)

    def measure_blocks(
        self,
        models: Sequence[bytes],
        block_count: int,
        *,
        min_seconds: float = 1.0,
        min_runs: int = 50,
        progress: ProgressCallback = ignore_progress,
    ) -> list[list[Timing]]:
        """See `Stopwatch.measure_blocks`."""
        names, files = _named(models, self.runtime.suffix)
        task = _timing(f"{_WHOLE} min_runs={min_runs} min_seconds={min_seconds:.9f}", names)
        watch = _Watch(progress, block_count * min_seconds * len(set(names)))
        answer, _ = self._calm((task,) * block_count, files, watch)
        blocks = []
        for index in range(block_count):
            begin, rounds, _ = _timed(answer.events, index)
            timings = summarize_rounds(rounds, begin.runs_per_round, half_or_quiet(rounds))
            blocks.append(_spread(names, timings, begin))
        return blocks

    def kernels(self, model: bytes) -> tuple[str, ...]:
        """See `Stopwatch.kernels`."""
        (name,), files = _named([model], self.runtime.suffix)
        (found,) = _only(Kernels, self._carry_out((f"kernels {name}",), files).events)
        return found.kernels

    def placement(self, model: bytes) -> dict[str, tuple[str, ...]]:
        """Names of the nodes by the provider that runs them. Raises DeviceError when a provider other than the CPU was
        asked for and runs none."""
        (name,), files = _named([model], self.runtime.suffix)
        (found,) = _only(Kernels, self._carry_out((f"kernels {name}",), files).events)
        providers = dict.fromkeys(node.provider for node in found.nodes)
        return {
            provider: tuple(node.name or node.operator for node in found.nodes if node.provider == provider)
            for provider in providers
        }

    def run(self, model: bytes, samples: FloatArray) -> FloatArray:
        """See `Stopwatch.run`."""
        (name,), files = _named([model], self.runtime.suffix)
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(samples, dtype=np.float32), allow_pickle=False)
        work = f"run {name} input.npy output.npy"
        answer = self._carry_out((work,), {**files, "input.npy": stream.getvalue()}, outputs=("output.npy",))
        return _array(answer.outputs["output.npy"], len(samples), self._device.name)

    def close(self) -> None:
        """See `Stopwatch.close`."""
        self._device.close()

    def _calm(
        self, tasks: tuple[str, ...], files: dict[str, bytes], watch: _Watcher | None = None
    ) -> tuple[Answer, Verdict]:
        """The answer to work of timing, and what the device's state says about it. Times that no state can vouch for (a
        device that was started anew in between) are dropped and taken again."""
        for _ in range(_MOST_ATTEMPTS):
            answer = self._carry_out(tasks, files, watch)
            states = _only(State, answer.events)
            verdict = judge(states[0], states[-1], cores=self._cores(), threads=self.threads)
            if verdict.is_usable:
                return answer, verdict
        raise DeviceError(
            f"{self._device.name}: no measurement could be used: {'; '.join(verdict.reasons)}",
            f"see what disturbs it: edgekit target check {self._device.name}",
        )

    def _cores(self) -> int:
        if self._facts is None:
            self._facts = self._device.facts()
        return self._facts.cores

    def _carry_out(
        self,
        tasks: tuple[str, ...],
        files: dict[str, bytes],
        watch: _Watcher | None = None,
        outputs: tuple[str, ...] = (),
    ) -> Answer:
        if self._installation is None:
            self._installation = read_installation(self._device)
        work = Work(self.runtime.name, tasks, files, self._provider, self.threads, outputs)
        answer = carry_out(self._device, self._installation, work, watch=watch or _look_away)
        self._hello = next((event for event in answer.events if isinstance(event, Hello)), self._hello)
        for error in answer.errors():
            raise _raised(error, self._device.name)
        return answer


class _Watcher(Protocol):
    def __call__(self, events: Sequence[Event]) -> None: ...


def _look_away(_: Sequence[Event]) -> None:
    """Where nobody watches."""


class _Watch:
    """Tells how much of the wanted time has been timed."""

    def __init__(self, progress: ProgressCallback, wanted_seconds: float) -> None:
        self._progress = progress
        self._wanted_ns = max(1.0, wanted_seconds * 1e9)
        self._timed_ns = 0

    def __call__(self, events: Sequence[Event]) -> None:
        self._timed_ns += sum(sum(event.total_ns) for event in events if isinstance(event, Round))
        self._progress(Progress(stage="measure", done=min(1.0, self._timed_ns / self._wanted_ns), total=1.0))


def _named(models: Sequence[bytes], suffix: str) -> tuple[list[str], dict[str, bytes]]:
    """A file name for each model, the same for the same content, and the files."""
    names = [sha256_bytes(model)[:32] + suffix for model in models]
    return names, dict(zip(names, models, strict=True))


def _timing(settings: str, names: Sequence[str]) -> str:
    return "\n".join((f"time {settings}", *(f"model {name}" for name in dict.fromkeys(names))))


def _spread(names: Sequence[str], timings: Sequence[Timing], begin: Begin) -> list[Timing]:
    """A timing for every model that was given, also for those given twice and timed once."""
    found = dict(zip(begin.models, timings, strict=True))
    return [found[name] for name in names]


def _timed(events: Sequence[Event], task: int) -> tuple[Begin, list[tuple[int, ...]], list[tuple[int, ...]]]:
    begin = next(event for event in _only(Begin, events) if event.task == task)
    rounds = [event.fastest_ns for event in _only(Round, events) if event.task == task]
    cold = [event.ns for event in _only(Cold, events) if event.task == task]
    return begin, rounds, cold


def _only(kind: type[Kind], events: Sequence[Event]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


def _raised(error: Error, device: str) -> BadInputError | DeviceError:
    if error.code in ("load_failed", "run_failed"):
        return BadInputError(f"{device}: {error.message}")
    hints = {
        "no_runtime": f"install it: edgekit target setup {device}",
        "no_provider": "choose another provider in the target file",
        "not_delegated": 'its times would be those of the CPU: choose provider = "cpu", or another model',
    }
    return DeviceError(f"{device}: {error.message}", hints.get(error.code))


def _array(content: bytes, count: int, device: str) -> FloatArray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DeviceError(f"{device}: the results cannot be read: {error}") from error
    if array.dtype != np.float32 or not array.ndim or len(array) != count:
        raise DeviceError(f"{device}: {count} results are needed, and an array {array.shape} of {array.dtype} came")
    return np.asarray(array, dtype=np.float32)
