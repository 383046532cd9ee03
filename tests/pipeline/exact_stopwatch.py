"""A stopwatch of a made-up machine with exact times, for tests that profile without a runtime; as a program it profiles
a network into a file. No claim is made here."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from edgekit import targets
from edgekit.nn.families import named_network
from edgekit.nn.structure import Structure, analyse
from edgekit.pipeline.profiling import Profiled, profile_network
from edgekit.profile import Measured, Stopwatch
from edgekit.runtimes import FloatArray, FoldedNetwork, Ranges, Runtime, Session
from edgekit.types import (
    Machine,
    Method,
    NetworkSpec,
    NumberFormat,
    ProgressCallback,
    RuntimeName,
    Timing,
    ignore_progress,
)
from tests.profile.networks import MACHINE, timing

SHAPE = (1, 12, 12)


def network_us(network: NetworkSpec) -> float:
    """A run costs 2 us, a layer 1 us and a million multiply-adds 100 us."""
    return 2.0 + sum(1.0 + layer.unit.mac_count / 1e4 for layer in network.layers)


class _JsonRuntime(Runtime):
    """Writes a network as JSON; what it writes is never run."""

    name: RuntimeName = "onnx"
    suffix = ".json"

    def version(self) -> str:
        return "exact 1.0"

    def write(
        self,
        network: FoldedNetwork,
        number_format: NumberFormat = "fp32",
        ranges: Ranges | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        return msgspec.json.encode(network.spec)

    def load(self, model: bytes, threads: int = 1) -> Session:
        raise NotImplementedError

    def metadata(self, model: bytes) -> dict[str, str]:
        return {}


class ExactStopwatch(Stopwatch):
    """Every model takes `network_us` times ``slowness()``; a measurement takes ``seconds`` of the test's time."""

    def __init__(
        self, slowness: Callable[[], float] = lambda: 1.0, seconds: float = 0.0, machine: Machine = MACHINE
    ) -> None:
        self.runtime = _JsonRuntime()
        self.threads = 1
        self.measured_count = 0
        self._slowness, self._seconds, self._machine = slowness, seconds, machine

    def version(self) -> str:
        return self.runtime.version()

    def machine(self) -> Machine:
        return self._machine

    def measure(self, models: Sequence[bytes], method: Method, cold_count: int = 0) -> Measured:
        time.sleep(self._seconds)
        self.measured_count += 1
        slowness = self._slowness()
        networks = [msgspec.json.decode(model, type=NetworkSpec) for model in models]
        timings = tuple(timing(network_us(network) * slowness) for network in networks)
        return Measured(timings, timings[:cold_count])

    def measure_blocks(
        self,
        models: Sequence[bytes],
        block_count: int,
        *,
        min_seconds: float = 1.0,
        min_runs: int = 50,
        progress: ProgressCallback = ignore_progress,
    ) -> list[list[Timing]]:
        raise NotImplementedError

    def kernels(self, model: bytes) -> tuple[str, ...]:
        return ()

    def run(self, model: bytes, samples: FloatArray) -> FloatArray:
        raise NotImplementedError

    def close(self) -> None:
        return


def structure_of(model: str, group_size: int | None = 4) -> Structure:
    return analyse(named_network(model, SHAPE, 3), group_size)


def profile_into(
    path: Path,
    model: str,
    stopwatch: Stopwatch,
    *,
    group_size: int | None = 4,
    force: bool = False,
    progress: ProgressCallback = ignore_progress,
) -> Profiled:
    """Profile ``model`` in fp32 into ``path``."""
    return profile_network(
        structure_of(model, group_size),
        target=targets.find("cpu"),
        stopwatch=stopwatch,
        formats=("fp32",),
        path=path,
        method=Method(correction_networks=4),
        force=force,
        progress=progress,
    )


def main(path: str, model: str, slowness: str, seconds: str) -> None:
    profile_into(Path(path), model, ExactStopwatch(lambda: float(slowness), float(seconds)))


if __name__ == "__main__":
    main(*sys.argv[1:])
