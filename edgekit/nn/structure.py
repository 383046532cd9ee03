"""What of a network can be dropped: channel spaces (channels tied together by the graph) and residual blocks.

Pure analysis of a `NetworkSpec`: no torch, no times, no learned numbers; those are attached in ``gates`` and
``latency``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edgekit.types import INPUT, Layer, NetworkSpec


@dataclass(frozen=True)
class ChannelSpace:
    """Channels that exist in several layers at once and can only be removed from all of them together.

    ``writers`` are the layers with weights whose outputs they are (several on a residual stream, the *trunk*; depthwise
    convolutions and lone normalisations too: their shift would revive a channel that arrives as zero). ``group_size``
    channels are gated and removed together. ``locked`` says why nothing can be removed, if so.
    """

    name: str
    size: int
    writers: tuple[str, ...]
    is_trunk: bool
    group_size: int
    locked: str | None = None

    @property
    def group_count(self) -> int:
        """Number of channel groups; the last one may be smaller."""
        return -(-self.size // self.group_size)

    @property
    def is_droppable(self) -> bool:
        """Whether at least one group can go: one always stays."""
        return self.locked is None and self.group_count > 1

    def channels_of_group(self, group: int) -> range:
        """Channel indices of one group."""
        return range(group * self.group_size, min((group + 1) * self.group_size, self.size))

    def width(self, kept_groups: int) -> int:
        """Channels left when ``kept_groups`` groups are kept."""
        return min(kept_groups * self.group_size, self.size)


@dataclass(frozen=True)
class Block:
    """A residual branch that can be dropped whole: without it, ``add`` passes on ``shortcut``.

    ``writer`` is the branch's last layer with weights: scaled by 0, it silences the whole branch, since no layer behind
    it shifts its values or reads anything else.
    """

    add: str
    branch: tuple[str, ...]
    branch_output: str
    shortcut: str
    writer: str


@dataclass(frozen=True)
class Structure:
    """The droppable parts of a network. ``input_space`` and ``output_space`` give, by layer name, indices into
    ``spaces``; ``input_span`` the consecutive features that each channel occupies in a flattened input."""

    spec: NetworkSpec
    spaces: tuple[ChannelSpace, ...]
    input_space: Mapping[str, int]
    output_space: Mapping[str, int]
    input_span: Mapping[str, int]
    blocks: tuple[Block, ...]

    def output_span(self, layer: str) -> int:
        """Consecutive output features of a layer with weights that belong to one channel: more than one only for a
        ``scale`` behind a flatten."""
        return self.input_span[layer] if self.spec.layer(layer).unit.kind == "scale" else 1

    def guards(self, layer: str) -> tuple[int, ...]:
        """Indices of the blocks that take this layer away when they are dropped."""
        return tuple(i for i, block in enumerate(self.blocks) if layer in block.branch or layer == block.add)

    def guards_of_space(self, space: int) -> tuple[int, ...]:
        """Indices of the blocks that take all writers of a space away: the space lives inside them."""
        writers = self.spaces[space].writers
        if not writers:
            return ()
        common = set(self.guards(writers[0]))
        for writer in writers[1:]:
            common &= set(self.guards(writer))
        return tuple(sorted(common))


def default_group_size(channels: int) -> int:
    """16 where that leaves four groups, else 8: the blocks in which CPU kernels really work (FINDINGS: 4, 8 or 16)."""
    return 16 if channels >= 64 else 8


def analyse(spec: NetworkSpec, group_size: int | None = None) -> Structure:
    """Find channel spaces and droppable blocks. ``group_size`` overrides `default_group_size` for every space."""
    tensors = _trace_tensors(spec)
    roots = sorted({tensors.find(name) for name in tensors.parent}, key=list(tensors.parent).index)
    index = {root: i for i, root in enumerate(roots)}
    spaces = tuple(_space(spec, tensors, root, group_size) for root in roots)
    return Structure(
        spec=spec,
        spaces=spaces,
        input_space={layer.name: index[tensors.find(layer.inputs[0])] for layer in spec.layers},
        output_space={layer.name: index[tensors.find(layer.name)] for layer in spec.layers},
        input_span={layer.name: tensors.span[layer.inputs[0]] for layer in spec.layers},
        blocks=_find_blocks(spec),
    )


@dataclass
class _Tensors:
    """Union-find over tensor names, with the features per channel and the reasons for locks."""

    parent: dict[str, str]
    span: dict[str, int]
    locked: dict[str, str]

    def find(self, name: str) -> str:
        while self.parent[name] != name:
            name = self.parent[name]
        return name

    def join(self, first: str, second: str) -> None:
        first, second = sorted((self.find(first), self.find(second)), key=list(self.parent).index)
        self.parent[second] = first

    def lock(self, name: str, reason: str) -> None:
        self.locked.setdefault(name, reason)


def _trace_tensors(spec: NetworkSpec) -> _Tensors:
    tensors = _Tensors({INPUT: INPUT}, {INPUT: 1}, {INPUT: "it is the network's input"})
    for layer in spec.layers:
        tensors.parent[layer.name] = layer.name
        tensors.span[layer.name] = 1
        _relate(layer, tensors)
    tensors.lock(spec.output.name, "it is the network's output")
    return tensors


def _relate(layer: Layer, tensors: _Tensors) -> None:
    unit, source = layer.unit, layer.inputs[0]
    if unit.kind == "dense" or (unit.kind == "conv" and unit.groups == 1):
        return
    if unit.kind == "conv" and not unit.is_depthwise:
        reason = f"the grouped convolution {layer.name!r} ties channels across groups"
        tensors.lock(source, reason)
        tensors.lock(layer.name, reason)
        return
    tensors.span[layer.name] = tensors.span[source]
    tensors.join(source, layer.name)
    for name in layer.inputs[1:]:
        _relate_addend(layer, name, tensors)
    if unit.kind == "flatten" and len(unit.input_shape) == 3:
        tensors.span[layer.name] *= unit.input_shape[1] * unit.input_shape[2]


def _relate_addend(add: Layer, name: str, tensors: _Tensors) -> None:
    if tensors.span[name] == tensors.span[add.name]:
        tensors.join(name, add.name)
        return
    reason = f"{add.name!r} adds flattened maps to features that are not"
    tensors.lock(name, reason)
    tensors.lock(add.name, reason)


def _space(spec: NetworkSpec, tensors: _Tensors, root: str, group_size: int | None) -> ChannelSpace:
    members = [layer for layer in spec.layers if tensors.find(layer.name) == root]
    writers = tuple(m.name for m in members if m.unit.has_weights)
    size = spec.input_shape[0] if root == tensors.find(INPUT) else members[0].unit.output_shape[0]
    reasons = [reason for name, reason in tensors.locked.items() if tensors.find(name) == root]
    return ChannelSpace(
        name=writers[0] if writers else INPUT,
        size=size,
        writers=writers,
        is_trunk=any(m.unit.kind == "add" for m in members),
        group_size=group_size or default_group_size(size),
        locked=reasons[0] if reasons else None,
    )


def _find_blocks(spec: NetworkSpec) -> tuple[Block, ...]:
    layers = {layer.name: layer for layer in spec.layers}
    consumers: dict[str, list[str]] = {name: [] for name in (INPUT, *layers)}
    for layer in spec.layers:
        for name in layer.inputs:
            consumers[name].append(layer.name)
    blocks = []
    # The network's output is no hidden unit: an add that ends the network always stays.
    for layer in spec.layers[:-1]:
        if layer.unit.kind == "add" and len(layer.inputs) == 2:
            first, second = layer.inputs
            candidates = [
                _branch(layer.name, first, second, layers, consumers),
                _branch(layer.name, second, first, layers, consumers),
            ]
            found = [block for block in candidates if block is not None]
            if found:
                blocks.append(max(found, key=lambda block: len(block.branch)))
    return tuple(blocks)


def _branch(
    add: str, output: str, shortcut: str, layers: Mapping[str, Layer], consumers: Mapping[str, list[str]]
) -> Block | None:
    """The layers that only ``output`` needs and ``shortcut`` does not, if nothing else reads any of them."""
    needed_by_shortcut = _ancestors(shortcut, layers)
    branch = _ancestors(output, layers) - needed_by_shortcut
    writer = _last_writer(output, branch, layers)
    if writer is None or not any(layers[name].unit.kind in ("conv", "dense") for name in branch):
        return None
    if any(reader not in branch and reader != add for name in branch for reader in consumers[name]):
        return None
    ordered = tuple(name for name in layers if name in branch)
    return Block(add=add, branch=ordered, branch_output=output, shortcut=shortcut, writer=writer)


def _last_writer(output: str, branch: set[str], layers: Mapping[str, Layer]) -> str | None:
    """The layer with weights that alone determines ``output`` up to pooling, activation and flattening, if there is
    one: a branch that ends in an inner add has several."""
    name = output
    while name in branch and not layers[name].unit.has_weights:
        if len(layers[name].inputs) != 1:
            return None
        name = layers[name].inputs[0]
    return name if name in branch else None


def _ancestors(name: str, layers: Mapping[str, Layer]) -> set[str]:
    """The tensor itself and all that it is computed from."""
    found, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found.add(current)
            waiting.extend(layers[current].inputs if current in layers else ())
    return found
