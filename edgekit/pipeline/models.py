"""From the --model of a command to a network: a family's name, a network file, or a user's own module.

The tracing itself is in ``nn.trace``.
"""

from __future__ import annotations

from pathlib import Path

import torch

from edgekit.codec import read_network
from edgekit.errors import BadInputError
from edgekit.nn.families import named_network
from edgekit.nn.network import Network
from edgekit.nn.trace import load_factory, trace
from edgekit.train.randomness import generator
from edgekit.types import NetworkSpec, Shape


def make_network(model: str, input_shape: Shape, class_count: int, seed: int) -> Network:
    """The network called ``model`` with its initial weights.

    ``model`` is a family's name (resnet14), a .json network file, or package.module:factory / file.py:factory, whose
    module keeps the weights that it comes with. Raises UsageError or BadInputError when there is none, or when it does
    not fit the data.
    """
    torch.manual_seed(int(generator(seed, "weights").initial_seed()) % 2**63)
    if ":" in model:
        traced = trace(load_factory(model), input_shape, name=model.rpartition(":")[2])
        network = Network(traced.spec, traced.modules)
    elif model.endswith(".json"):
        network = Network(read_network(Path(model)))
    else:
        network = Network(named_network(model, input_shape, class_count))
    _check_fits(network.spec, model, input_shape, class_count)
    return network


def _check_fits(spec: NetworkSpec, model: str, input_shape: Shape, class_count: int) -> None:
    if spec.input_shape != tuple(input_shape):
        raise BadInputError(f"{model} takes inputs of shape {spec.input_shape}, the data has {tuple(input_shape)}")
    if spec.output.unit.output_shape != (class_count,):
        raise BadInputError(
            f"{model} gives outputs of shape {spec.output.unit.output_shape}, the data has {class_count} classes",
            f"its last layer must have {class_count} outputs",
        )
