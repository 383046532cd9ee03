"""Models that `trace` must refuse, each with what the message and the hint must say.

Only torch and torch.nn.functional, nothing of edgekit; what it must understand is in ``user_models``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class DenseNet(nn.Module):
    """Joins channels."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.ModuleList([nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(7, 4, 3, padding=1)])

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x, self.features[0](x)], 1)
        return self.features[1](x)


class Joining(nn.Module):
    """A concatenation two modules deep."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 3, 1)
        self.dense = DenseNet()

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(self.stem(x))


class SelfAttention(nn.Module):
    """Scaled dot-product attention over a feature vector."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.query(x), self.key(x), self.value(x))


class VisionTransformer(nn.Module):
    """Patches as tokens, multi-head attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        return self.attention(x, x, x)[0]


class Attentive(nn.Module):
    """Multi-head attention over one token."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(x)
        return self.attention(x, x, x, need_weights=False)[0]


class SqueezeExcitation(nn.Module):
    """Multiplies channels by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * F.relu(self.gate(x.mean((2, 3), keepdim=True)))


class TwoInputs(nn.Module):
    """Needs a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.fc(x) + mask


class TwoOutputs(nn.Module):
    """Returns an auxiliary result."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.fc(x), x


class DataDependent(nn.Module):
    """Branches on values."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) if x.sum() > 0 else x


class SharedModule(nn.Module):
    """Calls one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x))


class TiedWeights(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


class NoFlatten(nn.Module):
    """Reshapes channels into groups."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x.view(x.size(0), 2, -1)


class Wrapped(nn.Module):
    """A function of a linear layer's result."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.fc(x))


class BareWeight(nn.Module):
    """A convolution by function, with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight)


class LearnedOffset(nn.Module):
    """Adds a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.offset


class OtherEps(nn.Module):
    """Batch normalisation by function, with another eps than its module's."""

    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(4, eps=0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.bn.running_mean, self.bn.running_var, self.bn.weight, self.bn.bias)


