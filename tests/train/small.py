"""What the tests of training run on: a few small images with a pattern per class, and networks that are trained in
milliseconds. No claim is made here."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from edgekit.nn.estimators import make_estimator
from edgekit.nn.families import multilayer_perceptron, residual_network
from edgekit.nn.gates import GateOptions, Gates
from edgekit.nn.latency import LatencyModel, LayerGrid
from edgekit.nn.network import Network
from edgekit.nn.structure import Structure, analyse
from edgekit.train.batches import Split
from edgekit.train.drop import DropStage, FixedWeight, PenaltyWeight
from edgekit.train.pricing import mac_latency
from edgekit.types import NetworkSpec

RESIDUAL: NetworkSpec = residual_network(8, (8, 8, 16), (1, 8, 8), 3)
PERCEPTRON: NetworkSpec = multilayer_perceptron((16, 16), (1, 8, 8), 3)


def images(count: int = 48, channels: int = 1, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """uint8 images (count, channels, size, size) with a bright row that tells the class of three, and the labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    pixels = rng.integers(0, 120, (count, channels, size, size))
    pixels[np.arange(count), :, 2 * labels] += 120
    return torch.from_numpy(pixels.astype(np.uint8)), torch.from_numpy(labels)


def split(count: int = 48, channels: int = 1, size: int = 8, seed: int = 0) -> Split:
    samples, labels = images(count, channels, size, seed)
    shape = (1, channels, 1, 1)
    return Split(samples, labels, torch.full(shape, 0.3), torch.full(shape, 0.2))


def network(spec: NetworkSpec = RESIDUAL, seed: int = 0) -> Network:
    torch.manual_seed(seed)
    return Network(spec)


def structure(spec: NetworkSpec = RESIDUAL, group_size: int = 4) -> Structure:
    return analyse(spec, group_size)


def drop_stage(
    estimator: str = "hard-concrete",
    weight: PenaltyWeight | None = None,
    spec: NetworkSpec = RESIDUAL,
    options: GateOptions | None = None,
) -> DropStage:
    """Gates on the network, priced by its multiply-accumulates; 1000 us with everything kept."""
    found = structure(spec)
    gates = Gates(found, mac_latency(found, 1000.0), make_estimator(estimator), options)
    return DropStage(gates, weight or FixedWeight(1.0), seed=3, stage="search")


def staircase_latency(found: Structure, seed: int) -> LatencyModel:
    """Times as kernels have them: rising with both widths, flat within blocks of channels, a little uneven."""
    rng = np.random.default_rng(seed)
    grids = []
    for layer in found.spec.layers:
        source, target = found.input_space[layer.name], found.output_space[layer.name]
        levels = [space.group_count if space.is_droppable else 1 for space in found.spaces]
        rows, columns = (1 if source == target else levels[source]), levels[target]
        steps = rng.uniform(0, 4, (rows, columns)) * (rng.random((rows, columns)) < 0.6)
        grids.append(LayerGrid(layer.name, 0.5 + steps.cumsum(0).cumsum(1) + rng.uniform(0, 0.2, (rows, columns))))
    return LatencyModel(found, grids, overhead_us=2.0)


@dataclass
class Interrupted(Exception):  # noqa: N818 - it is no error, it stands for a power cut
    """Raised from a progress callback to end training at a step."""

    step: int
