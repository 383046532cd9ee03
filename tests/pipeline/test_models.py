"""A model is a name, a network file or a user's own module, and it fits the data or is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch

from edgekit.errors import BadInputError, EdgekitError, UsageError
from edgekit.nn.families import named_network
from edgekit.pipeline.models import find_model, make_network
from edgekit.types import NetworkSpec
from tests.pipeline import runs


def write_network(path: Path, network: NetworkSpec) -> None:
    path.write_bytes(msgspec.json.encode(network))


def test_a_name_gives_the_network_of_that_name() -> None:
    network = make_network("resnet8-w0.25", runs.SHAPE, 3, seed=0)

    assert network.spec == named_network("resnet8-w0.25", runs.SHAPE, 3)


def test_the_seed_decides_the_first_weights() -> None:
    first, same, other = (make_network("mlp-8", runs.SHAPE, 3, seed).state_dict() for seed in (1, 1, 2))

    assert all(torch.equal(value, same[name]) for name, value in first.items())
    assert not all(torch.equal(value, other[name]) for name, value in first.items())


def test_a_file_gives_the_network_in_it(tmp_path: Path) -> None:
    spec = named_network("mlp-8", runs.SHAPE, 3)
    write_network(tmp_path / "mine.json", spec)

    assert make_network(str(tmp_path / "mine.json"), runs.SHAPE, 3, seed=0).spec == spec


def test_a_file_for_other_inputs_is_refused(tmp_path: Path) -> None:
    write_network(tmp_path / "mine.json", named_network("mlp-8", (1, 9, 9), 3))

    with pytest.raises(BadInputError, match=r"takes inputs of shape \(1, 9, 9\), the data has \(1, 12, 12\)"):
        make_network(str(tmp_path / "mine.json"), runs.SHAPE, 3, seed=0)


def test_a_file_for_other_classes_is_refused(tmp_path: Path) -> None:
    write_network(tmp_path / "mine.json", named_network("mlp-8", runs.SHAPE, 10))

    with pytest.raises(BadInputError, match=r"gives outputs of shape \(10,\), the data has 3 classes") as raised:
        make_network(str(tmp_path / "mine.json"), runs.SHAPE, 3, seed=0)

    assert "3 outputs" in str(raised.value.hint)


def test_a_module_keeps_the_weights_that_it_comes_with(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "def make():\n"
        "    layer = torch.nn.Linear(144, 3)\n"
        "    torch.nn.init.constant_(layer.weight, 0.25)\n"
        "    return torch.nn.Sequential(torch.nn.Flatten(), layer)\n"
    )

    network = make_network(f"{tmp_path / 'mine.py'}:make", runs.SHAPE, 3, seed=0)

    weights = [value for name, value in network.state_dict().items() if name.endswith("weight")]
    assert len(weights) == 1 and bool((weights[0] == 0.25).all())


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(UsageError, match="no network is called 'alexnet'"):
        make_network("alexnet", runs.SHAPE, 3, seed=0)


@pytest.mark.parametrize(
    ("model", "error"), [("resnet9000000", UsageError), ("absent.json", BadInputError), ("absent:make", UsageError)]
)
def test_a_model_that_is_not_there_is_told_without_knowing_the_data(model: str, error: type[EdgekitError]) -> None:
    with pytest.raises(error):
        find_model(model, seed=0)
