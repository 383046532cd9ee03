"""From the --model of a command to a network: a family's name, a network file, or a user's own module.

The tracing itself is in ``nn.trace``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from edgekit.codec import read_network
from edgekit.errors import BadInputError
from edgekit.nn.families import check_name, named_network
from edgekit.nn.network import Network
from edgekit.nn.trace import load_factory, trace
from edgekit.train.randomness import generator
from edgekit.types import NetworkSpec, Shape


@dataclass(frozen=True)
class ModelSource:
    """A --model that was found: the user's own ``module``, the ``spec`` of a network file, or neither for a family's
    name. The shape of the data is all that is missing."""

    model: str
    seed: int
    module: nn.Module | None = None
    spec: NetworkSpec | None = None


def make_network(model: str, input_shape: Shape, class_count: int, seed: int) -> Network:
    """The network called ``model`` with its initial weights: `find_model` and `build_network` in one call."""
    return build_network(find_model(model, seed), input_shape, class_count)


def find_model(model: str, seed: int) -> ModelSource:
    """What ``model`` names: a family's name (resnet14), a .json network file, or package.module:factory /
    file.py:factory, whose module keeps the weights that it comes with.

    Raises UsageError or BadInputError when there is none.
    """
    if ":" in model:
        _seed_weights(seed)
        return ModelSource(model, seed, module=load_factory(model))
    if model.endswith(".json"):
        return ModelSource(model, seed, spec=read_network(Path(model)))
    check_name(model)
    return ModelSource(model, seed)


def build_network(source: ModelSource, input_shape: Shape, class_count: int) -> Network:
    """The network with its initial weights. Raises UsageError or BadInputError when it does not fit the data."""
    _seed_weights(source.seed)
    if source.module is not None:
        traced = trace(source.module, input_shape, name=source.model.rpartition(":")[2])
        network = Network(traced.spec, traced.modules)
    else:
        network = Network(source.spec or named_network(source.model, input_shape, class_count))
    _check_fits(network.spec, source.model, input_shape, class_count)
    return network


def _seed_weights(seed: int) -> None:
    torch.manual_seed(int(generator(seed, "weights").initial_seed()) % 2**63)


def _check_fits(spec: NetworkSpec, model: str, input_shape: Shape, class_count: int) -> None:
    if spec.input_shape != tuple(input_shape):
        raise BadInputError(f"{model} takes inputs of shape {spec.input_shape}, the data has {tuple(input_shape)}")
    if spec.output.unit.output_shape != (class_count,):
        raise BadInputError(
            f"{model} gives outputs of shape {spec.output.unit.output_shape}, the data has {class_count} classes",
            f"its last layer must have {class_count} outputs",
        )
