"""What is refused and why: differences, disagreement, float kernels; and which layer is to blame."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from torch import Tensor

from edgekit.errors import ExportMismatchError, UsageError
from edgekit.export.calibrate import activation_ranges
from edgekit.export.check import (
    Agreement,
    Limits,
    compare,
    failure,
    layer_noise,
    relative_difference,
    require_integer_kernels,
    signal_to_noise_db,
    up_to,
    worst_layer,
)
from edgekit.nn.folding import fold
from edgekit.nn.network import Network
from edgekit.runtimes import FoldedNetwork, Runtime
from tests.export.conftest import Trained


def agreement(difference: float = 0.0, top1: float = 1.0, count: int = 2000) -> Agreement:
    return Agreement(max_relative_difference=difference, top1_agreement=top1, image_count=count, accuracy=0.9)


def folded(network: Network) -> FoldedNetwork:
    return FoldedNetwork(network.spec, fold(network.spec, network.layer_modules))


def test_the_relative_difference_is_that_of_the_largest_value() -> None:
    found, expected = np.array([[1.0, -8.0]], np.float32), np.array([[1.5, -10.0]], np.float32)
    assert relative_difference(found, expected) == pytest.approx(0.2)


def test_an_output_that_is_not_finite_is_infinitely_different() -> None:
    assert relative_difference(np.array([[np.nan, 1.0]], np.float32), np.array([[0.0, 1.0]], np.float32)) == math.inf


def test_equal_zeros_do_not_differ() -> None:
    assert relative_difference(np.zeros((1, 2), np.float32), np.zeros((1, 2), np.float32)) == 0.0


def test_noise_of_a_tenth_is_twenty_decibels_down() -> None:
    expected = np.ones(100, np.float32)
    assert signal_to_noise_db(expected * np.float32(1.1), expected) == pytest.approx(20.0, abs=1e-3)


@pytest.mark.parametrize(("difference", "refused"), [(9e-5, False), (1.1e-4, True), (math.inf, True)])
def test_fp32_is_judged_by_its_difference(difference: float, refused: bool) -> None:
    assert (failure(agreement(difference), "fp32") is not None) == refused


@pytest.mark.parametrize(("top1", "refused"), [(0.97, False), (0.95, True)])
def test_int8_is_judged_by_its_classes(top1: float, refused: bool) -> None:
    assert (failure(agreement(0.1, top1), "int8") is not None) == refused


def test_outputs_that_are_not_finite_are_refused_in_int8_too() -> None:
    assert failure(agreement(math.inf), "int8") == "its outputs are not finite"


def test_one_disagreement_among_ten_images_proves_nothing() -> None:
    assert failure(agreement(top1=0.9, count=10), "int8") is None


def test_the_reason_names_the_value_and_what_is_allowed() -> None:
    reason = failure(agreement(top1=0.5), "int8")
    assert reason is not None and "50.0% of 2000 images" in reason and "97.0%" in reason


@pytest.mark.parametrize("kernel", ["Conv[float]", "FusedGemm[float]", "MatMul[float]", "xnnpack:CONV_2D[float32]"])
def test_float_kernels_are_named(kernel: str) -> None:
    with pytest.raises(ExportMismatchError, match=kernel.replace("[", r"\[")):
        require_integer_kernels(["QLinearConv[uint8]", kernel], "onnx")


@pytest.mark.parametrize(
    "kernels",
    [
        ("QuantizeLinear[float]", "QLinearConv[uint8]", "QGemm[uint8]", "DequantizeLinear[uint8]"),
        ("xnnpack:QUANTIZE", "xnnpack:CONV_2D", "xnnpack:FULLY_CONNECTED[int8]"),
    ],
)
def test_integer_kernels_pass(kernels: Sequence[str]) -> None:
    require_integer_kernels(kernels, "tflite")


def test_accuracy_is_taken_from_all_images_and_agreement_from_a_part(trained: Trained, runtime: Runtime) -> None:
    session = runtime.load(runtime.write(folded(trained.network)))
    wrong = (trained.test_labels + 1) % 4
    wrong[0] = trained.test_labels[0]
    found = compare(session, trained.network, trained.test_images, wrong, Limits(images=50))
    assert (found.image_count, found.top1_agreement) == (50, 1.0) and found.accuracy < 0.1


def test_as_many_labels_as_images_are_needed(trained: Trained, runtime: Runtime) -> None:
    session = runtime.load(runtime.write(folded(trained.network)))
    with pytest.raises(UsageError, match="400 test images and 3 labels"):
        compare(session, trained.network, trained.test_images, trained.test_labels[:3])


@pytest.mark.parametrize("squeezed", ["stem", "stage2.block1.conv1", "stage3.block1.shortcut"])
def test_the_layer_with_a_wrong_range_is_found(trained: Trained, runtime: Runtime, squeezed: str) -> None:
    ranges = dict(activation_ranges(trained.network, trained.train_images))
    ranges[squeezed] = (ranges[squeezed][0] / 20, ranges[squeezed][1] / 20)
    spec = trained.network.spec.in_format("int8")
    network = FoldedNetwork(spec, fold(spec, trained.network.layer_modules))
    worst = worst_layer(trained.network, network, runtime, "int8", ranges, trained.test_images)
    assert worst is not None and worst.name == squeezed


def test_an_fp32_layer_keeps_a_hundred_decibels(trained: Trained, runtime: Runtime) -> None:
    noise = layer_noise(trained.network, folded(trained.network), runtime, "fp32", None, trained.test_images)
    assert len(noise) == len(trained.network.spec.layers) and min(layer.snr_db for layer in noise) > 100


def test_a_network_cut_behind_a_layer_holds_what_that_layer_needs(trained: Trained) -> None:
    part = up_to(folded(trained.network), "stage2.block1.shortcut").spec
    names = [layer.name for layer in part.layers]
    assert names[-1] == "stage2.block1.shortcut" and "stage2.block1.conv1" not in names and "stem" in names


class Counted:
    """Images that are made when they are asked for, and how many were asked for at most."""

    def __init__(self, images: Tensor) -> None:
        self._images, self.largest = images, 0

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, indices: Tensor | slice, /) -> Tensor:
        part = self._images[indices]
        self.largest = max(self.largest, len(part))
        return part


def test_a_large_test_split_is_compared_part_by_part(trained: Trained, runtime: Runtime) -> None:
    session = runtime.load(runtime.write(folded(trained.network)))
    images = Counted(trained.test_images)

    found = compare(session, trained.network, images, trained.test_labels)

    assert found == compare(session, trained.network, trained.test_images, trained.test_labels)
    assert images.largest == 256 < len(trained.test_images)
