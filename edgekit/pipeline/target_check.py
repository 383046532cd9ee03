"""`edgekit target check`: is the device there, does each of its runtimes really run a model, and is it calm?

Everything is tried and nothing is repaired.
"""

from __future__ import annotations

import msgspec
import numpy as np

from edgekit.devices.opening import open_device
from edgekit.errors import BadInputError, DeviceError, UsageError
from edgekit.profile import Stopwatch, open_stopwatch
from edgekit.profile.frame import with_random_weights
from edgekit.profile.machine import taints
from edgekit.types import (
    INPUT,
    Layer,
    Machine,
    NetworkSpec,
    Progress,
    ProgressCallback,
    RuntimeName,
    Target,
    UnitSpec,
    ignore_progress,
)

_TOLERANCE = 1e-3


class RuntimeCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One runtime of a target: the version that ran the probe and where its nodes were placed, or why it did not."""

    runtime: RuntimeName
    provider: str
    version: str = ""
    latency_us: float | None = None
    kernels: tuple[str, ...] = ()
    problem: str = ""
    hint: str = ""

    @property
    def is_ok(self) -> bool:
        """Whether the probe ran and computed what it should."""
        return not self.problem


class TargetCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What was found on a target; ``spoils`` says what would make its times unrepeatable."""

    target: str
    machine: Machine
    model: str
    user_bits: int
    runtimes: tuple[RuntimeCheck, ...]
    spoils: tuple[str, ...]


def check_target(target: Target, progress: ProgressCallback = ignore_progress) -> TargetCheck:
    """Connect, read what the machine says of itself, and run a tiny network in each runtime.

    Raises DeviceError when the device cannot be reached, TrustError for a host key that is unknown or changed; a
    runtime that does not run is told in its row.
    """
    device = open_device(target)
    try:
        facts = device.facts()
    finally:
        device.close()
    machine: Machine | None = None
    rows = []
    seen: list[str] = []
    for index, name in enumerate(target.runtimes):
        progress(Progress(stage="check", done=index, total=len(target.runtimes), values={"runtime": name}))
        row, found, tainted = _check_runtime(target, name)
        rows.append(row)
        seen += tainted
        machine = machine or found
    progress(Progress(stage="check", done=len(rows), total=len(rows)))
    machine = machine or Machine(cpu=facts.cpu, cores=facts.cores, architecture=facts.architecture, kernel=facts.kernel)
    bits = (f"programs run in a {facts.user_bits}-bit userland: no runtime is made for it",)
    spoils = (*taints(machine), *seen, *(bits if facts.user_bits == 32 else ()))
    return TargetCheck(
        target=target.name,
        machine=machine,
        model=facts.model,
        user_bits=facts.user_bits,
        runtimes=tuple(rows),
        spoils=tuple(dict.fromkeys(spoils)),
    )


def _check_runtime(target: Target, name: RuntimeName) -> tuple[RuntimeCheck, Machine | None, tuple[str, ...]]:
    """The runtime's row, the machine if it told of itself, and what was seen to disturb it."""
    provider = target.runtimes[name].provider
    try:
        with open_stopwatch(target, name) as stopwatch:
            version, machine = stopwatch.version(), stopwatch.machine()
            latency_us, kernels = _run_probe(stopwatch)
            tainted = stopwatch.tainted
        found = RuntimeCheck(runtime=name, provider=provider, version=version, latency_us=latency_us, kernels=kernels)
        return found, machine, tainted
    except (BadInputError, DeviceError, UsageError) as error:
        row = RuntimeCheck(runtime=name, provider=provider, problem=error.message, hint=error.hint or "")
        return row, None, ()


def _run_probe(stopwatch: Stopwatch) -> tuple[float, tuple[str, ...]]:
    """Time and kernels of the probe. Raises DeviceError if it computes something else than this machine does."""
    model = stopwatch.runtime.write(with_random_weights(_probe()))
    samples = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    wanted = stopwatch.runtime.load(model).run(samples)
    difference = float(np.abs(stopwatch.run(model, samples) - wanted).max() / np.abs(wanted).max())
    if not difference <= _TOLERANCE:
        raise DeviceError(f"the runtime computes other values than here: they differ by {difference:.2g}")
    (timing,) = stopwatch.measure_whole([model], min_seconds=0.05, min_runs=20)
    return timing.median_us, stopwatch.kernels(model)


def _probe() -> NetworkSpec:
    conv = UnitSpec(
        kind="conv",
        input_shape=(3, 8, 8),
        output_shape=(8, 8, 8),
        kernel=(3, 3),
        padding=(1, 1, 1, 1),
        activation="relu",
    )
    layers = (Layer(name="conv", unit=conv, inputs=(INPUT,)),)
    return NetworkSpec(name="probe", input_shape=conv.input_shape, layers=layers)
