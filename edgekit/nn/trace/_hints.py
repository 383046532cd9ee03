"""What to say about operators that edgekit does not support: what they are, and what to use instead.

Text only; which operators are supported is decided in ``_operators``.
"""

from __future__ import annotations

from edgekit.errors import UnsupportedModelError
from edgekit.nn.trace._graph import Call
from edgekit.types import Shape

_SUPPORTED = "edgekit cuts plain, residual and depthwise CNNs and MLPs"
_ACTIVATION = ("this activation is not supported", "use ReLU or ReLU6, and train again: every runtime fuses them")
_SOFTMAX = (
    "softmax is not a part of the network",
    "return the logits; the loss and the runner apply the softmax themselves",
)
_ATTENTION = ("attention is not supported", f"{_SUPPORTED}; use a convolutional network")
_NORM = (
    "this normalisation is computed anew for every input and cannot be folded into weights",
    "use torch.nn.BatchNorm2d or BatchNorm1d",
)
_COMPUTED_WEIGHT = (
    "weights that are computed in forward are not supported",
    "remove weight normalisation and other parametrizations before tracing "
    "(torch.nn.utils.parametrize.remove_parametrizations)",
)
_JOIN = (
    "concatenation is not supported",
    f"{_SUPPORTED}; replace it by an addition, or keep this part outside the traced model",
)
_MULTIPLY = (
    "multiplying tensors (squeeze-and-excitation, gating) is not supported",
    f"{_SUPPORTED}; leave the gate out, or replace it by an addition",
)
_CONSTANT = (
    "arithmetic other than the addition of two layers is not supported",
    "move constant factors and offsets into the preprocessing or into a batch normalisation",
)
_RESIZE = (
    "upsampling is not supported",
    f"{_SUPPORTED} that give one vector; keep the decoder outside the traced model",
)
_CONVOLUTION = ("only two-dimensional forward convolutions are supported", "use torch.nn.Conv2d")
_LAYOUT = (
    "moving or cutting axes is not supported",
    "keep (batch, channels, height, width) until the flatten; replace channel shuffles by a 1x1 convolution",
)
_POOL = ("this pooling is not supported", "use MaxPool2d, AvgPool2d or AdaptiveAvgPool2d(1)")

_SEQUENCE = (
    "recurrent layers and embeddings are not supported",
    f"{_SUPPORTED}; turn the sequence into an image, such as a spectrogram, and use convolutions",
)

_HINTS: dict[tuple[str, str], tuple[str, ...]] = {
    _ACTIVATION: (
        *("gelu", "silu", "hardswish", "hardsigmoid", "sigmoid", "tanh", "leaky_relu", "prelu", "elu", "selu", "celu"),
        *("mish", "softplus", "rrelu", "glu", "log_sigmoid", "threshold", "softsign"),
    ),
    _SOFTMAX: ("softmax", "log_softmax"),
    _ATTENTION: (
        *("scaled_dot_product_attention", "matmul", "bmm", "einsum", "_native_multi_head_attention"),
        *("_transformer_encoder_layer_fwd", "baddbmm"),
    ),
    _NORM: ("layer_norm", "group_norm", "instance_norm", "rms_norm", "local_response_norm"),
    _COMPUTED_WEIGHT: ("_weight_norm", "_weight_norm_interface"),
    _SEQUENCE: ("lstm", "gru", "rnn_tanh", "rnn_relu", "embedding"),
    _JOIN: ("cat", "concat", "stack"),
    _MULTIPLY: ("mul",),
    _CONSTANT: ("sub", "rsub", "div", "pow", "neg", "abs", "sqrt", "exp"),
    _RESIZE: (
        *("upsample_nearest2d", "upsample_bilinear2d", "upsample_bicubic2d", "pixel_shuffle", "grid_sampler"),
        "interpolate",
    ),
    _CONVOLUTION: (*("conv1d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution"),),
    _LAYOUT: (
        *("permute", "transpose", "t", "chunk", "split", "split_with_sizes", "slice", "select", "unsqueeze"),
        *("channel_shuffle", "roll", "flip", "unflatten", "expand", "repeat", "index"),
    ),
    _POOL: ("adaptive_max_pool2d", "max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "lp_pool2d", "amax", "max"),
}
_BY_OPERATOR = {operator: advice for advice, operators in _HINTS.items() for operator in operators}
_OTHER = ("this operator is not supported", f"{_SUPPORTED}; replace it, or keep it outside the traced model")


TRANSPOSITIONS = ("transpose", "permute", "movedim", "swapaxes", "t")
"""What makes a list of tokens of a map that was flattened in part."""


def tokens(call: Call, shape: Shape) -> UnsupportedModelError:
    """The error for a map of ``shape`` that becomes a list of tokens, as attention takes it."""
    return call.unsupported(
        f"it makes tokens of {shape} per sample, which are then transposed: attention and transposition are not "
        "supported",
        _ATTENTION[1],
    )


def unsupported_operator(call: Call) -> UnsupportedModelError:
    """The error for a call of an operator that has no rule."""
    is_attention = call.module_type == "MultiheadAttention"
    problem, hint = _ATTENTION if is_attention else _BY_OPERATOR.get(call.operator, _OTHER)
    return call.unsupported(problem, hint)
