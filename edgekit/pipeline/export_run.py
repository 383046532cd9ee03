"""`edgekit export`: the chosen network of a finished run as another file, for any runtime and number format.

Writing and checking is in ``export``; here the run's network and data are found again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit import __version__, targets
from edgekit.codec import check_network, read_result
from edgekit.data import load
from edgekit.errors import BadInputError, ExportMismatchError
from edgekit.export.exporter import check_suffix, keep, prepare, with_info
from edgekit.files import check_writable, sha256_file
from edgekit.nn.network import Network
from edgekit.pipeline.run_directory import RunDirectory, read_settings
from edgekit.pipeline.training_run import CALIBRATION_IMAGES, CHOSEN, weights_hash
from edgekit.pipeline.workspace import check_data, read_run_profile
from edgekit.profile import PriceTable, check_runtime, open_stopwatch
from edgekit.runtimes import get
from edgekit.train.batches import make_split, spread
from edgekit.types import (
    ExportedModel,
    ModelInfo,
    NetworkSpec,
    NumberFormat,
    ProgressCallback,
    RunResult,
    RuntimeName,
    ignore_progress,
)

_MIN_TIMED_SECONDS = 0.5
_SAME_FORMAT_LOSS, _OTHER_FORMAT_LOSS = 0.01, 0.05


def export_run(
    run: Path,
    *,
    runtime: RuntimeName | None = None,
    number_format: NumberFormat | None = None,
    path: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> ExportedModel:
    """Write the network that the run at ``run`` chose, check it against torch, time it on the run's target, and keep it
    at ``path``.

    ``runtime`` and ``number_format`` are the run's own if not given. Without ``path`` it goes beside the run's own
    models, which stay as they are. Raises UsageError when the target does not execute that format on that runtime,
    BadInputError when the run is not finished or damaged, DataError when the data changed since, ExportMismatchError
    when the file does not agree with the network, or is worth less than the run says.
    """
    settings = read_settings(run)
    runtime = runtime or settings.runtime
    number_format = number_format or settings.number_format
    target = targets.find(settings.target)
    check_runtime(target, runtime, [number_format])
    directory = RunDirectory(run)
    made = get(runtime)
    path = path or directory.models / f"exported-{number_format}{made.suffix}"
    check_suffix(path, made)
    check_writable(path)
    network = chosen_network(directory)
    result = read_result(directory.result_path)
    dataset = load(settings.data, seed=settings.seed, image_size=settings.image_size, limit=settings.limit)
    check_data(directory, dataset)
    train, test = make_split(dataset, dataset.train), make_split(dataset, dataset.test)
    info = ModelInfo(
        edgekit_version=__version__,
        network=network.spec.name,
        number_format=number_format,
        source_hash=weights_hash(network),
        target=settings.target,
        runtime=runtime,
        profile_hash=sha256_file(directory.profile_path),
        predicted_us=_predicted_us(directory, network.spec, runtime, number_format),
        preprocessing=dataset.preprocessing,
        labels=dataset.class_names,
    )
    prepared = prepare(
        network,
        runtime_name=runtime,
        number_format=number_format,
        calibration_images=train.inputs(spread(len(train), CALIBRATION_IMAGES)),
        test_images=test,
        test_labels=test.labels,
        info=info,
        progress=progress,
    )
    _check_accuracy(prepared.info, result, len(test))
    with open_stopwatch(target, runtime) as stopwatch:
        (timing,) = stopwatch.measure_whole([prepared.model], min_seconds=_MIN_TIMED_SECONDS, progress=progress)
    timed = with_info(prepared, msgspec.structs.replace(prepared.info, measured_us=timing.median_us))
    return keep(timed, path)


def _check_accuracy(info: ModelInfo, result: RunResult, image_count: int) -> None:
    """Refuse a file that is worth less than the run's own, on the very same images: whatever was lost, it was not lost
    by writing the file, which was checked. Of few images, two may be off by chance."""
    is_same = (info.runtime, info.number_format) == (result.runtime, result.number_format)
    is_exact = info.number_format == result.number_format == "fp32"
    allowed = max(_SAME_FORMAT_LOSS if is_same or is_exact else _OTHER_FORMAT_LOSS, 2 / image_count)
    found = info.accuracy or 0.0
    if result.accuracy - found > allowed:
        raise ExportMismatchError(
            f"the {info.number_format} model for {info.runtime} is right on {found:.2%} of the test images, and the "
            f"run's own {result.number_format} model on {result.accuracy:.2%}; allowed are {allowed:.1%} less",
            "the run's files were changed, or this format does not suit the network: nothing was written; "
            "try --format fp32, or train in this format",
        )


def _predicted_us(
    run: RunDirectory, spec: NetworkSpec, runtime: RuntimeName, number_format: NumberFormat
) -> float | None:
    """What the run's own profile says; None if it is of another runtime or format."""
    profile = read_run_profile(run)
    if profile.runtime != runtime:
        return None
    try:
        return PriceTable(profile).network(spec.in_format(number_format)).latency_us
    except BadInputError:
        return None


def chosen_network(run: RunDirectory) -> Network:
    """The network that a finished run chose, with its trained weights."""
    facts = run.finished(CHOSEN)
    if facts is None or not run.result_path.exists():
        # As in a report: what a folder holds is no matter of the command line.
        raise BadInputError(f"the run {run.path} is not finished", f"edgekit train --resume --name {run.name}")
    spec = msgspec.convert(facts["spec"], NetworkSpec)
    check_network(spec, f"{run.path}: the chosen network")
    network = Network(spec)
    network.load_state_dict(run.tensors(CHOSEN))
    return network.eval()
