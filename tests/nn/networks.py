"""Small networks for the tests of nn: a builder of layer graphs, random ones for hypothesis, and random parameters.

No claim is made here, and nothing is learned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from hypothesis import strategies as st
from torch import nn

from edgekit.nn.cut import Choice
from edgekit.nn.families import multilayer_perceptron, residual_network, separable_network
from edgekit.nn.latency import LatencyModel, LayerGrid
from edgekit.nn.network import Network
from edgekit.nn.structure import Structure
from edgekit.types import INPUT, Activation, Layer, NetworkSpec, Shape, UnitKind, UnitSpec


@dataclass
class Graph:
    """A network that is written down layer by layer; every method returns the name that it was given."""

    input_shape: Shape
    batch_norm: bool = True
    layers: list[Layer] = field(default_factory=list)

    def shape(self, name: str) -> Shape:
        return next((x.unit.output_shape for x in self.layers if x.name == name), self.input_shape)

    def conv(
        self,
        name: str,
        x: str,
        channels: int,
        *,
        kernel: int = 3,
        stride: int = 1,
        groups: int = 1,
        activation: Activation = "relu",
    ) -> str:
        source, pad = self.shape(x), kernel // 2
        size = [(length + 2 * pad - kernel) // stride + 1 for length in source[1:]]
        unit = UnitSpec(
            kind="conv",
            input_shape=source,
            output_shape=(channels, *size),
            kernel=(kernel, kernel),
            stride=(stride, stride),
            padding=(pad, pad, pad, pad),
            groups=groups,
            activation=activation,
        )
        return self._append(name, unit, (x,), self.batch_norm)

    def depthwise(self, name: str, x: str) -> str:
        return self.conv(name, x, self.shape(x)[0], groups=self.shape(x)[0])

    def dense(self, name: str, x: str, features: int, *, activation: Activation = "relu") -> str:
        unit = UnitSpec(kind="dense", input_shape=self.shape(x), output_shape=(features,), activation=activation)
        return self._append(name, unit, (x,), self.batch_norm and activation != "none")

    def scale(self, name: str, x: str, *, activation: Activation = "relu") -> str:
        return self._keep_shape(name, "scale", (x,), activation, batch_norm=True)

    def add(self, name: str, *inputs: str, activation: Activation = "relu") -> str:
        return self._keep_shape(name, "add", inputs, activation)

    def activation(self, name: str, x: str, activation: Activation = "relu") -> str:
        return self._keep_shape(name, "activation", (x,), activation)

    def pool(self, name: str, x: str, kind: UnitKind = "max_pool") -> str:
        channels, height, width = self.shape(x)
        shape = (channels, (height + 1) // 2, (width + 1) // 2)
        unit = UnitSpec(
            kind=kind,
            input_shape=self.shape(x),
            output_shape=shape,
            kernel=(3, 3),
            stride=(2, 2),
            padding=(1, 1, 1, 1),
        )
        return self._append(name, unit, (x,))

    def global_pool(self, name: str, x: str) -> str:
        shape = self.shape(x)
        return self._append(name, UnitSpec(kind="global_average_pool", input_shape=shape, output_shape=shape[:1]), (x,))

    def flatten(self, name: str, x: str) -> str:
        shape = self.shape(x)
        size = int(np.prod(shape))
        return self._append(name, UnitSpec(kind="flatten", input_shape=shape, output_shape=(size,)), (x,))

    def spec(self, name: str = "test") -> NetworkSpec:
        return NetworkSpec(name=name, input_shape=self.input_shape, layers=tuple(self.layers))

    def _keep_shape(
        self, name: str, kind: UnitKind, inputs: Sequence[str], activation: Activation, batch_norm: bool = False
    ) -> str:
        shape = self.shape(inputs[0])
        unit = UnitSpec(kind=kind, input_shape=shape, output_shape=shape, activation=activation)
        return self._append(name, unit, tuple(inputs), batch_norm)

    def _append(self, name: str, unit: UnitSpec, inputs: tuple[str, ...], batch_norm: bool = False) -> str:
        self.layers.append(Layer(name=name, unit=unit, inputs=inputs, batch_norm=batch_norm))
        return name


def identity_block(graph: Graph, name: str, x: str, activation: Activation = "relu") -> str:
    """add(x, conv(conv(x))), with four channels between."""
    y = graph.conv(f"{name}.conv1", x, 4)
    y = graph.conv(f"{name}.conv2", y, graph.shape(x)[0], activation="none")
    return graph.add(f"{name}.add", y, x, activation=activation)


def projection_block(graph: Graph, name: str, x: str) -> str:
    """A block that halves the maps, so that its shortcut is a convolution too."""
    y = graph.conv(f"{name}.conv1", x, 6, stride=2)
    y = graph.conv(f"{name}.conv2", y, 6, activation="none")
    shortcut = graph.conv(f"{name}.shortcut", x, 6, kernel=1, stride=2, activation="none")
    return graph.add(f"{name}.add", shortcut, y)


def pre_activation_block(graph: Graph, name: str, x: str) -> str:
    """Normalisation before the convolutions (He et al. 2016b), and one behind them."""
    y = graph.scale(f"{name}.norm1", x)
    y = graph.conv(f"{name}.conv", y, graph.shape(x)[0])
    y = graph.scale(f"{name}.norm2", y, activation="none")
    return graph.add(f"{name}.add", x, y, activation="none")


def nested_block(graph: Graph, name: str, x: str) -> str:
    """A block inside a block, with a convolution behind the inner one."""
    y = graph.conv(f"{name}.first", x, 4)
    y = identity_block(graph, f"{name}.inner", y)
    y = graph.conv(f"{name}.last", y, graph.shape(x)[0], activation="none")
    return graph.add(f"{name}.add", y, x, activation="relu6")


def nested_network() -> NetworkSpec:
    """A block inside a block on a trunk of four channels: eight units in groups of two channels."""
    graph = Graph((1, 4, 4))
    x = nested_block(graph, "outer", graph.conv("stem", INPUT, 4))
    graph.dense("classifier", graph.global_pool("pool", x), 2, activation="none")
    return graph.spec()


def separable_pair(graph: Graph, name: str, x: str) -> str:
    """A depthwise convolution and a pointwise one."""
    return graph.conv(f"{name}.pointwise", graph.depthwise(f"{name}.depthwise", x), 5, kernel=1, activation="relu6")


def pooled(graph: Graph, name: str, x: str) -> str:
    """Max pooling, then average pooling, of a convolution."""
    y = graph.pool(f"{name}.max", graph.conv(f"{name}.conv", x, 5))
    return graph.pool(f"{name}.average", y, "average_pool")


PARTS = (identity_block, projection_block, pre_activation_block, nested_block, separable_pair, pooled)


@st.composite
def user_specs(draw: st.DrawFn) -> NetworkSpec:
    """Networks as users build them: some parts in a row, with a head on pooled or on flattened maps."""
    graph = Graph((draw(st.integers(1, 3)), 6, 6), batch_norm=draw(st.booleans()))
    x = graph.conv("stem", INPUT, draw(st.integers(2, 6)))
    for index, part in enumerate(draw(st.lists(st.sampled_from(PARTS), min_size=1, max_size=3)), start=1):
        x = part(graph, f"part{index}", x)
    if draw(st.booleans()):
        x = graph.global_pool("pool", x)
    else:
        x = graph.flatten("flatten", x)
        x = graph.scale("norm", x) if draw(st.booleans()) else x
        x = graph.dense("hidden", x, 7)
    graph.dense("classifier", x, 3, activation="none")
    return graph.spec()


def family_specs() -> st.SearchStrategy[NetworkSpec]:
    """The networks that edgekit knows by name, narrow."""
    widths = st.lists(st.integers(2, 9), min_size=3, max_size=3)
    return st.one_of(
        st.builds(residual_network, st.sampled_from([8, 14]), widths, st.just((1, 8, 8)), st.just(3)),
        st.builds(separable_network, widths, st.just((2, 8, 8)), st.just(3)),
        st.builds(multilayer_perceptron, widths, st.sampled_from([(2, 3, 3), (5,)]), st.just(3)),
    )


@st.composite
def choices(draw: st.DrawFn, structure: Structure) -> Choice:
    """What may stay of a structure: some groups of every droppable space, and any blocks."""
    channels = []
    for space in structure.spaces:
        groups = st.sets(st.integers(0, space.group_count - 1), min_size=1) if space.is_droppable else None
        kept = sorted(draw(groups)) if groups is not None else range(space.group_count)
        channels.append(tuple(channel for group in kept for channel in space.channels_of_group(group)))
    names = [block.add for block in structure.blocks]
    return Choice(tuple(channels), frozenset(draw(st.sets(st.sampled_from(names))) if names else ()))


def random_network(spec: NetworkSpec, seed: int = 0) -> Network:
    """A network in eval mode whose every parameter and running statistic is random: nothing cancels by being 0 or 1."""
    torch.manual_seed(seed)
    network = Network(spec)
    for name, parameter in network.named_parameters():
        if name.endswith("bias") or "batch_norms" in name:
            nn.init.uniform_(parameter, -1, 1)
    for norm in network.batch_norms.values():
        norm.running_mean.uniform_(-0.5, 0.5)  # type: ignore[operator]
        norm.running_var.uniform_(0.5, 2)  # type: ignore[operator]
    return network.eval()


def random_images(spec: NetworkSpec, count: int = 4, seed: int = 1) -> torch.Tensor:
    """Normally distributed inputs, shape (count, *spec.input_shape)."""
    return torch.randn(count, *spec.input_shape, generator=torch.Generator().manual_seed(seed))


def random_latency(structure: Structure, seed: int = 0) -> LatencyModel:
    """A latency model with grids of random positive times of the shapes that the structure asks for."""
    generator = np.random.default_rng(seed)
    grids = [LayerGrid(x.name, generator.uniform(1, 9, grid_shape(structure, x.name))) for x in structure.spec.layers]
    return LatencyModel(structure, grids, overhead_us=3.0, scale=1.5)


def grid_shape(structure: Structure, layer: str) -> tuple[int, int]:
    """Levels of the input and the output space of a layer; one row if they are the same space."""
    source, target = structure.input_space[layer], structure.output_space[layer]
    levels = [space.group_count if space.is_droppable else 1 for space in structure.spaces]
    return (1 if source == target else levels[source], levels[target])
