"""Model files timed beside each other: what is told of each, ratios to the baseline, and files that cannot be timed."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import runtimes
from edgekit.codec import encode_model_info
from edgekit.errors import BadInputError, UsageError
from edgekit.pipeline.bench import BLOCKS, BenchResult, BenchRow, bench, median_interval, merge
from edgekit.runtimes import FoldedNetwork, LayerWeights
from edgekit.types import INPUT, Layer, ModelInfo, NetworkSpec, Preprocessing, Target, Timing, UnitSpec


def write_model(path: Path, features: int, info: ModelInfo | None = None) -> Path:
    """A dense layer of ``features`` times ``features`` as an ONNX file."""
    unit = UnitSpec(kind="dense", input_shape=(features,), output_shape=(features,))
    spec = NetworkSpec(name="one", input_shape=(features,), layers=(Layer(name="dense", unit=unit, inputs=(INPUT,)),))
    weights = LayerWeights(np.eye(features, dtype=np.float32), np.zeros(features, dtype=np.float32))
    metadata = {} if info is None else {"edgekit": encode_model_info(info)}
    path.write_bytes(runtimes.get("onnx").write(FoldedNetwork(spec, {"dense": weights}), metadata=metadata))
    return path


def described(predicted_us: float) -> ModelInfo:
    return ModelInfo(
        edgekit_version="0",
        network="one",
        number_format="fp32",
        source_hash="",
        target="cpu",
        runtime="onnx",
        predicted_us=predicted_us,
        preprocessing=Preprocessing(input_shape=(1, 2, 2), mean=(0.0,), std=(1.0,)),
        labels=("a", "b"),
    )


def timing(median_us: float, count: int = 10) -> Timing:
    return Timing(count=count, median_us=median_us, p10_us=median_us, p90_us=median_us, min_us=median_us)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_model(tmp_path / "small.onnx", 4, described(5.0))


@pytest.fixture
def large(tmp_path: Path) -> Path:
    return write_model(tmp_path / "large.onnx", 1024)


def run(*models: Path, baseline: Path | None = None, target: Target | None = None) -> BenchResult:
    return bench(models, baseline=baseline, target=target, min_seconds=0.01)


def test_rows_come_in_the_order_of_the_files(small: Path, large: Path) -> None:
    assert [row.path for row in run(large, small).rows] == [str(large), str(small)]


def test_the_first_file_is_the_baseline_and_takes_exactly_its_own_time(small: Path, large: Path) -> None:
    found = run(large, small)
    row = found.rows[0]
    assert found.baseline == str(large) and (row.ratio_low, row.ratio, row.ratio_high) == (1.0, 1.0, 1.0)


def test_ratios_are_taken_block_by_block_so_that_drift_cancels(
    small: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine_slows_down = iter([[timing(10.0 * 2**block), timing(30.0 * 2**block)] for block in range(BLOCKS)])
    monkeypatch.setattr("edgekit.profile.stopwatch.measure_interleaved", lambda *_, **__: next(machine_slows_down))
    row = run(large, baseline=small).rows[1]
    assert (row.path, row.ratio_low, row.ratio, row.ratio_high) == (str(large), 3.0, 3.0, 3.0)


def test_a_baseline_that_is_also_a_model_is_timed_once(small: Path, large: Path) -> None:
    assert len(run(large, small, baseline=small).rows) == 2


def test_a_file_tells_its_format_and_prediction(small: Path) -> None:
    row = run(small).rows[0]
    assert (row.number_format, row.predicted_us, row.size_bytes) == ("fp32", 5.0, small.stat().st_size)


def test_a_file_without_a_description_is_timed_too(large: Path) -> None:
    row = run(large).rows[0]
    assert (row.number_format, row.predicted_us, row.prediction_error) == (None, None, None)
    assert row.measured.median_us > 0


def test_the_kernels_are_those_that_ran(small: Path) -> None:
    assert "Gemm[float]" in run(small).rows[0].kernels


def test_the_prediction_error_is_relative_to_the_measured_time(small: Path) -> None:
    row: BenchRow = msgspec.structs.replace(run(small).rows[0], measured=timing(4.0))
    assert row.prediction_error == pytest.approx(0.25)


def test_the_result_can_be_encoded_and_read_again(small: Path) -> None:
    found = run(small)
    assert msgspec.json.decode(msgspec.json.encode(found), type=BenchResult) == found


def test_nothing_to_time_is_a_mistake_of_use() -> None:
    with pytest.raises(UsageError, match="no model"):
        bench([])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.bin", b"", "suffix '.bin' is no model's"),
        ("model.onnx", b"", "model.onnx: the ONNX model is empty"),
        ("model.onnx", b"no model at all", "model.onnx: ONNX Runtime cannot load"),
    ],
)
def test_a_file_that_is_no_model_is_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInputError, match=message):
        run(path)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"absent\.onnx: no such file"):
        run(tmp_path / "absent.onnx")


def test_a_target_without_the_runtime_of_a_file_is_refused(small: Path) -> None:
    target = Target(name="phone", description="", transport="local", runtimes={})
    with pytest.raises(UsageError, match="'phone' has no runtime 'onnx'"):
        run(small, target=target)


def test_merging_adds_runs_and_takes_the_median_of_medians() -> None:
    merged = merge([timing(1.0), timing(2.0), timing(9.0)])
    assert (merged.count, merged.median_us, merged.min_us) == (30, 2.0, 1.0)


@given(st.lists(st.floats(0.1, 1e6), min_size=BLOCKS, max_size=BLOCKS))
def test_merged_quantiles_are_in_order_and_within_the_blocks(medians: list[float]) -> None:
    merged = merge([timing(value) for value in medians])
    assert min(medians) == merged.min_us <= merged.p10_us <= merged.median_us <= merged.p90_us <= max(medians)


def test_the_interval_covers_the_median_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).lognormal(0.0, 1.0, (4000, BLOCKS))
    intervals = [median_interval(row) for row in draws]
    covered = np.mean([low <= 1.0 <= high for _, low, high in intervals])
    assert covered == pytest.approx(1 - 20 / 2**9, abs=0.012)
