"""Results of runs as the tests of the report need them: small, complete, and with any part replaced.

No test is here; the numbers are made up.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from edgekit.types import LayerChoice, Machine, ModelPoint, RunResult

WriteRun = Callable[..., Path]


def make_layers(count: int = 12) -> tuple[LayerChoice, ...]:
    """Layers of a residual network: some thinner, some removed, some that cannot be dropped."""
    return tuple(_layer(index) for index in range(count))


def make_points() -> tuple[ModelPoint, ...]:
    """One dense model, a sweep of which one was only predicted, and the chosen one."""
    swept = [(0.842, 310.0), (0.858, 395.0), (0.866, 474.0), (0.874, 560.0), (0.879, 668.0), (0.883, 760.0)]
    return (
        make_point("dense", "dense", 0.886, 820.0, 846.0, parameters=284_106),
        *(
            make_point(f"lambda-{index}", "swept", accuracy, latency_us, latency_us * (1.05 - 0.02 * index))
            for index, (accuracy, latency_us) in enumerate(swept)
        ),
        make_point("keep-7", "swept", 0.8735, 452.0, 463.0),
        make_point("keep-9", "swept", 0.877, 488.0, None),
        make_point("keep-8", "chosen", 0.8795, 481.0, 492.0, layers=make_layers(), parameters=96_412),
    )


def make_point(
    name: str,
    role: str,
    accuracy: float,
    predicted_us: float,
    measured_us: float | None,
    layers: tuple[LayerChoice, ...] = (),
    parameters: int = 120_000,
) -> ModelPoint:
    """One model point; ``measured_us`` None is a model that was only predicted."""
    return ModelPoint(
        name=name,
        role=role,  # type: ignore[arg-type]
        accuracy=accuracy,
        predicted_us=predicted_us,
        measured_us=measured_us,
        parameter_count=parameters,
        mac_count=parameters * 61,
        size_bytes=parameters * 4 + 3120,
        file=f"runs/pi4-half/{name}.onnx",
        penalty_weight=0.1 if role == "swept" else None,
        layers=layers,
    )


def make_result(**changes: object) -> RunResult:
    """A finished run that met its budget, with any field replaced."""
    result = RunResult(
        name="pi4-half",
        method="drop",
        model="resnet-small",
        data="fashion-mnist",
        target="pi4",
        runtime="onnx",
        number_format="fp32",
        seed=7,
        epochs=12.0,
        budget_us=500.0,
        predicted_us=481.0,
        measured_us=492.0,
        baseline_measured_us=846.0,
        accuracy=0.8795,
        baseline_accuracy=0.886,
        points=make_points(),
        machine=Machine(
            cpu="Cortex-A72",
            cores=4,
            architecture="aarch64",
            kernel="6.6.20",
            governor="performance",
            frequency_mhz=1800.0,
            temperature_celsius=51.0,
            load_1min=0.08,
        ),
        settings={"batch_size": 128, "learning_rate": 0.05, "scope": "shared", "resume": False, "limit": None},
        versions={"edgekit": "0.1.0", "torch": "2.13.0", "onnxruntime": "1.29.0", "python": "3.11.9"},
        seconds=812.4,
        date="2026-03-14T10:12:00Z",
    )
    return msgspec.structs.replace(result, **changes)


def _layer(index: int) -> LayerChoice:
    channels = (32, 64, 128)[index % 12 // 4]
    kept = (channels, channels // 2, 0, channels * 3 // 4)[index % 4]
    dense_us = 38.0 + 9.0 * (index % 5)
    return LayerChoice(
        name=f"stage{index // 4}.block{index % 4 // 2}.conv{index % 2 + 1}",
        kind="conv",
        channels=channels,
        kept_channels=kept,
        dense_us=dense_us,
        kept_us=dense_us * kept / channels,
        drop_probability=None if index % 4 == 0 else (0.02, 0.31, 0.97, 0.18)[index % 4],
    )
