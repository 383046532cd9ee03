"""What is written is read back equal, and every file that is not valid is refused by name, place and reason."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit import codec
from edgekit.errors import BadInputError
from edgekit.types import (
    Correction,
    Layer,
    ModelInfo,
    NetworkSpec,
    Preprocessing,
    RunResult,
    UnitSpec,
)
from tests.profile.networks import MACHINE, add, conv, correction_of, dense, flatten, profile, residual, timing

_UNITS = [conv(8, 8, 16), dense(16, 10), add(8, 8)]


def _profile_file(path: Path) -> dict[str, Any]:
    codec.write_profile(path, profile({unit: 3.0 for unit in _UNITS}))
    loaded: dict[str, Any] = json.loads(path.read_text())
    return loaded


def _result(**changes: Any) -> RunResult:
    fields = {
        "name": "run",
        "method": "drop",
        "model": "resnet",
        "data": "fashion-mnist",
        "target": "cpu",
        "runtime": "onnx",
        "number_format": "fp32",
        "seed": 0,
        "epochs": 3.0,
        "budget_us": 100.0,
        "predicted_us": 99.0,
        "measured_us": 98.0,
        "baseline_measured_us": 200.0,
        "accuracy": 0.9,
        "baseline_accuracy": 0.91,
        "points": (),
        "machine": MACHINE,
        "settings": {},
        "versions": {},
        "seconds": 12.0,
        "date": "2026-01-01",
    }
    return RunResult(**{**fields, **changes})


def _info(**changes: Any) -> ModelInfo:
    fields = {
        "edgekit_version": "0.1",
        "network": "resnet",
        "number_format": "fp32",
        "source_hash": "ab",
        "target": "cpu",
        "runtime": "onnx",
        "preprocessing": Preprocessing(input_shape=(1, 8, 8), mean=(0.5,), std=(0.25,)),
        "labels": ("cat", "dog"),
    }
    return ModelInfo(**{**fields, **changes})


def test_a_profile_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    correction = Correction(overhead_us=1.0, scale=1.1, network_count=12, median_error=0.02, max_error=0.05)
    written = profile({unit: 3.0 for unit in _UNITS}, [correction_of(residual(), correction, (8, 16))])

    codec.write_profile(tmp_path / "p.json", written)

    assert codec.read_profile(tmp_path / "p.json") == written


def test_a_profile_without_units_is_read_back(tmp_path: Path) -> None:
    codec.write_profile(tmp_path / "p.json", profile({}))

    assert codec.read_profile(tmp_path / "p.json") == profile({})


def test_a_profile_has_one_unit_a_line(tmp_path: Path) -> None:
    _profile_file(tmp_path / "p.json")

    lines = (tmp_path / "p.json").read_text().splitlines()

    assert sum('"framed"' in line for line in lines) == len(_UNITS)


def test_writing_a_profile_keeps_the_units_that_the_file_holds(tmp_path: Path) -> None:
    codec.write_profile(tmp_path / "p.json", profile({_UNITS[0]: 1.0, _UNITS[1]: 2.0}))
    codec.write_profile(tmp_path / "p.json", profile({_UNITS[1]: 5.0, _UNITS[2]: 3.0}))

    times = {unit.unit: unit.latency_us for unit in codec.read_profile(tmp_path / "p.json").units}

    assert times == {_UNITS[0]: 1.0, _UNITS[1]: 5.0, _UNITS[2]: 3.0}


_PROFILE_MANY = """
import sys
from pathlib import Path
from edgekit import codec
from tests.profile.networks import dense, profile
for index in range(10):
    codec.write_profile(Path(sys.argv[1]), profile({dense(int(sys.argv[2]), index + 1): 1.0}))
