"""Folded weights compute what layer and batch normalisation compute in eval mode; bad parameters are refused."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from edgekit.errors import BadInputError, UnsupportedModelError  # noqa: E402
from edgekit.nn.folding import fold  # noqa: E402
from edgekit.nn.modules import LayerModules  # noqa: E402
from edgekit.runtimes._base import LayerWeights  # noqa: E402
from edgekit.types import INPUT, Layer, NetworkSpec, UnitSpec  # noqa: E402

CONV = UnitSpec(kind="conv", input_shape=(4, 6, 6), output_shape=(8, 4, 4), kernel=(3, 3), groups=2)
DENSE = UnitSpec(kind="dense", input_shape=(5,), output_shape=(8,))
SCALE = UnitSpec(kind="scale", input_shape=(8, 4, 4), output_shape=(8, 4, 4))
FLATTEN = UnitSpec(kind="flatten", input_shape=(2, 2, 2), output_shape=(8,))


def _fold_one(unit: UnitSpec, modules: LayerModules) -> LayerWeights:
    layer = Layer(name="one", unit=unit, inputs=(INPUT,), batch_norm=modules.batch_norm is not None)
    spec = NetworkSpec(name="test", input_shape=unit.input_shape, layers=(layer,))
    return fold(spec, {"one": modules})["one"]


def _trained_norm(norm: nn.BatchNorm1d | nn.BatchNorm2d, seed: int = 0) -> nn.BatchNorm1d | nn.BatchNorm2d:
    generator = torch.Generator().manual_seed(seed)
    norm.running_mean.normal_(0, 1, generator=generator)
    norm.running_var.uniform_(0.1, 3, generator=generator)
    if norm.affine:
        nn.init.normal_(norm.weight, 0, 1, generator=generator)
        nn.init.normal_(norm.bias, 0, 1, generator=generator)
    return norm.eval()


@settings(max_examples=20)
@given(seed=st.integers(0, 2**31), has_bias=st.booleans(), affine=st.booleans(), eps=st.sampled_from([1e-5, 1e-3]))
def test_folded_convolution_computes_convolution_and_batch_norm(
    seed: int, has_bias: bool, affine: bool, eps: float
) -> None:
    torch.manual_seed(seed)
    conv, norm = nn.Conv2d(4, 8, 3, groups=2, bias=has_bias), _trained_norm(nn.BatchNorm2d(8, eps, affine=affine), seed)
    x = torch.randn(2, 4, 6, 6)

    weights = _fold_one(CONV, LayerModules(conv, norm))

    found = nn.functional.conv2d(x, torch.from_numpy(weights.weight), torch.from_numpy(weights.bias), groups=2)
    torch.testing.assert_close(found, norm(conv(x)), rtol=1e-4, atol=1e-4)


def test_folded_dense_layer_computes_dense_layer_and_batch_norm() -> None:
    dense, norm = nn.Linear(5, 8, bias=False), _trained_norm(nn.BatchNorm1d(8))
    x = torch.randn(3, 5)

    weights = _fold_one(DENSE, LayerModules(dense, norm))

    found = nn.functional.linear(x, torch.from_numpy(weights.weight), torch.from_numpy(weights.bias))
    torch.testing.assert_close(found, norm(dense(x)), rtol=1e-4, atol=1e-4)


def test_scale_layer_is_the_factor_and_offset_of_its_batch_norm() -> None:
    norm = _trained_norm(nn.BatchNorm2d(8))
    x = torch.randn(2, 8, 4, 4)

    weights = _fold_one(SCALE, LayerModules(None, norm))

    found = x * torch.from_numpy(weights.weight).view(8, 1, 1) + torch.from_numpy(weights.bias).view(8, 1, 1)
    torch.testing.assert_close(found, norm(x), rtol=1e-4, atol=1e-4)


def test_weights_without_batch_norm_are_taken_exactly() -> None:
    dense = nn.Linear(5, 8)

    weights = _fold_one(DENSE, LayerModules(dense))

    assert np.array_equal(weights.weight, dense.weight.detach().numpy())
    assert np.array_equal(weights.bias, dense.bias.detach().numpy())


def test_missing_bias_is_zero() -> None:
    assert not _fold_one(DENSE, LayerModules(nn.Linear(5, 8, bias=False))).bias.any()


def test_weights_are_float32_copies() -> None:
    dense = nn.Linear(5, 8)

    weights = _fold_one(DENSE, LayerModules(dense))
    weights.weight[:] = 0

    assert weights.weight.dtype == weights.bias.dtype == np.float32
    assert bool(dense.weight.any())


def test_folding_rounds_once() -> None:
    dense, norm = nn.Linear(1, 8, bias=False), _trained_norm(nn.BatchNorm1d(8))
    unit = UnitSpec(kind="dense", input_shape=(1,), output_shape=(8,))
    s = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()

    weights = _fold_one(unit, LayerModules(dense, norm))

    assert np.array_equal(weights.weight[:, 0], (s * dense.weight[:, 0].double()).float().detach().numpy())


def test_layers_without_weights_are_left_out() -> None:
    layer = Layer(name="flat", unit=FLATTEN, inputs=(INPUT,))
    spec = NetworkSpec(name="test", input_shape=(2, 2, 2), layers=(layer,))

    assert fold(spec, {}) == {}


def test_weights_of_another_shape_are_refused() -> None:
    with pytest.raises(BadInputError, match=r"'one' has weights of shape \(8, 4\).*needs \(8, 5\)"):
        _fold_one(DENSE, LayerModules(nn.Linear(4, 8)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(value: float) -> None:
    dense = nn.Linear(5, 8)
    nn.init.constant_(dense.bias, value)

    with pytest.raises(BadInputError, match="'one' has weights that are NaN, infinite"):
        _fold_one(DENSE, LayerModules(dense))


def test_broken_running_variance_is_refused() -> None:
    norm = _trained_norm(nn.BatchNorm1d(8))
    norm.running_var.fill_(-1)

    with pytest.raises(BadInputError, match="'one' has weights that are NaN"):
        _fold_one(DENSE, LayerModules(nn.Linear(5, 8), norm))


def test_batch_norm_without_running_statistics_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="layer 'one' keeps no running statistics"):
        _fold_one(DENSE, LayerModules(nn.Linear(5, 8), nn.BatchNorm1d(8, track_running_stats=False)))
