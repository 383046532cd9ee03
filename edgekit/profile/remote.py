"""The stopwatch of a device that is not this machine: every question becomes a job of the worker there.

Rounds come back as they were timed and are summed up by the same functions as those of this machine (``measure``).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TypeVar

import numpy as np

from edgekit.devices import Device, DeviceFacts
from edgekit.devices.events import Begin, Cold, Error, Event, Hello, Kernels, Round, State
from edgekit.devices.installation import Installation, read_installation
from edgekit.devices.jobs import Answer, Work, carry_out, pushed_name, reach
from edgekit.errors import BadInputError, DeviceError, EdgekitError, LinkLostError
from edgekit.profile.measure import half_or_quiet, summarize_cold, summarize_rounds
from edgekit.profile.stopwatch import Measured, Stopwatch
from edgekit.profile.taint import judge
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

KEPT_BYTES = 256 * 2**20
"""Most that a stopwatch leaves on the device for jobs to come while it is open, where the target sets no limit."""

Kind = TypeVar("Kind")
Watcher = Callable[[Sequence[Event]], None]

_COLD_ROUNDS = 5
_MOST_ATTEMPTS = 3
_WHOLE = "runs=5 warmup=1 cold=0"
"""How `measure_interleaved` times whole models: short rounds, many of them."""
_LOAD_SECONDS = 60.0
"""How long work is seen in the load average of a minute."""
_CPU = "CPUExecutionProvider"
_PROVIDERS = {_CPU: "cpu", "NnapiExecutionProvider": "nnapi"}
_MOST_NAMED = 20
_NOT_DELEGATED = "not_delegated"


class DeviceStopwatch(Stopwatch):
    """Times models on ``device``, in the runtime there; ``runtime`` writes them here.

    Files that jobs need stay on the device until the stopwatch is closed, ``storage_bytes`` of them at most (0: as many
    as `KEPT_BYTES`). A job whose files are larger than ``storage_bytes`` is refused with a DeviceError.
    """

    def __init__(self, device: Device, runtime: Runtime, options: RuntimeOptions, *, storage_bytes: int = 0) -> None:
        self.runtime = runtime
        self.threads = options.threads
        self._provider = options.provider
        self._device = device
        self._storage_bytes = storage_bytes
        self._installation: Installation | None = None
        self._hello: Hello | None = None
        self._facts: DeviceFacts | None = None
        self._calm_state: tuple[State, float] | None = None
        self._busy_until = -_LOAD_SECONDS
        self._kept: dict[str, int] = {}
        self._leaves_a_job = False
        self._kernels: dict[str, Kernels] = {}
        self._tainted: dict[str, None] = {}

    @property
    def tainted(self) -> tuple[str, ...]:
        """See `Stopwatch.tainted`."""
        return tuple(self._tainted)

    def version(self) -> str:
        """See `Stopwatch.version`."""
        hello = self._hello
        if hello is None:
            hello = self._only_one(Hello, self._carry_out(("state",), {}))
        return hello.runtime_version

    def machine(self) -> Machine:
        """See `Stopwatch.machine`."""
        facts = self._read_facts()
        if self._calm_state is not None and monotonic() - self._calm_state[1] < _LOAD_SECONDS:
            state = self._calm_state[0]
        else:
            state = self._only_one(State, self._carry_out(("state",), {}))
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
        """See `Stopwatch.measure`. Raises DeviceError when the provider asked for takes over nothing of any model."""
        cold_rounds = _COLD_ROUNDS if cold_count else 0
        settings = f"rounds={method.rounds} runs={method.runs_per_round} warmup={method.warmup_runs} cold={cold_rounds}"
        names, files = _named(models, self.runtime.suffix)
        placed = self._check_placement(names, files, all)
        answer, disturbed = self._calm((_timing(settings, names),), files)
        begin, rounds, cold = self._timed(answer, 0, names, cold_rounds)
        timings = _spread(names, summarize_rounds(rounds, begin.runs_per_round, method.rounds), begin)
        times = _spread(names, summarize_cold(cold), begin)[:cold_count] if cold else []
        return Measured(tuple(timings), tuple(times), (*placed, *disturbed))

    def measure_blocks(
        self,
        models: Sequence[bytes],
        block_count: int,
        *,
        min_seconds: float = 1.0,
        min_runs: int = 50,
        progress: ProgressCallback = ignore_progress,
    ) -> list[list[Timing]]:
        """See `Stopwatch.measure_blocks`. Raises DeviceError when the provider asked for takes over nothing of a
        model."""
        names, files = _named(models, self.runtime.suffix)
        self._check_placement(names, files, any)
        task = _timing(f"{_WHOLE} min_runs={min_runs} min_seconds={min_seconds:.9f}", names)
        watch = _Watch(progress, block_count * min_seconds * len(set(names)))
        answer, _ = self._calm((task,) * block_count, files, watch)
        blocks = []
        for index in range(block_count):
            begin, rounds, _ = self._timed(answer, index, names, cold_rounds=0)
            timings = summarize_rounds(rounds, begin.runs_per_round, half_or_quiet(rounds))
            blocks.append(_spread(names, timings, begin))
        return blocks

    def kernels(self, model: bytes) -> tuple[str, ...]:
        """See `Stopwatch.kernels`. Where a provider other than the CPU was asked for, each name begins with the one
        that ran it (``nnapi:`` or ``cpu:``). Raises DeviceError when the provider asked for takes over nothing."""
        found = self._ask_kernels(model)
        if self._provider == "cpu":
            return found.kernels
        is_paired = len(found.nodes) == len(found.kernels)
        names = found.kernels if is_paired else tuple(node.operator for node in found.nodes)
        return tuple(
            f"{_PROVIDERS.get(node.provider, node.provider)}:{name}"
            for node, name in zip(found.nodes, names, strict=True)
        )

    def placement(self, model: bytes) -> dict[str, tuple[str, ...]]:
        """Names of the nodes by the provider that runs them. Raises DeviceError as `kernels` does."""
        nodes = self._ask_kernels(model).nodes
        return {
            provider: tuple(node.name or node.operator for node in nodes if node.provider == provider)
            for provider in dict.fromkeys(node.provider for node in nodes)
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
        """See `Stopwatch.close`: files that jobs needed are removed, unless one of them was left behind to be picked
        up."""
        try:
            if self._kept and not self._leaves_a_job:
                with suppress(EdgekitError):
                    self._device.remove(tuple(self._kept))
        finally:
            self._kept.clear()
            self._device.close()

    def _calm(
        self, tasks: tuple[str, ...], files: Mapping[str, bytes], watch: Watcher | None = None
    ) -> tuple[Answer, tuple[str, ...]]:
        """The answer to tasks of timing, and what the device's states say against it. Times that no state can vouch for
        (a device that was started anew in between) are dropped and taken again."""
        reasons: tuple[str, ...] = ()
        for _ in range(_MOST_ATTEMPTS):
            threads_before = self.threads if self._was_busy() else 0
            answer = self._carry_out(tasks, files, watch)
            reasons, is_usable = self._judge(answer, len(tasks), threads_before)
            if is_usable:
                self._taint(reasons)
                return answer, reasons
        raise DeviceError(
            f"{self._device.name}: no measurement could be used: {'; '.join(reasons)}",
            f"see what disturbs it: edgekit target check {self._device.name}",
        )

    def _judge(self, answer: Answer, task_count: int, threads_before: int) -> tuple[tuple[str, ...], bool]:
        """What the two states of each task say: reasons, and whether the times are usable."""
        states = _only(State, answer.events)
        if len(states) != 2 * task_count:
            raise self._nonsense(f"{len(states)} states around {task_count} measurements")
        cores = self._read_facts().cores
        verdicts = [
            judge(
                before,
                after,
                cores=cores,
                threads=self.threads,
                threads_before=self.threads if index else threads_before,
            )
            for index, (before, after) in enumerate(zip(states[::2], states[1::2], strict=True))
        ]
        reasons = tuple(dict.fromkeys(reason for verdict in verdicts for reason in verdict.reasons))
        return reasons, all(verdict.is_usable for verdict in verdicts)

    def _check_placement(
        self, names: Sequence[str], files: Mapping[str, bytes], is_too_few: Callable[[Collection[bool]], bool]
    ) -> tuple[str, ...]:
        """What the provider asked for leaves to the CPU, in words, before times are taken that would be the CPU's.
        ``is_too_few`` is told for each model whether nothing of it is taken over."""
        if self._provider == "cpu":
            return ()
        asked = [name for name in dict.fromkeys(names) if name not in self._kernels]
        if asked:
            tasks = tuple(f"kernels {name}" for name in asked)
            answer = self._carry_out(tasks, files, tolerated=(_NOT_DELEGATED,))
            self._kernels |= {event.model: event for event in _only(Kernels, answer.events)}
            for error in answer.errors():
                # Where an accelerator refuses what it was offered, the model does not run, and has no kernels.
                if error.model not in self._kernels:
                    raise _raised(error, self._device.name)
        found = [self._known_kernels(name) for name in dict.fromkeys(names)]
        # A model of one node, as an empty frame is, runs wherever the runtime finds it cheaper.
        is_left_alone = [not _delegated(kernels) for kernels in found if len(kernels.nodes) > 1]
        if is_left_alone and is_too_few(is_left_alone):
            raise _raised(_left_alone(self._provider, len(found)), self._device.name)
        left = dict.fromkeys(
            node.operator or node.name for kernels in found for node in kernels.nodes if node.provider == _CPU
        )
        if not left:
            return ()
        more = f" and {len(left) - _MOST_NAMED} more" if len(left) > _MOST_NAMED else ""
        reason = f"the provider {self._provider} left to the CPU: {', '.join(list(left)[:_MOST_NAMED])}{more}"
        self._taint((reason,))
        return (reason,)

    def _ask_kernels(self, model: bytes) -> Kernels:
        (name,), files = _named([model], self.runtime.suffix)
        if name not in self._kernels:
            ask = ("state",) if self._calm_state is None else ()
            answer = self._carry_out((*ask, f"kernels {name}"), files)
            self._kernels[name] = self._only_one(Kernels, answer)
        if self._provider != "cpu" and not _delegated(self._kernels[name]):
            raise _raised(_left_alone(self._provider, 1), self._device.name)
        return self._kernels[name]

    def _known_kernels(self, name: str) -> Kernels:
        if name not in self._kernels:
            raise self._nonsense(f"no kernels of {name}")
        return self._kernels[name]

    def _timed(
        self, answer: Answer, task: int, names: Sequence[str], cold_rounds: int
    ) -> tuple[Begin, list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Begin, rounds and cold rounds of a task. Raises DeviceError unless they are those of the models asked for."""
        begins = [event for event in _only(Begin, answer.events) if event.task == task]
        rounds = [event.fastest_ns for event in _only(Round, answer.events) if event.task == task]
        cold = [event.ns for event in _only(Cold, answer.events) if event.task == task]
        models = tuple(dict.fromkeys(names))
        if len(begins) != 1 or begins[0].models != models or not rounds or len(cold) != cold_rounds:
            raise self._nonsense("times of other models or rounds than it was asked for")
        if any(len(values) != len(models) for values in (begins[0].runs_per_round, *rounds, *cold)):
            raise self._nonsense(f"times that are not of {len(models)} models")
        return begins[0], rounds, cold

    def _read_facts(self) -> DeviceFacts:
        if self._facts is None:
            self._facts = reach(self._device, self._device.facts)
        return self._facts

    def _was_busy(self) -> bool:
        """Whether work of this stopwatch is still in the device's load average."""
        return monotonic() - self._busy_until < _LOAD_SECONDS

    def _taint(self, reasons: Sequence[str]) -> None:
        self._tainted |= dict.fromkeys(reasons)

    def _carry_out(
        self,
        tasks: tuple[str, ...],
        files: Mapping[str, bytes],
        watch: Watcher | None = None,
        outputs: tuple[str, ...] = (),
        tolerated: tuple[str, ...] = (),
    ) -> Answer:
        if self._installation is None:
            self._installation = reach(self._device, partial(read_installation, self._device))
        self._make_room(files)
        was_busy = self._was_busy()
        work = Work(self.runtime.name, tasks, files, self._provider, self.threads, outputs)
        try:
            answer = carry_out(self._device, self._installation, work, watch=watch or _look_away)
        except LinkLostError:
            self._leaves_a_job = True
            raise
        if tasks != ("state",):
            self._busy_until = monotonic()
        self._remember(answer, was_busy)
        for error in answer.errors():
            if error.code not in tolerated:
                raise _raised(error, self._device.name)
        return answer

    def _make_room(self, files: Mapping[str, bytes]) -> None:
        """Remove what earlier jobs left when there would be too much with ``files``. Raises DeviceError when these
        alone are more than the target takes."""
        new = {pushed_name(content): len(content) for content in files.values()}
        if 0 < self._storage_bytes < sum(new.values()):
            raise DeviceError(
                f"{self._device.name}: {len(new)} file(s) of {sum(new.values())} bytes are needed there, and its "
                f"storage_bytes allows {self._storage_bytes}",
                "make the model smaller, or allow more in the target file if there is more",
            )
        if sum((self._kept | new).values()) > (self._storage_bytes or KEPT_BYTES):
            old = tuple(self._kept.keys() - new.keys())
            reach(self._device, partial(self._device.remove, old))
            self._kept.clear()
        self._kept |= new

    def _remember(self, answer: Answer, was_busy: bool) -> None:
        hello, states = _only(Hello, answer.events), _only(State, answer.events)
        if hello:
            self._hello = hello[0]
        # The load would tell of edgekit's own work.
        if states and not was_busy:
            self._calm_state = states[0], monotonic()

    def _only_one(self, kind: type[Kind], answer: Answer) -> Kind:
        found = _only(kind, answer.events)
        if len(found) != 1:
            raise self._nonsense(f"{len(found)} events of the kind {kind.__name__.lower()!r}")
        return found[0]

    def _nonsense(self, what: str) -> DeviceError:
        name = self._device.name
        return DeviceError(f"the worker on {name!r} told {what}", f"install it again: edgekit target setup {name}")


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
    names = [pushed_name(model) + suffix for model in models]
    return names, dict(zip(names, models, strict=True))


