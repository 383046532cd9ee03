"""How well exported files agree with torch: a network trained on Fashion-MNIST, in both runtimes and number formats.

Bounds: fp32 within 1e-4 of the largest output; int8 with the same class as fp32 for 98.5 % of 2,000 test images, and an
accuracy within 1 percentage point.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import torch

from edgekit import __version__
from edgekit.data import Dataset, load
from edgekit.export.exporter import export_network
from edgekit.nn.families import named_network
from edgekit.nn.network import Network
from edgekit.runtimes import get, names
from edgekit.train.batches import Split, make_split
from edgekit.train.loop import Recipe, StageOptions, evaluate, fit, hardware_precision
from edgekit.types import ExportedModel, ModelInfo, NumberFormat, RuntimeName
from tests.benchmarks.table import Row, main

MODEL: Final = "resnet8"
FORMATS: Final[tuple[NumberFormat, ...]] = ("fp32", "int8")
SEED: Final = 0
QUICK_SAMPLES: Final = 12_000
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
    """Train resnet8 on Fashion-MNIST (3 epochs; --quick: 2 epochs of a fifth), export it four times and compare with torch."""
    dataset = load("fashion-mnist", seed=SEED, limit=QUICK_SAMPLES if quick else None)
    train, test = make_split(dataset, dataset.train), make_split(dataset, dataset.test)
    network = _train(dataset, train, epochs=2 if quick else 3)
    torch_accuracy = evaluate(network, test)
    with TemporaryDirectory() as folder:
        return [
            _row(_export(network, dataset, train, test, runtime, number_format, Path(folder)), torch_accuracy)
            for runtime in names()
            for number_format in FORMATS
        ]
