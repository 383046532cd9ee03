"""Models as users write them: one of each style that `trace` must understand.

Only torch and torch.nn.functional, nothing of edgekit; what it must refuse is in ``unsupported_models``.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PlainCnn(nn.Module):
    """Functional activations and pooling, flattening by view."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 12, 3, stride=2, bias=False)
        self.bn2 = nn.BatchNorm2d(12)
        self.fc = nn.Linear(12 * 3 * 3, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        return self.fc(x.view(x.size(0), -1))


def lenet() -> nn.Module:
    """LeNet-5 as one Sequential."""
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 2 * 2, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


class Vgg(nn.Module):
    """Nested Sequentials, in-place ReLU, adaptive pooling to more than one pixel, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(self._stage(3, 8), self._stage(8, 16), self._stage(16, 16))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.classifier = nn.Sequential(
            nn.Linear(64, 32), nn.BatchNorm1d(32), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(32, 10)
        )

    @staticmethod
    def _stage(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2, 2, ceil_mode=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(torch.flatten(self.pool(self.features(x)), 1))


class BasicBlock(nn.Module):
    """Residual block of two convolutions (He et al. 2016), one ReLU module for both places."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu(out)


class Bottleneck(nn.Module):
    """1x1, grouped 3x3, 1x1 (ResNeXt), addition without activation fused by hand."""

    def __init__(self, inputs: int, middle: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, padding=1, groups=2, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return torch.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


class PreActivationBlock(nn.Module):
    """Batch normalisation and ReLU before the convolution (He et al. 2016b): nothing to fold the first one into."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(x))
        return self.shortcut(y) + self.conv2(F.relu(self.bn2(self.conv1(y))))


class ResidualNet(nn.Module):
    """Stem, blocks, global pooling, classifier."""

    def __init__(self, blocks: list[nn.Module], width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.layers = nn.Sequential(*blocks)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def resnet() -> nn.Module:
    """Basic blocks, one with a projection."""
    return ResidualNet([BasicBlock(8, 8), BasicBlock(8, 16, 2)], 16)


def bottleneck_resnet() -> nn.Module:
    """Bottlenecks, one with a projection, one with an identity."""
    return ResidualNet([Bottleneck(8, 4, 16), Bottleneck(16, 4, 16)], 16)


def pre_activation_resnet() -> nn.Module:
    """Pre-activation blocks with a last batch normalisation behind the last addition."""
    blocks = [PreActivationBlock(8, 8), PreActivationBlock(8, 16, 2), nn.BatchNorm2d(16), nn.ReLU()]
    return ResidualNet(blocks, 16)


def deep_resnet(depth: int) -> nn.Module:
    """``depth`` basic blocks: two layers each."""
    return ResidualNet([BasicBlock(8, 8) for _ in range(depth)], 8)


def mobilenet_v1() -> nn.Module:
    """Depthwise and pointwise convolutions, one with a channel multiplier."""

    def layer(inputs: int, outputs: int, kernel: int, stride: int, groups: int) -> list[nn.Module]:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return [conv, nn.BatchNorm2d(outputs), nn.ReLU6(inplace=True)]

    return nn.Sequential(
        *layer(3, 8, 3, 2, 1),
        *layer(8, 8, 3, 1, 8),
        *layer(8, 16, 1, 1, 1),
        *layer(16, 32, 3, 2, 16),
        *layer(32, 16, 1, 1, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expansion, depthwise, linear projection."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = inputs * 3
        self.has_shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(inplace=True),
            nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False),
            nn.BatchNorm2d(middle),
            nn.ReLU6(inplace=True),
            nn.Conv2d(middle, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_shortcut else self.conv(x)


class MobileNetV2(nn.Module):
    """Inverted residuals, global pooling by mean, dropout before the classifier."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [InvertedResidual(8, 8, 1), InvertedResidual(8, 12, 2), InvertedResidual(12, 12, 1)]
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), *blocks)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(12, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


def multilayer_perceptron() -> nn.Module:
    """Image in, flattened first; batch normalisation without parameters of its own; clamp as ReLU."""

    class Clamp(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp(min=0)

    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(3 * 14 * 14, 24, bias=False),
        nn.BatchNorm1d(24, affine=False),
        nn.ReLU(),
        nn.Linear(24, 16),
        Clamp(),
        nn.Linear(16, 10),
    )


class SamePadding(nn.Module):
    """``padding='same'`` with an even kernel and with dilation, zero padding as modules and by F.pad."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, (4, 3), padding="same")
        self.conv2 = nn.Conv2d(8, 8, 3, padding="same", dilation=2)
        self.pad = nn.ZeroPad2d((0, 1, 0, 1))
        self.conv3 = nn.Conv2d(8, 8, 3, stride=2)
        self.conv4 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.conv2(F.relu(self.conv1(x))))
        x = F.max_pool2d(F.pad(x, (1, 0, 1, 0)), 3, 2)
        x = self.conv3(self.pad(x))
        x = F.avg_pool2d(F.pad(x, (0, 1, 1, 0)), 2, 1, padding=1)
        x = self.conv4(F.pad(x, (2, 0, 1, 0)))
        return self.fc(F.adaptive_avg_pool2d(x, 1).squeeze(3).squeeze(2))


class InPlace(nn.Module):
    """In-place operators on tensors that are read again under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.dropout = nn.Dropout()
        self.fc = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        alias = self.dropout(x)
        F.relu(x, inplace=True)
        x = self.conv2(x)
        x += alias
        before = x
        x += alias
        before.relu_()
        return self.dropout(self.fc((x + before).mean((2, 3))))


class ConvolutionalHead(nn.Module):
    """A 1x1 convolution behind the global pooling, flattened last; an unused branch; the first ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.conv = nn.Conv2d(3, 8, 3)
        self.unused = nn.GELU()
        self.head = nn.Conv2d(8, 10, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(self.relu(x))
        self.unused(x)
        return self.head(x.mean((-2, -1), keepdim=True)).flatten(1)


class SharedReading(nn.Module):
    """A convolution that is read before its normalisation and before its activation: neither can be fused."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.bn(x)
        return F.avg_pool2d(F.relu(F.relu6(y) + y + x), 2, padding=1) + F.avg_pool2d(
            self.bn2(F.relu(y)), 2, padding=1, count_include_pad=True
        )


SUPPORTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (PlainCnn, (3, 14, 14)),
    "lenet": (lenet, (1, 16, 16)),
    "vgg": (Vgg, (3, 15, 13)),
    "resnet": (resnet, (3, 14, 14)),
    "bottleneck": (bottleneck_resnet, (3, 14, 14)),
    "pre-activation": (pre_activation_resnet, (3, 14, 14)),
    "mobilenet-v1": (mobilenet_v1, (3, 14, 14)),
    "mobilenet-v2": (MobileNetV2, (3, 14, 14)),
    "mlp": (multilayer_perceptron, (3, 14, 14)),
    "same-padding": (SamePadding, (3, 17, 14)),
    "in-place": (InPlace, (3, 8, 8)),
    "convolutional-head": (ConvolutionalHead, (3, 9, 9)),
    "shared-reading": (SharedReading, (3, 8, 8)),
    "one-layer": (lambda: nn.Linear(5, 3), (5,)),
}
"""Factory and input shape of every supported style."""
