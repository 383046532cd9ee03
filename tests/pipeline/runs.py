"""What the tests of whole runs share: a small data set, a profile with a given time for every unit, and a clock that
measures exactly what the profile says. No claim is made here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.codec import replace_profile
from edgekit.export.exporter import PreparedModel
from edgekit.nn.families import named_network
from edgekit.nn.network import Network
from edgekit.nn.structure import Structure, analyse
from edgekit.pipeline import training_run, workspace
from edgekit.pipeline.settings import TrainSettings
from edgekit.profile import read_machine
from edgekit.runtimes import get
from edgekit.train.pricing import group_sizes, priced_units
from edgekit.types import (
    Correction,
    Method,
    NetworkSpec,
    NumberFormat,
    Profile,
    RuntimeName,
    Timing,
    UnitSpec,
    UnitTiming,
)
from tests.profile.networks import correction_of

SHAPE = (1, 12, 12)
CLASSES = ("bar above", "bar in the middle", "bar below")
MODEL = "resnet8-w0.25"
GROUP_SIZE = 4
OVERHEAD_US = 3.0


def write_images(path: Path, count: int = 300, seed: int = 0) -> Path:
    """Grey images of noise with a bright bar, as a .npz file; the height of the bar is the class."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    images = rng.integers(0, 90, (count, *SHAPE))
    for index, label in enumerate(labels):
        images[index, 0, 4 * label + rng.integers(0, 3)] += 150
    np.savez(path, images=images.astype(np.uint8), labels=labels, class_names=np.array(CLASSES))
    return path


def structure(model: str = MODEL) -> Structure:
    return analyse(named_network(model, SHAPE, len(CLASSES)), GROUP_SIZE)


def unit_us(unit: UnitSpec) -> float:
    """Time of a unit: rises with its work and with its data, and is shorter in int8."""
    elements = float(np.prod(unit.output_shape))
    return (0.5 + unit.mac_count / 2000 + elements / 1000) * (0.5 if unit.number_format == "int8" else 1.0)


def network_us(spec: NetworkSpec) -> float:
    return OVERHEAD_US + sum(unit_us(layer.unit) for layer in spec.layers)


def timing(latency_us: float) -> Timing:
    return Timing(count=50, median_us=latency_us, p10_us=latency_us, p90_us=latency_us, min_us=latency_us)


def profile(model: str = MODEL, runtime: RuntimeName = "onnx") -> Profile:
    """Times of all units that the model's gates can choose, in both number formats."""
    correction = Correction(overhead_us=OVERHEAD_US, scale=1.0, network_count=12, median_error=0.02, max_error=0.05)
    formats: tuple[NumberFormat, ...] = ("fp32", "int8")
    found = structure(model)
    units = [unit for name in formats for unit in priced_units(found, name)]
    return Profile(
        target="cpu",
        runtime=runtime,
        runtime_version=get(runtime).version(),
        machine=read_machine(),
        date="2026-01-01T00:00:00+00:00",
        method=Method(),
        overhead_us=OVERHEAD_US,
        units=tuple(UnitTiming(unit=u, framed=timing(9.0 + unit_us(u)), frame=timing(9.0)) for u in units),
        corrections=tuple(
            correction_of(found.spec.in_format(name), correction, group_sizes(found)) for name in formats
        ),
    )


def settings(folder: Path, *, runtime: RuntimeName = "onnx", model: str = MODEL, **changes: Any) -> TrainSettings:
    """Settings of a small run on data and a profile that are written into ``folder``."""
    data, prices = folder / "images.npz", folder / f"{model}-{runtime}.json"
    if not data.exists():
        write_images(data)
    if not prices.exists():
        replace_profile(prices, profile(model, runtime))
    plain: dict[str, Any] = {
        "budget": "60%",
        "epochs": 4.0,
        "batch_size": 16,
        "augmentation": "shift",
        "group_size": GROUP_SIZE,
        "max_corrections": 1,
        "profile": str(prices),
    }
    return TrainSettings(model=model, data=str(data), runtime=runtime, **(plain | changes))


def steady_times(networks: Sequence[Network], _runtime: object, number_format: NumberFormat, **_: Any) -> list[Timing]:
    """In place of the measurement before training: what the profile says."""
    return [timing(network_us(network.spec.in_format(number_format))) for network in networks]


def steady_file_times(_work: object, prepared: Sequence[PreparedModel]) -> list[Timing]:
    """In place of the measurement of the files: what the profile says."""
    return [timing(network_us(model.folded.spec)) for model in prepared]


def use_steady_clock(patch: pytest.MonkeyPatch) -> None:
    """No measurement depends on the machine any more: the same settings give the same run everywhere."""
    patch.setattr(workspace, "time_networks", steady_times)
    patch.setattr(training_run, "_time", steady_file_times)


def with_units(whole: Profile, units: tuple[UnitTiming, ...]) -> Profile:
    return msgspec.structs.replace(whole, units=units)


def without_corrections(whole: Profile) -> Profile:
    return msgspec.structs.replace(whole, corrections=())
