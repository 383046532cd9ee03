"""What each aten operator means: one small function per operator turns a call into a layer, or passes its input on.

Operators that edgekit does not support end here, with the hint in ``_hints``; merging neighbours is ``_merge``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from edgekit.nn.modules import LayerModules
from edgekit.nn.trace._builder import LayerBuilder, Padding, Value
from edgekit.nn.trace._export import BATCH
from edgekit.nn.trace._graph import Call, operator_name
from edgekit.nn.trace._hints import TRANSPOSITIONS, tokens, unsupported_operator
from edgekit.types import Activation, UnitSpec

Rule = Callable[[LayerBuilder, Call], Value]
Pair = tuple[int, int]


def build_layer(build: LayerBuilder, call: Call) -> Value:
    """The value of a call, after adding the layer that computes it. Raises UnsupportedModelError."""
    rule = _RULES.get(call.operator)
    if rule is None:
        raise unsupported_operator(call)
    return rule(build, call)


def _conv2d(build: LayerBuilder, call: Call) -> Value:
    source = build.padded_source(call, "input")
    path, conv = build.owner(call, "weight", ("weight", "bias"), nn.Conv2d)
    kernel, dilation = _pair(conv.weight.shape[2:]), _pair(call.arguments["dilation"])
    unit = UnitSpec(
        kind="conv",
        input_shape=source.shape,
        output_shape=call.output_shape,
        kernel=kernel,
        stride=_pair(call.arguments["stride"]),
        padding=_sum(source.padding, _convolution_padding(call.arguments["padding"], kernel, dilation)),
        dilation=dilation,
        groups=call.arguments["groups"],
    )
    return build.append(build.weighted_name(path, "conv"), unit, [source], LayerModules(operator=conv))


def _convolution_padding(padding: str | Sequence[int] | int, kernel: Pair, dilation: Pair) -> Padding:
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        # An odd number of zeros: torch puts the additional one below and to the right.
        height, width = (d * (k - 1) for d, k in zip(dilation, kernel, strict=True))
        return (height // 2, width // 2, height - height // 2, width - width // 2)
    vertical, horizontal = _pair(padding)
    return (vertical, horizontal, vertical, horizontal)


def _linear(build: LayerBuilder, call: Call) -> Value:
    source = build.source(call, "input")
    if len(source.shape) != 1:
        raise call.unsupported(
            f"a dense layer on an input of shape {source.shape} per sample; it must be (features,)",
            "flatten before the dense layer, or use a 1x1 convolution",
        )
    path, linear = build.owner(call, "weight", ("weight", "bias"), nn.Linear)
    unit = UnitSpec(kind="dense", input_shape=source.shape, output_shape=call.output_shape)
    return build.append(build.weighted_name(path, "dense"), unit, [source], LayerModules(operator=linear))


def _batch_norm(build: LayerBuilder, call: Call) -> Value:
    source = build.source(call, "input")
    states = ("running_mean", "running_var", "weight", "bias")
    norm: nn.BatchNorm1d | nn.BatchNorm2d
    if len(source.shape) == 3:
        path, norm = build.owner(call, "running_mean", states, nn.BatchNorm2d)
    else:
        path, norm = build.owner(call, "running_mean", states, nn.BatchNorm1d)
    if call.arguments.get("training") or call.arguments["eps"] != norm.eps:
        raise call.unsupported(
            "it does not normalise by the running statistics and eps of its module",
            "call the torch.nn.BatchNorm module itself, and do not force training=True",
        )
    unit = UnitSpec(kind="scale", input_shape=source.shape, output_shape=source.shape)
    return build.append(build.weighted_name(path, "scale"), unit, [source], LayerModules(batch_norm=norm))


def _relu(build: LayerBuilder, call: Call) -> Value:
    return _activation(build, call, "relu")


def _relu6(build: LayerBuilder, call: Call) -> Value:
    return _activation(build, call, "relu6")


def _clamp(build: LayerBuilder, call: Call) -> Value:
    """``hardtanh`` names its bounds min_val and max_val, ``clamp`` min and max."""
    lower = call.arguments.get("min_val", call.arguments.get("min"))
    upper = call.arguments.get("max_val", call.arguments.get("max"))
    if lower != 0 or upper not in (None, 6):
        raise call.unsupported(
            f"clamping to [{lower}, {upper}] is not supported", "use ReLU (from 0 up) or ReLU6 (0 to 6)"
        )
    return _activation(build, call, "relu" if upper is None else "relu6")


def _activation(build: LayerBuilder, call: Call, activation: Activation) -> Value:
    source = build.source(call)
    unit = UnitSpec(kind="activation", input_shape=source.shape, output_shape=source.shape, activation=activation)
    value = build.append(build.derived_name(call, activation), unit, [source])
    return _non_negative(value, True)


def _add(build: LayerBuilder, call: Call) -> Value:
    first, second = build.source(call), build.source(call, "other")
    if first.shape != second.shape or call.arguments.get("alpha", 1) != 1:
        raise call.unsupported(
            f"adding shapes {first.shape} and {second.shape} with factor {call.arguments.get('alpha', 1)}; "
            "the shapes must be equal and the factor 1",
            "bring the shortcut to the shape of the branch by a 1x1 convolution",
        )
    unit = UnitSpec(kind="add", input_shape=first.shape, output_shape=first.shape)
    value = build.append(build.derived_name(call, "add"), unit, [first, second])
    return _non_negative(value, first.is_non_negative and second.is_non_negative)


def _max_pool2d(build: LayerBuilder, call: Call) -> Value:
    source = build.padded_source(call)
    unit = _pool(call, source, "max_pool")
    if any(source.padding):
        # Zeros never win over values >= 0, so there they may stand for the minus infinity of max pooling.
        is_narrow = max(source.padding[0], source.padding[2]) < unit.kernel[0]
        is_narrow = is_narrow and max(source.padding[1], source.padding[3]) < unit.kernel[1]
        if not (source.is_non_negative and is_narrow):
            raise call.unsupported(
                "zero padding before max pooling changes the maximum of negative values",
                "use the padding argument of the max pooling, or pad behind a ReLU",
            )
    value = build.append(build.derived_name(call, "max_pool"), unit, [source])
    return _non_negative(value, source.is_non_negative)


def _avg_pool2d(build: LayerBuilder, call: Call) -> Value:
    source = build.padded_source(call)
    arguments = call.arguments
    unit = _pool(call, source, "average_pool")
    is_padded = any(_pair(arguments["padding"]))
    own_padding = _sum(source.padding, _convolution_padding(arguments["padding"], unit.kernel, unit.dilation))
    if (is_padded and not arguments["count_include_pad"]) or arguments["divisor_override"] is not None:
        raise call.unsupported(
            "average pooling that does not divide by the size of its kernel everywhere",
            "use count_include_pad=True and no divisor_override, or no padding",
        )
    if unit.padding != own_padding:
        raise call.unsupported("average pooling with ceil_mode that reaches over the border", "use ceil_mode=False")
    value = build.append(build.derived_name(call, "average_pool"), unit, [source])
    return _non_negative(value, source.is_non_negative)


def _pool(call: Call, source: Value, kind: str) -> UnitSpec:
    """The unit of a pooling call. ``ceil_mode`` becomes padding below and to the right."""
    arguments = call.arguments
    kernel = _pair(arguments["kernel_size"])
    stride = _pair(arguments["stride"]) if arguments["stride"] else kernel
    dilation = _pair(arguments.get("dilation", 1))
    top, left, bottom, right = _sum(source.padding, _convolution_padding(arguments["padding"], kernel, dilation))
    height, width = source.shape[1:]
    reach = [
        (size - 1) * s + d * (k - 1) + 1
        for size, s, d, k in zip(call.output_shape[1:], stride, dilation, kernel, strict=True)
    ]
    bottom += max(0, reach[0] - (top + height + bottom))
    right += max(0, reach[1] - (left + width + right))
    return UnitSpec(
        kind="max_pool" if kind == "max_pool" else "average_pool",
        input_shape=source.shape,
        output_shape=call.output_shape,
        kernel=kernel,
        stride=stride,
        padding=(top, left, bottom, right),
        dilation=dilation,
    )


def _adaptive_avg_pool2d(build: LayerBuilder, call: Call) -> Value:
    """Equal windows only: then it is average pooling with kernel and stride input size / output size."""
    source = build.source(call)
    channels, height, width = source.shape
    out_height, out_width = call.output_shape[1:]
    if height % out_height or width % out_width:
        raise call.unsupported(
            f"adaptive pooling from {height}x{width} to {out_height}x{out_width} needs windows of unequal size",
            "pool to 1x1, or to a size that divides the input's",
        )
    window = (height // out_height, width // out_width)
    if window == (1, 1):
        return source
    unit = UnitSpec(
        kind="average_pool",
        input_shape=source.shape,
        output_shape=(channels, out_height, out_width),
        kernel=window,
        stride=window,
    )
    return _non_negative(build.append(build.derived_name(call, "pool"), unit, [source]), source.is_non_negative)


def _mean(build: LayerBuilder, call: Call) -> Value:
    source = build.source(call)
    axes = {axis % (len(source.shape) + 1) for axis in call.arguments.get("dim") or ()}
    if len(source.shape) != 3 or axes != {2, 3}:
        raise call.unsupported(
            f"a mean over axes {sorted(axes)}; only the mean over height and width together, axes (2, 3), is supported",
            "use mean((2, 3)) or torch.nn.AdaptiveAvgPool2d(1)",
        )
    if call.arguments["keepdim"]:
        return _adaptive_avg_pool2d(build, call)
    unit = UnitSpec(kind="global_average_pool", input_shape=source.shape, output_shape=source.shape[:1])
    return _non_negative(build.append(build.derived_name(call, "pool"), unit, [source]), source.is_non_negative)


def _flatten(build: LayerBuilder, call: Call) -> Value:
    """Any reshaping that leaves the shape alone or makes one vector per sample, in one step or several."""
    source = build.source(call)
    is_on_the_way = all(_RULES.get(operator_name(user)) is _flatten for user in call.node.users)
    if call.batched_shape == (BATCH, *source.shape) or is_on_the_way:
        return source
    if call.batched_shape != (BATCH, math.prod(source.shape)):
        if any(operator_name(user) in TRANSPOSITIONS for user in call.node.users):
            raise tokens(call, source.shape)
        raise call.unsupported(
            f"it reshapes {source.shape} per sample into {call.output_shape}; only flattening to one vector "
            "per sample is supported",
            "use torch.flatten(x, 1) before the dense layers; channel shuffles and token layouts are not supported",
        )
    unit = UnitSpec(kind="flatten", input_shape=source.shape, output_shape=call.output_shape)
    return _non_negative(build.append(build.derived_name(call, "flatten"), unit, [source]), source.is_non_negative)


def _pad(build: LayerBuilder, call: Call) -> Value:
    """Adds nothing to the network: the layer that reads the value takes the zeros in as its own padding."""
    source = build.padded_source(call)
    amounts = [*call.arguments["pad"], 0, 0, 0, 0]
    left, right, top, bottom = amounts[:4]
    is_zero = call.arguments.get("mode", "constant") == "constant" and not call.arguments.get("value")
    if not is_zero or any(amounts[4:]) or min(amounts) < 0 or len(source.shape) != 3:
        raise call.unsupported(
            "only padding of height and width with zeros is supported",
            "use padding_mode='zeros'; change channel counts by a 1x1 convolution",
        )
    padding = _sum(source.padding, (top, left, bottom, right))
    return Value(source.layer, source.shape, padding, source.is_non_negative)


def _dropout(build: LayerBuilder, call: Call) -> Value:
    source = build.padded_source(call, "input")
    if call.arguments["train"] and call.arguments["p"] > 0:
        raise call.unsupported(
            "dropout that stays on in eval mode", "use torch.nn.Dropout, or pass training=self.training"
        )
    return source


def _same(build: LayerBuilder, call: Call) -> Value:
    source = build.padded_source(call)
    node = call.arguments["self"]
    if call.node.meta["val"].dtype != node.meta["val"].dtype:
        raise call.unsupported(
            f"conversion to {call.node.meta['val'].dtype} inside the network",
            "keep one number type; edgekit quantizes when it exports",
        )
    return source


def _first_result(build: LayerBuilder, call: Call) -> Value:
    if call.arguments["index"] != 0:
        raise call.unsupported("only the first result of an operator can be used", "use its first result alone")
    return build.padded_source(call)


def _non_negative(value: Value, is_non_negative: bool) -> Value:
    return Value(value.layer, value.shape, value.padding, is_non_negative)


def _pair(value: Any) -> Pair:
    sizes = [int(value)] if isinstance(value, int) else [int(size) for size in value]
    return (sizes[0], sizes[-1])


def _sum(first: Padding, second: Padding) -> Padding:
    return (first[0] + second[0], first[1] + second[1], first[2] + second[2], first[3] + second[3])


_RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "conv2d": _conv2d,
        "linear": _linear,
        "batch_norm": _batch_norm,
        "_native_batch_norm_legit_no_training": _batch_norm,
        "relu": _relu,
        "relu6": _relu6,
        "hardtanh": _clamp,
        "clamp": _clamp,
        "clamp_min": _clamp,
        "add": _add,
        "max_pool2d": _max_pool2d,
        "avg_pool2d": _avg_pool2d,
        "adaptive_avg_pool2d": _adaptive_avg_pool2d,
        "mean": _mean,
        "flatten": _flatten,
        "view": _flatten,
        "reshape": _flatten,
        "squeeze": _flatten,
        "pad": _pad,
        "constant_pad_nd": _pad,
        "dropout": _dropout,
        "feature_dropout": _dropout,
        "alpha_dropout": _dropout,
        "feature_alpha_dropout": _dropout,
        "contiguous": _same,
        "clone": _same,
        "detach": _same,
        "alias": _same,
        "to": _same,
        "_to_copy": _same,
        "getitem": _first_result,
    }
)
