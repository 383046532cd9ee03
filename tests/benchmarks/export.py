"""How well exported files agree with torch: a network trained on Fashion-MNIST, in both runtimes and number formats.

Bounds: fp32 within 1e-4 of the largest output; int8 with the same class as fp32 for 98.5 % of 2,000 test images, and an
accuracy within 1 percentage point.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch
from table import Row, main

from edgekit import __version__
from edgekit.data import Dataset, load
from edgekit.export.exporter import CALIBRATION_IMAGES, export_network
from edgekit.nn.families import named_network
from edgekit.nn.network import Network
from edgekit.runtimes import get, names
from edgekit.train.batches import Split, make_split
from edgekit.train.loop import Recipe, StageOptions, evaluate, fit, hardware_precision
from edgekit.types import ExportedModel, ModelInfo, NumberFormat, RuntimeName

MODEL: Final = "resnet8"
FORMATS: Final[tuple[NumberFormat, ...]] = ("fp32", "int8")
SEED: Final = 0
EPOCHS: Final = 3
QUICK_SAMPLES: Final = 14_000
"""A fifth of the data, test part included."""
COLUMNS: Final = (
    "model",
    "runtime",
    "format",
    "max_relative_difference",
    "top1_agreement",
    "accuracy",
    "accuracy_drop",
    "size_bytes",
)


def rows(quick: bool) -> Sequence[Row]:
    """Train resnet8 on Fashion-MNIST, export it four times and compare with torch; --quick trains on a fifth of it."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    dataset = load("fashion-mnist", seed=SEED, limit=QUICK_SAMPLES if quick else None)
    train, test = make_split(dataset, dataset.train), make_split(dataset, dataset.test)
    network = Network(named_network(MODEL, dataset.input_shape, dataset.class_count))
    fit(network, train, Recipe(epochs=EPOCHS, precision=hardware_precision()), StageOptions("dense", SEED))
    torch_accuracy = evaluate(network, test)
    return [
        _row(_export(network, dataset, train, test, runtime, number_format), torch_accuracy)
        for runtime in names()
        for number_format in FORMATS
    ]


def _export(
    network: Network,
    dataset: Dataset,
    train: Split,
    test: Split,
    runtime_name: RuntimeName,
    number_format: NumberFormat,
) -> ExportedModel:
    info = ModelInfo(
        edgekit_version=__version__,
        network=network.spec.name,
        number_format=number_format,
        source_hash="",
        target="cpu",
        runtime=runtime_name,
        preprocessing=dataset.preprocessing,
        labels=dataset.class_names,
    )
    with TemporaryDirectory() as folder:
        return export_network(
            network,
            runtime_name=runtime_name,
            number_format=number_format,
            calibration_images=train.inputs(slice(0, CALIBRATION_IMAGES)),
            test_images=test.inputs(slice(None)),
            test_labels=test.labels,
            info=info,
            path=Path(folder) / f"model{get(runtime_name).suffix}",
        )


def _row(exported: ExportedModel, torch_accuracy: float) -> Row:
    return {
        "model": MODEL,
        "runtime": exported.runtime,
        "format": exported.number_format,
        "max_relative_difference": exported.max_relative_difference,
        "top1_agreement": exported.top1_agreement,
        "accuracy": exported.accuracy,
        "accuracy_drop": torch_accuracy - exported.accuracy,
        "size_bytes": exported.size_bytes,
        "kernels": " ".join(sorted(set(exported.kernels))),
    }


if __name__ == "__main__":
    main(rows, COLUMNS)
