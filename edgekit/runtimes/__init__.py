"""Access to the runtimes by name: ``get("onnx")``, ``get("tflite")``.

Importing this imports no runtime; the package that a runtime needs is imported when the runtime is asked for.
"""

from __future__ import annotations

from pathlib import Path

from edgekit.errors import UsageError
from edgekit.runtimes._base import SUFFIXES, FloatArray, FoldedNetwork, LayerWeights, Ranges, Runtime, Session
from edgekit.types import RuntimeName

__all__ = [
    "SUFFIXES",
    "FloatArray",
    "FoldedNetwork",
    "LayerWeights",
    "Ranges",
    "Runtime",
    "Session",
    "get",
    "names",
    "of_suffix",
]


def names() -> tuple[RuntimeName, ...]:
    """The names that `get` knows."""
    return tuple(SUFFIXES)


def of_suffix(path: Path) -> RuntimeName | None:
    """The runtime whose models end as the name of ``path`` does, in any case; None if there is none."""
    return next((name for name, suffix in SUFFIXES.items() if path.suffix.lower() == suffix), None)


def get(name: RuntimeName) -> Runtime:
    """The runtime called ``name``, ready to load and run models.

    Raises UsageError for another name, MissingExtraError if its package is not installed, and UsageError if the package
    is installed and does not work.
    """
    if name == "onnx":
        from edgekit.runtimes.onnx import OnnxRuntime

        return OnnxRuntime()
    if name == "tflite":
        from edgekit.runtimes.tflite import TfliteRuntime

        return TfliteRuntime()
    raise UsageError(f"there is no runtime {name!r}; known are {', '.join(names())}")