"""


def test_two_processes_may_write_into_one_profile(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    commands = [[sys.executable, "-c", _PROFILE_MANY, str(path), str(width)] for width in (16, 32)]

    for process in [subprocess.Popen(command, cwd=Path(__file__).parents[1]) for command in commands]:
        assert process.wait(timeout=60) == 0

    assert len(codec.read_profile(path).units) == 20


@pytest.mark.parametrize("field", ["target", "runtime_version", "threads", "machine"])
def test_times_of_another_source_are_not_mixed_in(tmp_path: Path, field: str) -> None:
    old = profile({_UNITS[0]: 1.0})
    other = {
        "target": "pi4",
        "runtime_version": "onnxruntime 2.0",
        "threads": 4,
        "machine": msgspec.structs.replace(MACHINE, cpu="Another CPU"),
    }
    codec.write_profile(tmp_path / "p.json", old)

    with pytest.raises(BadInputError, match=field):
        codec.write_profile(tmp_path / "p.json", msgspec.structs.replace(old, **{field: other[field]}))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda p: p["units"][1]["framed"].update(median_us=-1.0), r"\$\.units\[1\]\.framed\.median_us"),
        (lambda p: p["units"][1]["framed"].update(median_us=0), r"\$\.units\[1\]\.framed\.median_us"),
        (lambda p: p["units"][1]["framed"].update(median_us=1e308), r"\$\.units\[1\]\.framed\.median_us"),
        (lambda p: p["units"][2]["frame"].update(min_us=1e6), r"\$\.units\[2\]\.frame.*must not fall"),
        (lambda p: p["units"][2]["frame"].update(p10_us=8.0, median_us=8.0), r"\$\.units\[2\]\.frame"),
        (lambda p: p["units"].append(p["units"][0]), r"\$\.units\[3\].*\$\.units\[0\]"),
        (lambda p: p["units"][0]["unit"].update(output_shape=[16, 9, 9]), r"\$\.units\[0\]\.unit.*\(16, 8, 8\)"),
        (lambda p: p["units"][0].update(extra=1), r"\$\.units\[0\].*extra"),
        (lambda p: p.update(schema=2), r"\$\.schema.*version 1"),
        (lambda p: p.pop("machine"), "machine"),
        (lambda p: p.update(overhead_us="2"), r"\$\.overhead_us"),
    ],
)
def test_a_bad_profile_is_refused_with_the_file_and_the_place(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], place: str
) -> None:
    document = _profile_file(tmp_path / "p.json")
    change(document)
    (tmp_path / "p.json").write_text(json.dumps(document))

    with pytest.raises(BadInputError, match=rf"p\.json: .*{place}"):
        codec.read_profile(tmp_path / "p.json")


def test_corrections_of_before_they_were_kept_by_network_are_refused_with_a_remedy(tmp_path: Path) -> None:
    document = _profile_file(tmp_path / "p.json")
    document["corrections"] = {"fp32": {"overhead_us": 1.0, "scale": 1.0}}
    (tmp_path / "p.json").write_text(json.dumps(document))

    with pytest.raises(BadInputError, match=r"p\.json: \$\.corrections: ") as caught:
        codec.read_profile(tmp_path / "p.json")

    assert "delete the key 'corrections'" in (caught.value.hint or "")


def test_two_corrections_of_one_network_are_refused(tmp_path: Path) -> None:
    correction = Correction(overhead_us=1.0, scale=1.1, network_count=12, median_error=0.02, max_error=0.05)
    twice = [correction_of(residual(), correction)] * 2

    with pytest.raises(BadInputError, match=r"\$\.corrections\[1\].*\$\.corrections\[0\]"):
        codec.write_profile(tmp_path / "p.json", profile({}, twice))


def test_what_tainted_a_profile_goes_with_its_last_unit() -> None:
    old = msgspec.structs.replace(profile({_UNITS[0]: 1.0, _UNITS[1]: 1.0}), tainted=("it was hot",))

    some = codec.merge_profiles(old, profile({_UNITS[0]: 2.0}))
    all_again = codec.merge_profiles(old, profile({_UNITS[0]: 2.0, _UNITS[1]: 2.0}))

    assert (some.tainted, all_again.tainted) == (("it was hot",), ())


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_not_finite_is_refused(tmp_path: Path, number: str) -> None:
    _profile_file(tmp_path / "p.json")
    text = (tmp_path / "p.json").read_text().replace('"overhead_us": 2.0', f'"overhead_us": {number}')
    (tmp_path / "p.json").write_text(text)

    with pytest.raises(BadInputError, match=r"p\.json"):
        codec.read_profile(tmp_path / "p.json")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'"text"', b"null"])
def test_what_is_no_profile_at_all_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "p.json").write_bytes(data)

    with pytest.raises(BadInputError, match=r"p\.json"):
        codec.read_profile(tmp_path / "p.json")


def test_nan_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(BadInputError):
        codec.write_profile(tmp_path / "p.json", profile({_UNITS[0]: math.nan}))

    assert not (tmp_path / "p.json").exists()


@given(trunk=st.lists(st.integers(1, 64), min_size=1, max_size=3), middle=st.integers(1, 64), size=st.integers(4, 32))
def test_residual_networks_of_any_size_are_valid(trunk: list[int], middle: int, size: int) -> None:
    codec.check_network(residual(trunk, middle, size))


def test_a_network_is_read_as_it_is_in_its_file(tmp_path: Path) -> None:
    (tmp_path / "n.json").write_bytes(msgspec.json.encode(residual().in_format("int8")))

    assert codec.read_network(tmp_path / "n.json") == residual().in_format("int8")


def _network(*layers: Layer) -> NetworkSpec:
    return NetworkSpec(name="n", input_shape=(4, 8, 8), layers=layers)


_FIRST = Layer(name="first", unit=conv(4, 8, 4), inputs=("input",))


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (_network(), "at least one layer"),
        (_network(_FIRST, _FIRST), "'first'.*taken"),
        (_network(Layer(name="input", unit=conv(4, 8, 4), inputs=("input",))), "'input'.*taken"),
        (_network(Layer(name="", unit=conv(4, 8, 4), inputs=("input",))), "is empty"),
        (_network(Layer(name="a", unit=conv(4, 8, 4), inputs=("b",))), "'b'.*no earlier layer"),
        (_network(Layer(name="a", unit=conv(8, 8, 4), inputs=("input",))), r"\(8, 8, 8\).*'input' gives \(4, 8, 8\)"),
        (_network(Layer(name="a", unit=conv(4, 8, 4), inputs=("input", "input"))), "reads 1 layers, here 2"),
        (_network(_FIRST, Layer(name="a", unit=add(4, 8), inputs=("first",))), "reads 2 layers, here 1"),
        (_network(Layer(name="a", unit=conv(4, 8, 6, groups=4), inputs=("input",))), "4 groups must divide"),
        (_network(Layer(name="a", unit=conv(4, 8, 2**29, kernel=3), inputs=("input",))), "more than"),
    ],
)
def test_an_impossible_network_is_refused_with_the_layer_and_the_reason(network: NetworkSpec, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        codec.check_network(network, "n.json")


@pytest.mark.parametrize(
    "unit",
    [
        UnitSpec(kind="conv", input_shape=(4, 2, 2), output_shape=(4, 1, 1), kernel=(3, 3)),
        UnitSpec(kind="conv", input_shape=(4,), output_shape=(4,)),
        UnitSpec(kind="dense", input_shape=(4, 8, 8), output_shape=(4,)),
        UnitSpec(kind="dense", input_shape=(4,), output_shape=(4, 1, 1)),
        UnitSpec(kind="flatten", input_shape=(4, 2, 2), output_shape=(15,)),
        UnitSpec(kind="global_average_pool", input_shape=(4, 2, 2), output_shape=(4, 1, 1)),
        UnitSpec(kind="add", input_shape=(4, 2, 2), output_shape=(5, 2, 2)),
        UnitSpec(kind="max_pool", input_shape=(4, 4, 4), output_shape=(8, 2, 2), kernel=(2, 2), stride=(2, 2)),
        UnitSpec(kind="max_pool", input_shape=(4, 4), output_shape=(4, 4)),
        UnitSpec(kind="dense", input_shape=(4,), output_shape=(4,), sparsity_level=0.5),
        UnitSpec(kind="flatten", input_shape=(4, 2, 2), output_shape=(16,), activation="relu"),
    ],
)
def test_a_unit_whose_shapes_do_not_follow_is_refused(unit: UnitSpec) -> None:
    with pytest.raises(BadInputError, match=r"^layer 'x'"):
        codec.check_unit(unit, "layer 'x'")


def test_a_result_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    codec.write_result(tmp_path / "result.json", _result())

    assert codec.read_result(tmp_path / "result.json") == _result()


@pytest.mark.parametrize("changes", [{"epochs": math.nan}, {"seconds": -1.0}, {"seconds": 1e308}, {"accuracy": 1.5}])
def test_a_result_with_impossible_numbers_is_not_written(tmp_path: Path, changes: dict[str, float]) -> None:
    with pytest.raises(BadInputError, match=next(iter(changes))):
        codec.write_result(tmp_path / "result.json", _result(**changes))


def test_model_information_is_decoded_as_it_was_encoded() -> None:
    assert codec.decode_model_info(codec.encode_model_info(_info())) == _info()


@pytest.mark.parametrize(
    "info",
    [
        _info(labels=()),
        _info(preprocessing=Preprocessing(input_shape=(3, 8, 8), mean=(0.5,), std=(0.5,))),
        _info(preprocessing=Preprocessing(input_shape=(), mean=(), std=())),
        _info(preprocessing=Preprocessing(input_shape=(1,), mean=(1e300,), std=(0.5,))),
    ],
)
def test_model_information_that_contradicts_itself_is_refused(info: ModelInfo) -> None:
    with pytest.raises(BadInputError, match=r"\$\."):
        codec.decode_model_info(msgspec.json.encode(info).decode())


@pytest.mark.parametrize("text", ["", "{", "\ud800", "[]"])
def test_text_that_is_no_model_information_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="metadata"):
        codec.decode_model_info(text)


def test_a_flatten_unit_of_matching_shapes_is_accepted() -> None:
    codec.check_unit(flatten(4, 3), "layer 'x'")


def test_the_order_of_times_includes_equality() -> None:
    assert timing(5.0).p10_us == timing(5.0).p90_us

    codec.check_profile(profile({_UNITS[0]: 0.0}), "p.json")


def test_a_damaged_profile_says_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "cpu.json").write_text("{")

    with pytest.raises(BadInputError) as caught:
        codec.read_profile(tmp_path / "cpu.json")

    assert caught.value.hint == f"delete {tmp_path / 'cpu.json'}: its times are measured again"


def test_a_damaged_result_says_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    (tmp_path / "first" / "result.json").write_text("{")

    with pytest.raises(BadInputError) as caught:
        codec.read_result(tmp_path / "first" / "result.json")

    assert "edgekit train --resume --name first" in (caught.value.hint or "")


def test_a_profile_that_is_not_there_is_not_to_be_deleted(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        codec.read_profile(tmp_path / "absent.json")

    assert "delete" not in (caught.value.hint or "")


def test_lists_among_the_settings_stay_lists(tmp_path: Path) -> None:
    result = _result(settings={"penalty_sweep": (5.0, 20.0), "image_size": (12, 14), "limit": None})
    codec.write_result(tmp_path / "result.json", result)

    stored = json.loads((tmp_path / "result.json").read_text())["settings"]

    assert stored == {"penalty_sweep": [5.0, 20.0], "image_size": [12, 14], "limit": None}
    assert codec.read_result(tmp_path / "result.json") == result
