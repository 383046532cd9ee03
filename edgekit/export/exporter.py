"""Export in two steps: `prepare` makes a model file in memory and checks it, `keep` puts it in place.

A file that did not run in its runtime and agree with torch never reaches the disk; no format is known here.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np
from torch import Tensor

from edgekit.codec import decode_model_info, encode_model_info
from edgekit.errors import ExportMismatchError, UsageError
from edgekit.export.calibrate import Clipping, activation_ranges
from edgekit.export.check import (
    DEFAULT_LIMITS,
    Agreement,
    Images,
    Limits,
    compare,
    failure,
    mismatch,
    require_integer_kernels,
    worst_layer,
)
from edgekit.files import write_atomic
from edgekit.nn.folding import fold
from edgekit.nn.network import Network
from edgekit.run.model import METADATA_KEY
from edgekit.runtimes import FloatArray, FoldedNetwork, Ranges, Runtime, get
from edgekit.train.batches import spread
from edgekit.types import (
    ExportedModel,
    ModelInfo,
    NumberFormat,
    Progress,
    ProgressCallback,
    RuntimeName,
    ignore_progress,
)

CALIBRATION_IMAGES = 1024
"""Most images that ranges are taken from, evenly spread over those given: 512 and 8,192 gave the same signal-to-noise
ratio of the logits within 1 dB."""

_PROBE_IMAGES = 4


@dataclass(frozen=True, eq=False)
class PreparedModel:
    """A model that was checked and is not yet kept. ``model`` is the file's content, with ``info`` inside; ``probe``
    holds some inputs and the outputs that the checked content gave for them."""

    info: ModelInfo
    model: bytes
    agreement: Agreement
    kernels: tuple[str, ...]
    folded: FoldedNetwork = field(repr=False)
    ranges: Ranges | None = field(repr=False)
    probe: tuple[FloatArray, FloatArray] = field(repr=False)


def export_network(
    network: Network,
    *,
    runtime_name: RuntimeName,
    number_format: NumberFormat,
    calibration_images: Tensor,
    test_images: Images,
    test_labels: Tensor,
    info: ModelInfo,
    path: Path,
    threads: int = 1,
    limits: Limits = DEFAULT_LIMITS,
    progress: ProgressCallback = ignore_progress,
) -> ExportedModel:
    """`prepare` and `keep` in one call: the file at ``path`` is the old one, or a new one that was checked."""
    check_suffix(path, get(runtime_name))
    prepared = prepare(
        network,
        runtime_name=runtime_name,
        number_format=number_format,
        calibration_images=calibration_images,
        test_images=test_images,
        test_labels=test_labels,
        info=info,
        threads=threads,
        limits=limits,
        progress=progress,
    )
    return keep(prepared, path)


def prepare(
    network: Network,
    *,
    runtime_name: RuntimeName,
    number_format: NumberFormat,
    calibration_images: Tensor,
    test_images: Images,
    test_labels: Tensor,
    info: ModelInfo,
    threads: int = 1,
    clipping: Clipping = "least_squares",
    limits: Limits = DEFAULT_LIMITS,
    progress: ProgressCallback = ignore_progress,
) -> PreparedModel:
    """Fold, calibrate (int8 only), write, run, and compare with torch.

    Images are normalised, (N, C, H, W) float32; ``calibration_images`` come from the training data and are not read
    for fp32; ``test_labels`` (N,) are class indices. ``info`` is stored with runtime, format and accuracy filled in.
    Raises ExportMismatchError for a file that disagrees with torch or runs in other kernels than its format asks for,
    UnsupportedModelError for a layer that the runtime does not execute in that format.
    """
    runtime = get(runtime_name)
    spec = network.spec.in_format(number_format)
    folded = FoldedNetwork(spec, fold(spec, network.layer_modules))
    progress(Progress(stage="export", done=0, total=3, values={"step": "calibrate"}))
    ranges = _ranges(network, number_format, calibration_images, clipping)
    progress(Progress(stage="export", done=1, total=3, values={"step": "write"}))
    session = runtime.load(runtime.write(folded, number_format, ranges), threads)
    kernels = session.kernels()
    if number_format == "int8":
        require_integer_kernels(kernels, runtime_name)
    progress(Progress(stage="export", done=2, total=3, values={"step": "check"}))
    agreement = compare(session, network, test_images, test_labels, limits)
    reason = failure(agreement, number_format, limits)
    if reason is not None:
        worst = worst_layer(network, folded, runtime, number_format, ranges, test_images)
        raise mismatch(reason, runtime_name, number_format, worst)
    info = msgspec.structs.replace(info, runtime=runtime_name, number_format=number_format, accuracy=agreement.accuracy)
    inputs = test_images[:_PROBE_IMAGES].float().numpy(force=True)
    progress(Progress(stage="export", done=3, total=3))
    return PreparedModel(
        info=info,
        model=_write(runtime, folded, ranges, info),
        agreement=agreement,
        kernels=kernels,
        folded=folded,
        ranges=ranges,
        probe=(inputs, session.run(inputs)),
    )


def with_info(prepared: PreparedModel, info: ModelInfo) -> PreparedModel:
    """The same model with another description, for what is known only after it was made: its measured latency.

    Raises UsageError if ``info`` names another runtime, format or accuracy than the model was checked with.
    """
    old = prepared.info
    if (info.runtime, info.number_format, info.accuracy) != (old.runtime, old.number_format, old.accuracy):
        raise UsageError(
            f"the description says {info.runtime}, {info.number_format}, accuracy {info.accuracy}; "
            f"the model was checked as {old.runtime}, {old.number_format}, accuracy {old.accuracy}",
            "change a copy of prepared.info",
        )
    model = _write(get(info.runtime), prepared.folded, prepared.ranges, info)
    return replace(prepared, info=info, model=model)


def keep(prepared: PreparedModel, path: Path) -> ExportedModel:
    """Put a checked model at ``path``, whole or not at all; a file that was there is replaced.

    Raises UsageError for a suffix that is not the runtime's, ExportMismatchError if the content with its description
    does not give the checked outputs.
    """
    info = prepared.info
    runtime = get(info.runtime)
    check_suffix(path, runtime)
    _check_content(prepared, runtime)
    write_atomic(path, prepared.model)
    return ExportedModel(
        path=str(path),
        runtime=info.runtime,
        number_format=info.number_format,
        size_bytes=len(prepared.model),
        max_relative_difference=prepared.agreement.max_relative_difference,
        top1_agreement=prepared.agreement.top1_agreement,
        accuracy=prepared.agreement.accuracy,
        kernels=prepared.kernels,
    )


def check_suffix(path: Path, runtime: Runtime) -> None:
    """Raise UsageError unless the file's name ends as the runtime's files do."""
    if path.suffix.lower() != runtime.suffix:
        raise UsageError(
            f"a model for {runtime.name} cannot be called {path.name!r}; its name must end in {runtime.suffix!r}",
            f"use {path.with_suffix(runtime.suffix).name!r}",
        )


def _ranges(network: Network, number_format: NumberFormat, images: Tensor, clipping: Clipping) -> Ranges | None:
    if number_format == "fp32":
        return None
    return activation_ranges(network, images[spread(len(images), CALIBRATION_IMAGES)], clipping=clipping)


def _write(runtime: Runtime, folded: FoldedNetwork, ranges: Ranges | None, info: ModelInfo) -> bytes:
    return runtime.write(folded, info.number_format, ranges, {METADATA_KEY: encode_model_info(info)})


def _check_content(prepared: PreparedModel, runtime: Runtime) -> None:
    """What is kept differs from what was checked by its description: it must still load, run and tell it."""
    inputs, outputs = prepared.probe
    told = decode_model_info(runtime.metadata(prepared.model)[METADATA_KEY])
    found = runtime.load(prepared.model).run(inputs)
    if told != prepared.info or not np.allclose(found, outputs, rtol=1e-5, atol=1e-6 * float(np.abs(outputs).max())):
        raise ExportMismatchError(
            f"the {runtime.name} model computes something else, or tells something else, with its description inside",
            "this is a fault of the runtime or of edgekit: please report it",
        )
