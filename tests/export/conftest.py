"""A small residual network that was really trained, on patterns in noise, and the runtimes that are installed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from edgekit import runtimes
from edgekit.errors import UsageError
from edgekit.nn.families import residual_network
from edgekit.nn.network import Network
from edgekit.runtimes import Runtime
from edgekit.types import ModelInfo, Preprocessing, RuntimeName

SHAPE = (1, 12, 12)
CLASSES = 4


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode and normalised images of its classes."""

    network: Network
    train_images: Tensor
    test_images: Tensor
    test_labels: Tensor


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    # Layers of a few thousand operations: threads that wait for each other take longer than the work.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def trained() -> Trained:
    torch.manual_seed(1)
    patterns = torch.randn(CLASSES, *SHAPE)
    images, labels = _noisy(patterns, 1024)
    network = Network(residual_network(8, (8, 16, 16), SHAPE, CLASSES, "small"))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for start in range(0, 1024, 32):
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images[start : start + 32]), labels[start : start + 32])
        torch.autograd.backward(loss)
        optimizer.step()
    return Trained(network.eval(), images, *_noisy(patterns, 400))


def _noisy(patterns: Tensor, count: int) -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, CLASSES, (count,))
    return patterns[labels] + 1.2 * torch.randn(count, *SHAPE), labels


@pytest.fixture(params=["onnx", "tflite"])
def runtime(request: pytest.FixtureRequest) -> Runtime:
    try:
        return runtimes.get(request.param)
    except UsageError as error:
        pytest.skip(f"{request.param}: {error.message}")


@pytest.fixture
def info(runtime: Runtime) -> ModelInfo:
    return described(runtime.name)


def described(runtime_name: RuntimeName) -> ModelInfo:
    """What is known of a network before it is exported."""
    return ModelInfo(
        edgekit_version="0",
        network="small",
        number_format="fp32",
        source_hash="",
        target="cpu",
        runtime=runtime_name,
        predicted_us=12.5,
        preprocessing=Preprocessing(input_shape=SHAPE, mean=(0.0,), std=(1.0,)),
        labels=("a", "b", "c", "d"),
    )
