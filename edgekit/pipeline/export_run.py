"""`edgekit export`: the chosen network of a finished run as another file, for any runtime and number format.

Writing and checking is in ``export``; here the run's network and data are found again.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit import __version__, targets
from edgekit.codec import check_network
from edgekit.data import load
from edgekit.errors import UsageError
from edgekit.export.exporter import keep, prepare, with_info
from edgekit.nn.network import Network
from edgekit.pipeline.run_directory import RunDirectory, read_settings
from edgekit.pipeline.training_run import CHOSEN, weights_hash
from edgekit.profile import check_runtime, open_stopwatch
from edgekit.runtimes import get
from edgekit.train.batches import make_split
from edgekit.types import (
    ExportedModel,
    ModelInfo,
    NetworkSpec,
    NumberFormat,
    ProgressCallback,
    RuntimeName,
    ignore_progress,
)

_MIN_TIMED_SECONDS = 0.5


def export_run(
    run: Path,
    *,
    runtime: RuntimeName,
    number_format: NumberFormat,
    path: Path | None = None,
    progress: ProgressCallback = ignore_progress,
) -> ExportedModel:
    """Write the network that the run at ``run`` chose, check it against torch, time it on the run's target, and keep it
    at ``path``.

    Without ``path`` it goes to the run's models. Raises UsageError when the run is not finished or its target does not
    execute that format on that runtime, ExportMismatchError when the file does not agree with the network.
    """
    settings = read_settings(run)
    target = targets.find(settings.target)
    check_runtime(target, runtime, [number_format])
    network = chosen_network(RunDirectory(run))
    dataset = load(settings.data, seed=settings.seed, image_size=settings.image_size, limit=settings.limit)
    train, test = make_split(dataset, dataset.train), make_split(dataset, dataset.test)
    made = get(runtime)
    info = ModelInfo(
        edgekit_version=__version__,
        network=network.spec.name,
        number_format=number_format,
        source_hash=weights_hash(network),
        target=settings.target,
        runtime=runtime,
        preprocessing=dataset.preprocessing,
        labels=dataset.class_names,
    )
    prepared = prepare(
        network,
        runtime_name=runtime,
        number_format=number_format,
        calibration_images=train.inputs(slice(0, 2048)),
        test_images=test.inputs(slice(None)),
        test_labels=test.labels,
        info=info,
        progress=progress,
    )
    with open_stopwatch(target, runtime) as stopwatch:
        (timing,) = stopwatch.measure_whole([prepared.model], min_seconds=_MIN_TIMED_SECONDS, progress=progress)
    timed = with_info(prepared, msgspec.structs.replace(prepared.info, measured_us=timing.median_us))
    return keep(timed, path or run / "models" / f"chosen-{number_format}{made.suffix}")


def chosen_network(run: RunDirectory) -> Network:
    """The network that a finished run chose, with its trained weights."""
    facts = run.finished(CHOSEN)
    if facts is None:
        raise UsageError(f"the run {run.path} is not finished", f"edgekit train --resume --name {run.name}")
    spec = msgspec.convert(facts["spec"], NetworkSpec)
    check_network(spec, f"{run.path}: the chosen network")
    network = Network(spec)
    network.load_state_dict(run.tensors(CHOSEN))
    return network.eval()
