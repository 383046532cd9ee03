"""Ranges of activations: complete, true to what the network computes, and clipped where that lowers the error."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.errors import BadInputError, UsageError
from edgekit.export.calibrate import (
    HISTOGRAM_BINS,
    activation_ranges,
    clip_least_squares,
    clip_percentile,
    observe,
)
from edgekit.nn.network import Network
from edgekit.runtimes.quantization import tensor_quantization
from edgekit.types import INPUT
from tests.export.conftest import Trained


def squared_error(values: NDArray[np.float32], low: float, high: float) -> float:
    """Mean squared error of 8-bit codes over [low, high]."""
    coded = tensor_quantization(low, high)
    return float(np.square(coded.dequantize(coded.quantize(values)) - values).mean())


def histogram(values: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.histogram(values, HISTOGRAM_BINS)[0].astype(np.float64)


def test_the_input_and_every_layer_have_a_range(trained: Trained) -> None:
    ranges = activation_ranges(trained.network, trained.train_images)
    assert set(ranges) == {INPUT, *(layer.name for layer in trained.network.spec.layers)}


def test_ranges_without_clipping_are_those_of_the_outputs(trained: Trained) -> None:
    images = trained.train_images
    with torch.no_grad():
        logits = trained.network(images)
    low, high = activation_ranges(trained.network, images, clipping="none")[trained.network.spec.output.name]
    assert (low, high) == pytest.approx((float(logits.min()), float(logits.max())), rel=1e-5)


def test_a_range_is_taken_behind_the_activation(trained: Trained) -> None:
    assert activation_ranges(trained.network, trained.train_images, clipping="none")["stem"][0] == 0.0


@pytest.mark.parametrize("clipping", ["percentile", "least_squares"])
def test_input_and_result_are_never_clipped(trained: Trained, clipping: str) -> None:
    whole = activation_ranges(trained.network, trained.train_images, clipping="none")
    clipped = activation_ranges(trained.network, trained.train_images, clipping=clipping)  # type: ignore[arg-type]
    assert (clipped[INPUT], clipped["classifier"]) == (whole[INPUT], whole["classifier"])


@pytest.mark.parametrize("clipping", ["percentile", "least_squares"])
def test_clipping_only_ever_narrows_a_range(trained: Trained, clipping: str) -> None:
    whole = activation_ranges(trained.network, trained.train_images, clipping="none")
    clipped = activation_ranges(trained.network, trained.train_images, clipping=clipping)  # type: ignore[arg-type]
    assert all(whole[name][0] <= low and high <= whole[name][1] for name, (low, high) in clipped.items())


def test_ranges_do_not_depend_on_the_batch_size(trained: Trained) -> None:
    images = trained.train_images[:100]
    one, other = (activation_ranges(trained.network, images, size, "none") for size in (7, 100))
    assert all(one[name] == pytest.approx(other[name], rel=1e-4, abs=1e-5) for name in one)


def test_calibration_leaves_the_training_mode_and_the_statistics_as_they_were(trained: Trained) -> None:
    network = Network(trained.network.spec).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    activation_ranges(network, trained.train_images[:64])
    same = all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert same and all(module.training for module in network.modules())


def test_observing_hands_over_what_the_network_returns(trained: Trained) -> None:
    seen: dict[str, torch.Tensor] = {}
    observe(trained.network, trained.test_images[:5], seen.__setitem__)
    with torch.no_grad():
        assert torch.equal(seen["classifier"], trained.network(trained.test_images[:5]))


def test_no_images_are_refused(trained: Trained) -> None:
    with pytest.raises(UsageError, match="no images"):
        activation_ranges(trained.network, trained.train_images[:0])


def test_nan_is_refused_with_the_name_of_the_tensor(trained: Trained) -> None:
    images = trained.train_images[:2].clone()
    images[1, 0, 3, 3] = torch.nan
    with pytest.raises(BadInputError, match="'input' reaches from nan"):
        activation_ranges(trained.network, images)


@pytest.mark.parametrize(
    ("density", "best"),
    [(lambda x: np.exp(-(x**2) / 2), 3.92), (lambda x: np.exp(-np.abs(x)), 9.89)],
    ids=["gaussian", "laplacian"],
)
def test_least_squares_finds_the_published_best_range(density: Callable[..., NDArray[np.float64]], best: float) -> None:
    """Banner et al. 2019, section 4: 8 bits clip a Gaussian at 3.92 sigma, a Laplacian at 9.89 b."""
    x = np.linspace(-15, 15, HISTOGRAM_BINS)
    low, high = clip_least_squares(density(x), -15.0, 15.0)
    assert high == -low == pytest.approx(best, abs=0.16)


def test_least_squares_keeps_a_uniform_range() -> None:
    assert clip_least_squares(np.ones(HISTOGRAM_BINS), -1.0, 3.0) == (-1.0, 3.0)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["normal", "laplace", "exponential", "standard_t"]))
def test_least_squares_is_at_most_as_wrong_as_no_clipping(seed: int, shape: str) -> None:
    random = np.random.default_rng(seed)
    draw = random.standard_t(3, 20_000) if shape == "standard_t" else getattr(random, shape)(size=20_000)
    values = draw.astype(np.float32)
    low, high = float(values.min()), float(values.max())
    clipped = squared_error(values, *clip_least_squares(histogram(values), low, high))
    assert clipped <= 1.02 * squared_error(values, low, high)


def test_the_percentile_leaves_out_one_in_ten_thousand_at_each_end() -> None:
    counts = np.full(HISTOGRAM_BINS, 1.0)
    counts[0] = counts[-1] = 1e-4 * counts.sum() / 2
    low, high = clip_percentile(counts, 0.0, float(HISTOGRAM_BINS))
    assert (low, high) == (1.0, HISTOGRAM_BINS - 1.0)


@pytest.mark.parametrize("clip", [clip_percentile, clip_least_squares])
def test_a_tensor_that_is_always_zero_keeps_its_range(clip: object) -> None:
    assert clip(np.zeros(HISTOGRAM_BINS), 0.0, 0.0) == (0.0, 0.0)  # type: ignore[operator]
