"""Who takes the times of models: this process, or (in ``remote``) a worker on a device. Both answer alike.

Which models are timed, and what their times mean, is decided elsewhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from edgekit.errors import UsageError
from edgekit.profile.machine import read_machine, taints
from edgekit.profile.measure import measure_cold, measure_interleaved, measure_sessions
from edgekit.runtimes import FloatArray, Runtime
from edgekit.types import Machine, Method, ProgressCallback, RuntimeName, Target, Timing, ignore_progress


@dataclass(frozen=True)
class Measured:
    """Timings of all models, cold ones of the first of them, and why they may not be repeatable."""

    timings: tuple[Timing, ...]
    cold: tuple[Timing, ...] = ()
    tainted: tuple[str, ...] = ()


class Stopwatch(ABC):
    """Times models of one runtime on one target. As a context it gives back what it holds there at the end.

    All methods raise BadInputError for a model that the runtime does not load; DeviceError and TrustError when the
    device is not this machine and cannot be reached.
    """

    runtime: Runtime
    threads: int

    @property
    def tainted(self) -> tuple[str, ...]:
        """What was seen while times were taken, beyond the state that `machine` tells: why they may not be repeatable,
        and what did not run where it should."""
        return ()

    @abstractmethod
    def version(self) -> str:
        """Package and version of the runtime where the models run, for example ``onnxruntime 1.31.1``."""

    @abstractmethod
    def machine(self) -> Machine:
        """The machine on which the models run, as it was within the last minute."""

    @abstractmethod
    def measure(self, models: Sequence[bytes], method: Method, cold_count: int = 0) -> Measured:
        """Times of the models in interleaved rounds, and of single cold runs of the first ``cold_count`` of them."""

    @abstractmethod
    def measure_blocks(
        self,
        models: Sequence[bytes],
        block_count: int,
        *,
        min_seconds: float = 1.0,
        min_runs: int = 50,
        progress: ProgressCallback = ignore_progress,
    ) -> list[list[Timing]]:
        """Times of whole models beside each other, ``block_count`` times over: in each block every model runs
        ``min_runs`` times and for ``min_seconds`` at least. Ratios within a block hold where the machine drifts."""

    def measure_whole(
        self,
        models: Sequence[bytes],
        *,
        min_seconds: float = 1.0,
        min_runs: int = 50,
        progress: ProgressCallback = ignore_progress,
    ) -> list[Timing]:
        """Times of whole models beside each other: one block."""
        return self.measure_blocks(models, 1, min_seconds=min_seconds, min_runs=min_runs, progress=progress)[0]

    @abstractmethod
    def kernels(self, model: bytes) -> tuple[str, ...]:
        """Names of the kernels that run, in order, as the runtime tells them."""

    @abstractmethod
    def run(self, model: bytes, samples: FloatArray) -> FloatArray:
        """Outputs of the model for ``samples`` (any number, batch first), float32."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held on the target, files there too."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class LocalStopwatch(Stopwatch):
    """Times models in this process."""

    def __init__(self, runtime: Runtime, threads: int = 1) -> None:
        self.runtime = runtime
        self.threads = threads

    def version(self) -> str:
        """See `Stopwatch.version`."""
        return self.runtime.version()

    def machine(self) -> Machine:
        """See `Stopwatch.machine`."""
        return read_machine()

    def measure(self, models: Sequence[bytes], method: Method, cold_count: int = 0) -> Measured:
        """See `Stopwatch.measure`."""
        tainted = taints(read_machine())
        sessions = [self.runtime.load(model, self.threads) for model in models]
        timings = measure_sessions(sessions, method)
        cold = measure_cold(sessions[:cold_count]) if cold_count else []
        return Measured(tuple(timings), tuple(cold), tainted)

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
        sessions = [self.runtime.load(model, self.threads) for model in models]
        return [
            measure_interleaved(sessions, min_seconds=min_seconds, min_runs=min_runs, progress=progress)
            for _ in range(block_count)
        ]

    def kernels(self, model: bytes) -> tuple[str, ...]:
        """See `Stopwatch.kernels`."""
        return self.runtime.load(model, self.threads).kernels()

    def run(self, model: bytes, samples: FloatArray) -> FloatArray:
        """See `Stopwatch.run`."""
        return self.runtime.load(model, self.threads).run(samples)

    def close(self) -> None:
        """See `Stopwatch.close`: nothing is held."""


def check_runtime(target: Target, runtime: RuntimeName, formats: Sequence[str] = ()) -> None:
    """Raise UsageError if the target has no such runtime, or one that does not execute all ``formats``."""
    if runtime not in target.runtimes:
        known = ", ".join(target.runtimes)
        raise UsageError(f"target {target.name!r} has no runtime {runtime!r}", f"use one of: {known}")
    executed = target.runtimes[runtime].formats
    if refused := [name for name in dict.fromkeys(formats) if name not in executed]:
        raise UsageError(
            f"target {target.name!r} does not execute {', '.join(sorted(refused))} on {runtime}",
            f"use one of: {', '.join(executed)}",
        )