def _timing(settings: str, names: Sequence[str]) -> str:
    return "\n".join((f"time {settings}", *(f"model {name}" for name in dict.fromkeys(names))))


def _spread(names: Sequence[str], timings: Sequence[Timing], begin: Begin) -> list[Timing]:
    """A timing for every model that was given, also for those given twice and timed once."""
    found = dict(zip(begin.models, timings, strict=True))
    return [found[name] for name in names]


def _only(kind: type[Kind], events: Sequence[Event]) -> list[Kind]:
    return [event for event in events if isinstance(event, kind)]


def _delegated(kernels: Kernels) -> bool:
    return any(node.provider != _CPU for node in kernels.nodes)


def _left_alone(provider: str, count: int) -> Error:
    models = "the model" if count == 1 else f"one of the {count} models"
    return Error(code=_NOT_DELEGATED, message=f"the provider {provider} took over nothing of {models}")


def _raised(error: Error, device: str) -> EdgekitError:
    if error.code in ("load_failed", "run_failed"):
        return BadInputError(f"{device}: {error.message}")
    hints = {
        "no_runtime": f"install it: edgekit target setup {device}",
        "no_provider": "choose another provider in the target file",
        _NOT_DELEGATED: 'its times would be those of the CPU: choose provider = "cpu", or another model',
    }
    return DeviceError(f"{device}: {error.message}", hints.get(error.code))


def _array(content: bytes, count: int, device: str) -> FloatArray:
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    # It comes from a device: numpy raises what it likes for a header that lies.
    except Exception as error:
        raise DeviceError(f"{device}: the results cannot be read: {error}") from error
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.ndim or len(array) != count:
        found = f"{array.shape} of {array.dtype}" if isinstance(array, np.ndarray) else "archive"
        raise DeviceError(f"{device}: {count} results are needed, and an array {found} came")
    return np.asarray(array, dtype=np.float32)
