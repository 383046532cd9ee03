"""Classifies images: takes them decoded ahead, runs the model on each, and keeps count and time.

How inputs are found is in ``inputs``, how models are opened in ``model``, how outcomes are written in ``writers``.
"""

from __future__ import annotations

import time
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType

import numpy as np

from edgekit.data.preprocess import network_input
from edgekit.errors import DataError, UsageError
from edgekit.run.inputs import ImageSource, find_images, read_ahead
from edgekit.run.model import OpenModel, open_model
from edgekit.run.outcomes import Classified, Failed, Outcome, Summary, best_scores, summarise
from edgekit.runtimes import FloatArray
from edgekit.types import ModelInfo, Preprocessing, Progress, ProgressCallback, Target, ignore_progress

_READ_AHEAD_IMAGES = 8


@dataclass(frozen=True, eq=False)
class _Prepared:
    path: str
    sample: FloatArray


def classify(
    model: Path,
    inputs: Iterable[str],
    *,
    threads: int | None = None,
    top: int = 1,
    info: ModelInfo | None = None,
    target: Target | None = None,
    lines: Iterable[str] | None = None,
    progress: ProgressCallback = ignore_progress,
) -> Classification:
    """Open ``model`` and classify the images that ``inputs`` name (see `find_images`); ``top`` best classes each.

    The model is opened at once, and so raises BadInputError at once; the images are read as the result is iterated.
    An image that cannot be read is a `Failed` outcome and the run goes on. ``target`` is where the model runs, this
    machine if not given; ``info`` stands in for a description that the file lacks, ``lines`` for standard input.
    """
    if top < 1:
        raise UsageError(f"top is {top}; allowed is 1 or more")
    if threads is not None and threads < 1:
        raise UsageError(f"threads is {threads}; allowed is 1 or more")
    return Classification(
        open_model(model, threads=threads, info=info, target=target), find_images(inputs, lines), top, progress
    )


class Classification(Iterator[Outcome]):
    """Outcomes in the order of the inputs; `summary` may be asked at any time. As a context it stops reading at its
    end, also if not all outcomes were taken."""

    def __init__(
        self, model: OpenModel, sources: Iterable[ImageSource | Failed], top: int, progress: ProgressCallback
    ) -> None:
        prepared = (_prepare(source, model.info.preprocessing) for source in sources)
        self._images = read_ahead(prepared, _READ_AHEAD_IMAGES)
        self._model = model
        self._top = top
        self._progress = progress
        self._ready: deque[Outcome] = deque()
        self._latencies_ns = array("q")
        self._classified_count = self._failed_count = 0
        self._started_ns = self._ended_ns = 0

    @property
    def info(self) -> ModelInfo:
        """What the model says about itself."""
        return self._model.info

    def __next__(self) -> Outcome:
        """The outcome of the next image."""
        self._started_ns = self._started_ns or time.perf_counter_ns()
        if not self._ready:
            self._ready.extend(self._outcomes([next(self._images), *islice(self._images, self._model.batch_size - 1)]))
        outcome = self._ready.popleft()
        self._ended_ns = time.perf_counter_ns()
        self._count(outcome)
        return outcome

    def summary(self) -> Summary:
        """Counts and times of the outcomes so far."""
        seconds = (self._ended_ns - self._started_ns) / 1e9 if self._ended_ns else 0.0
        return summarise(self._classified_count, self._failed_count, seconds, self._latencies_ns)

    def close(self) -> None:
        """Stop reading; there are no more outcomes after it."""
        self._images.close()

    def __enter__(self) -> Classification:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _outcomes(self, images: Sequence[_Prepared | Failed]) -> list[Outcome]:
        """An outcome for each image; those that could be read run together."""
        prepared = [image for image in images if not isinstance(image, Failed)]
        rows = iter(self._logits(prepared))
        return [image if isinstance(image, Failed) else self._outcome(image.path, next(rows)) for image in images]

    def _logits(self, images: Sequence[_Prepared]) -> FloatArray:
        if not images:
            return np.empty((0, len(self.info.labels)), dtype=np.float32)
        samples = np.concatenate([image.sample for image in images])
        start_ns = time.perf_counter_ns()
        logits = self._model.logits(samples)
        if self._model.batch_size == 1:
            self._latencies_ns.append(time.perf_counter_ns() - start_ns)
        return logits

    def _outcome(self, path: str, logits: FloatArray) -> Outcome:
        if not np.isfinite(logits).all():
            return Failed(path, "the model's output is not finite for this image")
        top = best_scores(logits.tolist(), self.info.labels, self._top)
        return Classified(path, top[0].label, top[0].score, top)

    def _count(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self._failed_count += 1
        else:
            self._classified_count += 1
        done = self._classified_count + self._failed_count
        self._progress(Progress(stage="run", done=done, total=0, values={"failed": str(self._failed_count)}))


def _prepare(source: ImageSource | Failed, preprocessing: Preprocessing) -> _Prepared | Failed:
    if isinstance(source, Failed):
        return source
    _, height, width = preprocessing.input_shape
    try:
        return _Prepared(source.path, network_input(source.decode((height, width)), preprocessing))
    except DataError as error:
        return Failed(source.path, error.message)
