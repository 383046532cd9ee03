"""What works on this machine: versions, runtimes that really run a model, targets, data sets.

Everything is tried and nothing is repaired; results are returned, printing them is the command's work.
"""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Literal

import edgekit
from edgekit.errors import EdgekitError
from edgekit.types import INPUT, Layer, NetworkSpec, RuntimeName, UnitSpec

if TYPE_CHECKING:
    from edgekit.runtimes._base import FoldedNetwork

State = Literal["ok", "absent", "failed"]

PACKAGES = (
    "click",
    "msgspec",
    "numpy",
    "onnxruntime",
    "pillow",
    "rich",
    "ai-edge-litert",
    "tflite-runtime",
    "flatbuffers",
    "onnx",
    "safetensors",
    "torch",
)

_EXPECTED_OUTPUT = 9.0
"""A 3x3 filter of ones over an image of ones."""


@dataclass(frozen=True)
class Check:
    """One thing that was tried; ``hint`` says how to get what is absent or failed."""

    name: str
    state: State
    detail: str
    hint: str | None = None


@dataclass(frozen=True)
class Diagnosis:
    """All checks, and whether edgekit can run a model here at all."""

    checks: tuple[Check, ...]
    can_run: bool


def diagnose() -> Diagnosis:
    """Try everything; raises nothing, a check that fails says so."""
    from edgekit.runtimes import names

    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    runtimes = tuple(check_runtime(name) for name in names())
    checks = (*check_versions(), *runtimes, check_native(), check_telemetry(), *check_targets(), *check_data())
    return Diagnosis(checks, can_run=any(check.state == "ok" for check in runtimes))


def check_versions() -> tuple[Check, ...]:
    """edgekit, Python, and every package that edgekit can use."""
    python = Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    return (Check("edgekit", "ok", edgekit.__version__), python, *(_check_package(name) for name in PACKAGES))


def _check_package(name: str) -> Check:
    try:
        return Check(name, "ok", metadata.version(name))
    except metadata.PackageNotFoundError:
        return Check(name, "absent", "not installed")


def check_runtime(name: RuntimeName) -> Check:
    """Write a network of one convolution, load it, run it, and compare what it computes."""
    title = f"runtime {name}"
    try:
        version, output = _run_probe(name)
    except EdgekitError as error:
        return Check(title, "failed", error.message, error.hint)
    except Exception as error:
        # A runtime that was built for another numpy fails with whatever its bindings raise.
        return Check(title, "failed", f"{type(error).__name__}: {error}", "reinstall the runtime's package")
    if abs(output - _EXPECTED_OUTPUT) > 1e-3:
        return Check(title, "failed", f"{version} computed {output:g} where {_EXPECTED_OUTPUT:g} is right")
    return Check(title, "ok", f"{version}, ran a convolution")


def _run_probe(name: RuntimeName) -> tuple[str, float]:
    """The runtime's version, and the value of the probe's output that is furthest from the right one."""
    import numpy as np

    from edgekit import runtimes

    runtime = runtimes.get(name)
    session = runtime.load(runtime.write(probe_network()))
    output = session.run(np.ones((1, 1, 4, 4), dtype=np.float32)).ravel()
    return runtime.version(), float(output[np.argmax(np.abs(output - _EXPECTED_OUTPUT))])


def probe_network() -> FoldedNetwork:
    """One convolution with a filter of ones and no bias, over an image of 4 x 4."""
    import numpy as np

    from edgekit.runtimes._base import FoldedNetwork, LayerWeights

    unit = UnitSpec(kind="conv", input_shape=(1, 4, 4), output_shape=(2, 2, 2), kernel=(3, 3))
    layer = Layer(name="conv", unit=unit, inputs=(INPUT,))
    spec = NetworkSpec(name="probe", input_shape=unit.input_shape, layers=(layer,))
    weights = LayerWeights(np.ones(unit.weight_shape, dtype=np.float32), np.zeros(2, dtype=np.float32))
    return FoldedNetwork(spec, {layer.name: weights})


def check_native() -> Check:
    """The library of native kernels, of which there is none yet."""
    return Check("native library", "absent", "this version of edgekit has none; every layer runs in its runtime")


def check_telemetry() -> Check:
    """Whether ONNX Runtime was told not to look up hosts."""
    value = os.environ.get("ORT_DISABLE_TELEMETRY", "")
    if value == "1":
        return Check("telemetry", "ok", "off (ORT_DISABLE_TELEMETRY=1)")
    return Check("telemetry", "failed", f"not off: ORT_DISABLE_TELEMETRY is {value!r}", "unset it, or set it to 1")


def check_targets() -> tuple[Check, ...]:
    """One check for the target files that can be used, and one for each that cannot."""
    from edgekit import targets

    files = targets.list_all()
    usable = [file.name for file in files if file.target is not None]
    broken = tuple(Check(f"target {file.name}", "failed", file.problem) for file in files if file.target is None)
    if not usable:
        return Check("targets", "absent", "none found", "put a target file into ./targets"), *broken
    return Check("targets", "ok", ", ".join(usable)), *broken


def check_data() -> tuple[Check, ...]:
    """The data sets that can be used by name."""
    from edgekit.data.names import known_names

    return tuple(_check_data_set(name) for name in known_names())


def _check_data_set(name: str) -> Check:
    from edgekit.data.names import locate

    try:
        return Check(f"data {name}", "ok", str(locate(name).path))
    except EdgekitError as error:
        return Check(f"data {name}", "absent", error.message, error.hint)
