"""A `NetworkSpec` as a torch module: runs the graph layer by layer, with or without gates.

How gates are drawn and learned is in ``gates``; how a network is made smaller for good is in ``cut``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional as F

from edgekit.nn.modules import LayerModules, make_modules
from edgekit.types import INPUT, Activation, Layer, NetworkSpec


@dataclass(frozen=True)
class GateSample:
    """One draw of all drop coefficients, as the network applies them.

    ``multipliers``: by layer with weights, a factor per output feature, shape (features,) or (). It applies before the
    activation. ``skipped``: layers that take no part in this step, forward or backward. ``bypass``: by add layer of a
    skipped block, the one input that is passed on.
    """

    multipliers: Mapping[str, Tensor] = field(default_factory=dict)
    skipped: frozenset[str] = frozenset()
    bypass: Mapping[str, str] = field(default_factory=dict)


OPEN = GateSample()
"""All gates open: the network as it is."""


class Network(nn.Module):
    """Executes ``spec`` on batches of shape (N, *spec.input_shape); the result has shape (N, *output shape).

    ``modules`` holds the parameters by layer name; without it, fresh ones are made. Given a user's own modules, the
    parameters are shared with them.
    """

    def __init__(self, spec: NetworkSpec, modules: Mapping[str, LayerModules] | None = None) -> None:
        super().__init__()
        self.spec = spec
        self.layer_modules = dict(modules) if modules is not None else {x.name: make_modules(x) for x in spec.layers}
        self.operators = nn.ModuleDict()
        self.batch_norms = nn.ModuleDict()
        for name, parts in self.layer_modules.items():
            if parts.operator is not None:
                self.operators[_key(name)] = parts.operator
            if parts.batch_norm is not None:
                self.batch_norms[_key(name)] = parts.batch_norm
        self._last_use = _last_uses(spec)

    def forward(self, batch: Tensor, gates: GateSample = OPEN) -> Tensor:
        """Logits of a batch, under one draw of the gates."""
        values = {INPUT: batch}
        for layer in self.spec.layers:
            if layer.name in gates.bypass and layer.name not in gates.skipped:
                values[layer.name] = _activate(values[gates.bypass[layer.name]], layer.unit.activation)
            elif layer.name not in gates.skipped:
                values[layer.name] = self._run(layer, [values[name] for name in layer.inputs], gates)
            for name in self._last_use.get(layer.name, ()):
                values.pop(name, None)
        return values[self.spec.output.name]

    def _run(self, layer: Layer, inputs: list[Tensor], gates: GateSample) -> Tensor:
        unit = layer.unit
        parts = self.layer_modules.get(layer.name, LayerModules())
        if unit.kind in ("conv", "dense", "scale"):
            y = _weighted(layer, parts, inputs[0], gates.multipliers.get(layer.name))
        elif unit.kind == "add":
            y = sum(inputs[1:], start=inputs[0])
        elif unit.kind == "flatten":
            y = inputs[0].flatten(1)
        elif unit.kind == "activation":
            y = inputs[0]
        else:
            y = _pool(layer, inputs[0])
        return _activate(y, unit.activation)


def _weighted(layer: Layer, parts: LayerModules, x: Tensor, multiplier: Tensor | None) -> Tensor:
    """Convolution or dense layer with its batch normalisation, times ``multiplier``.

    The multiplier goes into the normalisation's scale and shift, or else into the weights: m * BN(x) = (m gamma) x^ +
    m beta. No activation is touched, so a gate costs next to nothing.
    """
    if parts.operator is not None:
        x = _operate(layer, parts.operator, x, multiplier if parts.batch_norm is None else None)
    return x if parts.batch_norm is None else _normalise(parts.batch_norm, x, multiplier)


def _operate(layer: Layer, operator: nn.Conv2d | nn.Linear, x: Tensor, multiplier: Tensor | None) -> Tensor:
    weight: Tensor = operator.weight
    bias: Tensor | None = operator.bias
    if multiplier is not None:
        weight = weight * multiplier.reshape(-1, *[1] * (weight.dim() - 1))
        bias = bias * multiplier if bias is not None else None
    return _convolve(layer, x, weight, bias) if layer.unit.kind == "conv" else F.linear(x, weight, bias)


def _normalise(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor, multiplier: Tensor | None) -> Tensor:
    """Ioffe and Szegedy 2015; a normalisation without scale and shift is multiplied behind."""
    gamma: Tensor | None = norm.weight
    beta: Tensor | None = norm.bias
    if multiplier is not None and gamma is not None and beta is not None:
        gamma, beta, multiplier = gamma * multiplier, beta * multiplier, None
    x = F.batch_norm(x, norm.running_mean, norm.running_var, gamma, beta, norm.training, _momentum(norm), norm.eps)
    return x if multiplier is None else x * multiplier.reshape(1, -1, *[1] * (x.dim() - 2))


def _momentum(norm: nn.BatchNorm1d | nn.BatchNorm2d) -> float:
    """Weight of this batch in the running statistics; a ``momentum`` of None asks for their plain mean."""
    if norm.momentum is not None or norm.num_batches_tracked is None:
        return norm.momentum or 0.0
    if norm.training:
        norm.num_batches_tracked.add_(1)
    return 1.0 / max(1, int(norm.num_batches_tracked))


def _convolve(layer: Layer, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    unit = layer.unit
    top, left, bottom, right = unit.padding
    if (top, left) == (bottom, right):
        return F.conv2d(x, weight, bias, unit.stride, (top, left), unit.dilation, unit.groups)
    x = F.pad(x, (left, right, top, bottom))
    return F.conv2d(x, weight, bias, unit.stride, 0, unit.dilation, unit.groups)


def _pool(layer: Layer, x: Tensor) -> Tensor:
    unit = layer.unit
    if unit.kind == "global_average_pool":
        return x.mean((2, 3))
    top, left, bottom, right = unit.padding
    if unit.kind == "max_pool":
        x = F.pad(x, (left, right, top, bottom), value=float("-inf")) if any(unit.padding) else x
        return F.max_pool2d(x, unit.kernel, unit.stride, dilation=unit.dilation)
    x = F.pad(x, (left, right, top, bottom)) if any(unit.padding) else x
    return F.avg_pool2d(x, unit.kernel, unit.stride)


def _activate(x: Tensor, activation: Activation) -> Tensor:
    if activation == "relu":
        return F.relu(x)
    return F.relu6(x) if activation == "relu6" else x


def _key(layer_name: str) -> str:
    """Module names may not hold dots."""
    return layer_name.replace(".", "/")


def _last_uses(spec: NetworkSpec) -> dict[str, tuple[str, ...]]:
    """By layer, the tensors that nobody reads after it."""
    last: dict[str, str] = {}
    for layer in spec.layers:
        for name in layer.inputs:
            last[name] = layer.name
    uses: dict[str, tuple[str, ...]] = {}
    for name, reader in last.items():
        uses[reader] = (*uses.get(reader, ()), name)
    return uses


def clone(network: Network) -> Network:
    """A copy with parameters of its own, in the same mode."""
    return copy.deepcopy(network)
