"""ONNX Runtime: writes .onnx files and runs them on the CPU.

Writing needs the package ``onnx``; loading, running and reading metadata need ``onnxruntime`` alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.runtimes._base import SUFFIXES, FoldedNetwork, Ranges, Runtime, Session
from edgekit.runtimes.onnx import session, writer
from edgekit.types import NumberFormat, RuntimeName

__all__ = ["OnnxRuntime"]


class OnnxRuntime(Runtime):
    """ONNX Runtime's CPU provider. Raises MissingExtraError if ``onnxruntime`` is not installed."""

    name: RuntimeName = "onnx"
    suffix = SUFFIXES["onnx"]

    def __init__(self) -> None:
        self._onnxruntime = session.import_onnxruntime()

    def version(self) -> str:
        """For example ``onnxruntime 1.31.1``."""
        return f"onnxruntime {self._onnxruntime.__version__}"

    def write(
        self,
        network: FoldedNetwork,
        number_format: NumberFormat = "fp32",
        ranges: Ranges | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> bytes:
        """See `Runtime.write`."""
        return writer.write(network, number_format, ranges, metadata or {})

    def load(self, model: bytes, threads: int = 1) -> Session:
        """See `Runtime.load`."""
        return session.OnnxSession(model, threads)

    def metadata(self, model: bytes) -> dict[str, str]:
        """See `Runtime.metadata`."""
        return session.read_metadata(model)
