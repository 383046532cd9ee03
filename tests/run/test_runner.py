"""Classifying images: labels, failures, scores, counts and times."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.errors import UsageError
from edgekit.run import Classification, Classified, Failed, classify
from edgekit.run.inputs import find_images
from edgekit.run.model import OpenModel
from edgekit.run.outcomes import best_scores, summarise
from edgekit.types import Progress, ignore_progress
from tests.run.models import LABELS, BrightnessSession, brightness_info, brightness_model


def _grey(path: Path, level: int, size: tuple[int, int] = (5, 6)) -> str:
    Image.new("L", size, level).save(path)
    return str(path)


def _run(inputs: Iterable[str], model: OpenModel | None = None, top: int = 1) -> Classification:
    return Classification(model or brightness_model(), find_images(inputs), top, ignore_progress)


def test_each_image_gets_its_label_in_order(tmp_path: Path) -> None:
    inputs = [_grey(tmp_path / f"{level}.png", level) for level in (255, 0, 128)]

    assert [(outcome.path, outcome.label) for outcome in _run(inputs) if isinstance(outcome, Classified)] == list(
        zip(inputs, ("bright", "dark", "middle"), strict=True)
    )


def test_a_bad_file_is_a_failure_in_its_place_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    inputs = [_grey(tmp_path / "a.png", 0), str(tmp_path / "bad.png"), _grey(tmp_path / "b.png", 255)]

    outcomes = list(_run(inputs))

    assert [type(outcome) for outcome in outcomes] == [Classified, Failed, Classified]
    assert outcomes[1] == Failed(inputs[1], "it is none of the image formats PNG, JPEG, BMP, GIF, WEBP, TIFF, PPM")


def test_an_absent_file_is_a_failure(tmp_path: Path) -> None:
    assert list(_run([str(tmp_path / "absent.png")])) == [Failed(str(tmp_path / "absent.png"), "there is no such file")]


def test_the_network_gets_images_of_its_own_size_and_channels(tmp_path: Path) -> None:
    session = BrightnessSession()
    Image.new("RGB", (50, 60), (255, 255, 255)).save(tmp_path / "a.png")

    list(_run([str(tmp_path / "a.png")], OpenModel(brightness_info(), session)))

    assert session.samples[0].shape == (1, 1, 6, 5) and np.allclose(session.samples[0], 1.0)


def test_a_network_that_takes_a_row_gets_a_row(tmp_path: Path) -> None:
    session = BrightnessSession(input_shape=(1, 30))

    list(_run([_grey(tmp_path / "a.png", 9)], OpenModel(brightness_info(), session)))

    assert session.samples[0].shape == (1, 30)


def test_the_best_classes_come_best_first(tmp_path: Path) -> None:
    outcome = next(_run([_grey(tmp_path / "a.png", 230)], top=2))

    assert isinstance(outcome, Classified)
    assert [score.label for score in outcome.top] == ["bright", "middle"]


def test_more_classes_than_there_are_gives_all(tmp_path: Path) -> None:
    outcome = next(_run([_grey(tmp_path / "a.png", 230)], top=9))

    assert isinstance(outcome, Classified) and len(outcome.top) == len(LABELS)


def test_the_scores_are_the_softmax_of_the_outputs() -> None:
    z = np.array([1.0, 3.0, 2.0])
    probabilities = np.exp(z) / np.exp(z).sum()

    scores = {score.label: score.score for score in best_scores(z.tolist(), LABELS, 3)}

    assert [scores[label] for label in LABELS] == pytest.approx(probabilities)


def test_large_outputs_do_not_overflow() -> None:
    assert best_scores([1e6, -1e6, 0.0], LABELS, 1)[0].score == 1.0


def test_an_output_that_is_not_finite_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BrightnessSession, "run", lambda self, batch: np.full((1, 3), np.nan, np.float32))

    assert isinstance(next(_run([_grey(tmp_path / "a.png", 0)])), Failed)


def test_the_summary_counts_what_was_classified_and_what_failed(tmp_path: Path) -> None:
    run = _run([_grey(tmp_path / "a.png", 0), "absent.png", _grey(tmp_path / "b.png", 0)])
    list(run)

    summary = run.summary()

    assert (summary.classified_count, summary.failed_count) == (2, 1)
    assert summary.images_per_second == pytest.approx(2 / summary.seconds)


def test_a_run_of_nothing_has_no_latency() -> None:
    summary = _run([]).summary()

    assert (summary.classified_count, summary.seconds, summary.median_us) == (0, 0.0, None)


def test_latencies_are_told_in_microseconds() -> None:
    summary = summarise(101, 0, 1.0, [1000 * number for number in range(101)])

    assert (summary.median_us, summary.p90_us, summary.p99_us) == (50.0, 90.0, 99.0)


def test_progress_is_told_for_every_image(tmp_path: Path) -> None:
    seen: list[Progress] = []
    sources = find_images([_grey(tmp_path / "a.png", 0), "absent.png"])

    list(Classification(brightness_model(), sources, 1, seen.append))

    assert [(report.stage, report.done, report.values["failed"]) for report in seen] == [
        ("run", 1, "0"),
        ("run", 2, "1"),
    ]


def test_after_its_context_there_are_no_more_outcomes(tmp_path: Path) -> None:
    inputs = [_grey(tmp_path / f"{number}.png", 0) for number in range(20)]

    with _run(inputs) as run:
        next(run)

    assert list(run) == []


@pytest.mark.parametrize("arguments", [{"top": 0}, {"threads": 0}])
def test_arguments_out_of_range_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(arguments))} is 0; allowed is 1 or more"):
        classify(Path("model.onnx"), [], **arguments)  # type: ignore[arg-type]