MAP, VECTOR = (4, 8, 8), (4,)
UNSUPPORTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "concatenation": (Joining, (3, 8, 8), r"aten\.cat in 'dense' .*concatenation", "addition"),
    "tokens": (SelfAttention, (6, 8), "cannot read inputs of shape", "without the batch"),
    "attention": (SelfAttention, (8,), r"aten\.scaled_dot_product_attention .*attention", "convolutional"),
    "transformer": (VisionTransformer, (3, 8, 8), r"aten\.flatten .*attention and transposition", "convolutional"),
    "recurrent": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GRU(4, 4)), VECTOR, "forward returns 2 values", "logits"),
    "multi-head": (Attentive, (8,), r"aten\.unsqueeze in 'attention' .*attention is not", "convolutional"),
    "gelu": (lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU()), VECTOR, r"aten\.gelu in '1'", "ReLU"),
    "silu": (lambda: nn.Sequential(nn.Linear(4, 4), nn.SiLU(inplace=True)), VECTOR, r"aten\.silu in '1'", "ReLU"),
    "hardswish": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Hardswish()), VECTOR, r"aten\.hardswish in '1'", "ReLU"),
    "layer-norm": (
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)),
        VECTOR,
        r"aten\.layer_norm in '1'",
        "BatchNo",
    ),
    "softmax": (lambda: nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)), VECTOR, r"aten\.softmax in '1'", "logits"),
    "squeeze-excitation": (SqueezeExcitation, (3, 8, 8), r"aten\.mul in .*squeeze-and-excitation", "gate"),
    "transposed": (lambda: nn.ConvTranspose2d(4, 2, 3), MAP, r"aten\.conv_transpose2d .*forward conv", "Conv2d"),
    "two-inputs": (TwoInputs, VECTOR, r"forward takes 2 inputs \(x, mask\)", "wrap"),
    "two-outputs": (TwoOutputs, VECTOR, "forward returns 2 values", "logits alone"),
    "data-dependent": (DataDependent, VECTOR, "branches on the values", "shapes"),
    "shared-module": (SharedModule, VECTOR, "weight of 'fc' is used more than once", "copy"),
    "tied-weights": (TiedWeights, VECTOR, "is used more than once", "copy"),
    "no-flatten": (NoFlatten, MAP, r"aten\.view in .*reshapes \(4, 6, 6\)", "flatten"),
    "wrong-shape": (lambda: nn.Linear(4, 4), (5,), r"does not run on an input of shape \(2, 5\)", "input shape"),
    "wrong-shape-inside": (lambda: Wrapped(lambda x: x + torch.ones(3)), VECTOR, "does not run on an input", "shape"),
    "untraceable": (
        lambda: Wrapped(lambda x: torch.from_numpy(x.detach().numpy())),
        VECTOR,
        "torch.export cannot trace",
        "numpy",
    ),
    "functional-dropout": (lambda: Wrapped(F.dropout), VECTOR, r"aten\.dropout .*stays on in eval", "self.training"),
    "scaled-add": (lambda: Wrapped(lambda x: torch.add(x, x, alpha=2)), VECTOR, r"aten\.add .*factor 2", "1x1"),
    "constant": (lambda: Wrapped(lambda x: x + 1), VECTOR, r"aten\.add .*constant", "preprocessing"),
    "parameter": (LearnedOffset, VECTOR, r"aten\.add .*'other' is a constant or a parameter", "preprocessing"),
    "clamp": (lambda: Wrapped(lambda x: x.clamp(-1, 1)), VECTOR, r"aten\.clamp .*\[-1, 1\]", "ReLU"),
    "half": (lambda: Wrapped(lambda x: x.half()), VECTOR, r"aten\.to .*conversion", "number type"),
    "second-result": (lambda: Wrapped(lambda x: x.max(1)[1]), VECTOR, r"aten\.max .*pooling", "MaxPool2d"),
    "bare-weight": (BareWeight, MAP, "not those of one torch.nn.Conv2d", "hold"),
    "weight-norm": (
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
        VECTOR,
        "aten._weight_norm .*computed in forward",
        "parametrizations",
    ),
    "no-statistics": (lambda: nn.BatchNorm2d(4, track_running_stats=False), MAP, "running_mean", "running statistics"),
    "other-eps": (OtherEps, MAP, "statistics and eps", "module itself"),
    "reflection": (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), MAP, r"aten\.pad .*zeros", "zeros"),
    "crop": (lambda: nn.ZeroPad2d(-1), MAP, r"aten\.pad .*zeros", "zeros"),
    "only-padding": (lambda: nn.ZeroPad2d(1), MAP, "not the result of a layer", "layer"),
    "identity": (lambda: nn.Identity(), MAP, "not the result of a layer", "layer"),
    "padded-relu": (lambda: nn.Sequential(nn.ZeroPad2d(1), nn.ReLU()), MAP, r"aten\.relu in '1': .*zero-padded", "pad"),
    "padded-max": (lambda: nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(2)), MAP, r"aten\.max_pool2d .*maximum", "ReLU"),
    "uneven-average": (
        lambda: nn.AvgPool2d(2, padding=1, count_include_pad=False),
        MAP,
        r"aten\.avg_pool2d .*divide",
        "include",
    ),
    "ceil-average": (lambda: nn.AvgPool2d(3, 2, ceil_mode=True), MAP, r"aten\.avg_pool2d .*ceil_mode", "False"),
    "uneven-windows": (lambda: nn.AdaptiveAvgPool2d(3), MAP, "8x8 to 3x3", "divides"),
    "channel-mean": (lambda: Wrapped(lambda x: x.mean(1, keepdim=True)), VECTOR, r"axes \[1\]", "AdaptiveAvgPool2d"),
    "dense-on-map": (lambda: nn.Linear(8, 3), MAP, r"aten\.linear .*dense layer", "flatten"),
}
"""Factory, input shape, what the message must say, what the hint must say."""
