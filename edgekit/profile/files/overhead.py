"""What a run costs in which nothing is computed, and what one more node costs: taken off the times of units.

Both come from models of one and of many nodes on 16 numbers; when they are timed is decided in ``profile``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgekit.profile.files.structs import Arrays
from edgekit.profile.frame import identity, with_random_weights
from edgekit.runtimes import get
from edgekit.runtimes.packages import require
from edgekit.types import RuntimeName, Timing

_NODES = 17
_FEATURES = 16
_IR_VERSION, _OPSET = 8, 17


@dataclass(frozen=True)
class Overhead:
    """``run_us`` of a run without nodes, ``node_us`` of a node without work, in microseconds."""

    run_us: float
    node_us: float


def overhead_models(runtime: RuntimeName) -> list[tuple[bytes, Arrays]]:
    """The models whose times `overhead_of` takes, with their inputs."""
    sample = np.ones((1, _FEATURES), dtype=np.float32)
    if runtime == "onnx":
        return [(_chain(count), {"node:0": sample}) for count in (1, _NODES)]
    return [(get(runtime).write(with_random_weights(identity())), {"input": sample})]


def overhead_of(timings: Sequence[Timing]) -> Overhead:
    """The overhead by the times of the models of `overhead_models`. A runtime that has one model only does not tell
    what of it is the node's share: all of it then counts as the run's."""
    if len(timings) == 1:
        return Overhead(timings[0].median_us, 0.0)
    one, many = (timing.median_us for timing in timings)
    node_us = max(0.0, (many - one) / (_NODES - 1))
    return Overhead(max(0.0, one - node_us), node_us)


def _chain(count: int) -> bytes:
    onnx = require("onnx", "onnx", "train")
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    names = [f"node:{position}" for position in range(count + 1)]
    nodes = [helper.make_node("Relu", [read], [written]) for read, written in pairwise(names)]
    shape = [1, _FEATURES]
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info(names[0], float32, shape)],
        [helper.make_tensor_value_info(names[-1], float32, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR_VERSION)
    serialized: bytes = model.SerializeToString()
    return serialized
