"""Results of stages as the tests of commands need them: small, complete, and made up.

No test is here, and nothing is measured.
"""

from __future__ import annotations

from edgekit.types import Machine, ModelPoint, RunResult

MACHINE = Machine(cpu="a processor", cores=2, architecture="x86_64", kernel="6")


def make_result(name: str) -> RunResult:
    """A finished run with a dense model of 800 us, and a chosen one of 400 us."""
    return RunResult(
        name=name,
        method="drop",
        model="resnet8",
        data="fashion-mnist",
        target="cpu",
        runtime="onnx",
        number_format="fp32",
        seed=0,
        epochs=1.0,
        budget_us=410.0,
        predicted_us=405.0,
        measured_us=400.0,
        baseline_measured_us=800.0,
        accuracy=0.87,
        baseline_accuracy=0.88,
        points=(_point("dense", 800.0), _point("chosen", 400.0)),
        machine=MACHINE,
        settings={"epochs": 1.0},
        versions={"edgekit": "0"},
        seconds=12.0,
        date="2026-01-01T00:00:00+00:00",
    )


def _point(role: str, measured_us: float) -> ModelPoint:
    return ModelPoint(
        name=role,
        role=role,  # type: ignore[arg-type]
        accuracy=0.87,
        predicted_us=measured_us * 1.01,
        measured_us=measured_us,
        parameter_count=1000,
        mac_count=2000,
    )
