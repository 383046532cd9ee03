"""TensorFlow Lite: writes .tflite files and runs them with LiteRT or, where that is not installed, tflite-runtime.

Writing needs the schema that comes with ``ai-edge-litert``; loading, running and reading metadata need either package.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgekit.runtimes._base import SUFFIXES, FoldedNetwork, Ranges, Runtime, Session
from edgekit.runtimes.tflite import session, writer
from edgekit.runtimes.tflite.flatbuffer import read_metadata
from edgekit.types import NumberFormat, RuntimeName

__all__ = ["TfliteRuntime"]


class TfliteRuntime(Runtime):
    """The TFLite interpreter with its default XNNPACK delegate.

    ``EDGEKIT_TFLITE_BACKEND`` (``litert`` or ``tflite-runtime``) forces one package. Raises MissingExtraError if there
    is none, UsageError if it is there and cannot make an interpreter.
    """

    name: RuntimeName = "tflite"
    suffix = SUFFIXES["tflite"]

    def __init__(self) -> None:
        self._backend = session.find_backend()

    def version(self) -> str:
        """For example ``ai-edge-litert 2.3.0``."""
        return f"{self._backend.package} {self._backend.version}"

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
        return session.TfliteSession(self._backend, model, threads)

    def metadata(self, model: bytes) -> dict[str, str]:
        """See `Runtime.metadata`."""
        return read_metadata(model)
