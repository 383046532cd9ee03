"""Any .onnx or .tflite file is cut into parts that compute what the whole does, and the parts' times are added up."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.errors import BadInputError, UnsupportedModelError, UsageError
from edgekit.profile.files import FileProfile, FileUnit, GivenInput, parse_input, profile_file, units_of
from edgekit.profile.files.samples import InputSlot, sample_inputs
from edgekit.profile.files.sessions import OnnxFileSession, open_onnx, open_tflite
from edgekit.profile.frame import plausible_ranges, with_random_weights
from edgekit.runtimes import get
from edgekit.types import INPUT, Layer, NetworkSpec, NumberFormat, RuntimeName, UnitSpec
from tests.profile.networks import conv

onnx = pytest.importorskip("onnx", reason="ONNX files are cut with onnx: pip install 'edgekit[train]'")
pytest.importorskip("ai_edge_litert", reason="TFLite files are cut with LiteRT: pip install 'edgekit[tflite]'")

RUNTIMES: tuple[RuntimeName, ...] = ("onnx", "tflite")
LIGHT_MODELS = Path(onnx.__file__).parent / "backend/test/data/light"
SILERO_INPUTS = [parse_input(text) for text in ("input:1x576", "state:2x1x128", "sr=16000")]
_SECONDS = 0.05


def chain_of(*units: UnitSpec) -> NetworkSpec:
    names = (INPUT, *(f"layer{index}" for index in range(len(units))))
    layers = tuple(
        Layer(name=name, unit=unit, inputs=(read,)) for read, name, unit in zip(names, names[1:], units, strict=False)
    )
    return NetworkSpec(name="chain", input_shape=units[0].input_shape, layers=layers)


def written(spec: NetworkSpec, runtime: RuntimeName, number_format: NumberFormat = "fp32", seed: int = 0) -> bytes:
    spec = spec.in_format(number_format)
    ranges = plausible_ranges(spec) if number_format == "int8" else None
    return get(runtime).write(with_random_weights(spec, seed), number_format, ranges)


def small_chain() -> NetworkSpec:
    pool = UnitSpec(kind="max_pool", input_shape=(32, 8, 8), output_shape=(32, 4, 4), kernel=(2, 2), stride=(2, 2))
    return chain_of(conv(3, 16, 16), conv(16, 16, 32, stride=2), pool, conv(32, 4, 16))


def results(unit: FileUnit, runtime: RuntimeName) -> list[NDArray[Any]]:
    if runtime == "onnx":
        return list(open_onnx(unit.model, 1, as_written=True).run(None, dict(unit.sample)))
    interpreter = open_tflite(unit.model, unit.sample, 1)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def onnx_model(nodes: list[Any], inputs: dict[str, Any], outputs: list[str], constants: dict[str, Any]) -> bytes:
    """A model of float inputs with the given shapes; names of sizes leave them open."""
    helper = onnx.helper
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def node(operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> Any:
    return onnx.helper.make_node(operator, inputs, outputs, **attributes)


def file_of_wheel(requirement: str, suffix: str) -> Path:
    """A file of a package on the index, kept for later runs; skips the test where pip cannot fetch it."""
    cache = Path.home() / ".cache" / "edgekit-tests"
    kept = cache / "files" / Path(suffix).name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            found = Path(folder) / kept.name
            found.write_bytes(_read_from_wheel(cache, requirement, suffix, Path(folder)))
            # Two tests may fetch the same file at the same time.
            os.replace(found, kept)
    return kept


def _read_from_wheel(cache: Path, requirement: str, suffix: str, folder: Path) -> bytes:
    arguments = ["download", "--quiet", "--no-deps", "--find-links", str(cache), "--dest", str(folder), requirement]
    done = subprocess.run(
        [sys.executable, "-m", "pip", *arguments], capture_output=True, text=True, timeout=300, check=False
    )
    if done.returncode:
        pytest.skip(f"pip cannot fetch {requirement}: {(done.stderr.splitlines() or ['no reason given'])[-1]}")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        return wheel.read(next(name for name in wheel.namelist() if name.endswith(suffix)))


def silero() -> Path:
    return file_of_wheel("silero-vad", "/silero_vad.onnx")


def mediapipe(name: str) -> Path:
    return file_of_wheel("mediapipe==0.10.14", f"/{name}.tflite")


@pytest.mark.parametrize("number_format", ["fp32", "int8"])
@pytest.mark.parametrize("runtime", RUNTIMES)
def test_each_unit_of_a_chain_computes_what_the_next_one_reads(
    runtime: RuntimeName, number_format: NumberFormat
) -> None:
    units = units_of(written(small_chain(), runtime, number_format), runtime).units

    outputs = [results(unit, runtime)[0].astype(np.float64) for unit in units]

    steps = 1 if number_format == "int8" else 1e-4
    for output, reader in zip(outputs, units[1:], strict=False):
        (read,) = reader.sample.values()
        np.testing.assert_allclose(output, read.astype(np.float64), rtol=1e-4, atol=steps)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_last_unit_gives_the_result_of_the_whole(runtime: RuntimeName) -> None:
    model = written(small_chain(), runtime)
    cut = units_of(model, runtime)

    (result,) = results(cut.units[-1], runtime)

    (sample,) = cut.inputs.values()
    whole = get(runtime).load(model).run(sample if runtime == "onnx" else sample.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(result, whole if runtime == "onnx" else whole.transpose(0, 2, 3, 1), atol=1e-4)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_equal_layers_are_one_unit_with_their_number(runtime: RuntimeName) -> None:
    layers = [conv(16, 16, 16)] * 3

    units = units_of(written(chain_of(conv(3, 16, 16), *layers), runtime), runtime).units

    assert max(unit.count for unit in units) == 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_keys_depend_on_shapes_and_not_on_weights(runtime: RuntimeName) -> None:
    def keys(spec: NetworkSpec, seed: int) -> list[str]:
        return [unit.key for unit in units_of(written(spec, runtime, seed=seed), runtime).units]

    first = keys(small_chain(), seed=0)

    assert keys(small_chain(), seed=1) == first
    assert keys(chain_of(conv(3, 16, 32)), seed=0)[-1] not in first


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_stride_is_part_of_the_key(runtime: RuntimeName) -> None:
    def window(stride: int) -> set[str]:
        unit = UnitSpec(
            kind="max_pool", input_shape=(16, 1, 1), output_shape=(16, 1, 1), kernel=(1, 1), stride=(stride, stride)
        )
        return {unit.key for unit in units_of(written(chain_of(unit), runtime), runtime).units}

    assert window(1) != window(2)


def test_units_of_an_int8_onnx_file_are_integer_kernels() -> None:
    model = written(small_chain(), "onnx", "int8")

    counts = Counter(unit.operator for unit in units_of(model, "onnx").units for _ in unit.names)

    assert sum(count for name, count in counts.items() if "QLinearConv" in name) == 3
    assert not any(name.endswith(":Conv") or name == "Conv" for name in counts)


def test_units_of_an_int8_tflite_file_run_as_integers_in_the_delegate(tmp_path: Path) -> None:
    path = tmp_path / "int8.tflite"
    path.write_bytes(written(small_chain(), "tflite", "int8"))

    rows = profile_file(path, seconds=_SECONDS).rows

    kernels = {row.operator: row.kernels for row in rows}
    assert kernels["CONV_2D"] == ("xnnpack:CONV_2D[int8]",)


@pytest.mark.parametrize("name", ["squeezenet", "shufflenet"])
def test_every_kernel_of_a_public_model_has_its_unit(name: str) -> None:
    model = (LIGHT_MODELS / f"light_{name}.onnx").read_bytes()

    cut = units_of(model, "onnx")

    whole = Counter(kernel.split("[")[0] for kernel in OnnxFileSession(model, cut.inputs, 1).kernels())
    cut_kernels = Counter(unit.operator.split(":")[-1] for unit in cut.units for _ in unit.names)
    # Views are no kernel that the profiler lists: nothing is computed.
    assert whole - Counter({"Reshape": whole["Reshape"]}) == cut_kernels - Counter({"Reshape": cut_kernels["Reshape"]})
    assert cut.not_separable == ()


def test_an_open_batch_is_one_and_so_are_sizes_of_its_name() -> None:
    slots = [
        InputSlot("image", np.dtype(np.float32), ("batch", 3)),
        InputSlot("state", np.dtype(np.float32), (2, "batch")),
    ]

    samples = sample_inputs(slots)

    assert {name: array.shape for name, array in samples.items()} == {"image": (1, 3), "state": (2, 1)}


def test_other_open_sizes_are_named_and_refused() -> None:
    model = onnx_model([node("Relu", ["x"], ["y"])], {"x": ["batch", "length"]}, ["y"], {})

    with pytest.raises(BadInputError, match=r"'x' \(batch, length\)") as raised:
        units_of(model, "onnx")

    assert raised.value.hint is not None and "x:1x1" in raised.value.hint


def test_a_given_shape_closes_them() -> None:
    model = onnx_model([node("Relu", ["x"], ["y"])], {"x": ["batch", "length"]}, ["y"], {})

    (unit,) = units_of(model, "onnx", [parse_input("x:1x40")]).units

    assert unit.outputs[0].shape == (1, 40)


@pytest.mark.parametrize("text", ["y:1x4", "x:2x3", "x:1x4x1"])
def test_what_is_given_must_fit_the_model(text: str) -> None:
    model = onnx_model([node("Relu", ["x"], ["y"])], {"x": [1, 4]}, ["y"], {})

    with pytest.raises(UsageError, match="input"):
        units_of(model, "onnx", [parse_input(text)])


def test_inputs_are_given_as_name_shape_and_value() -> None:
    assert parse_input("serve:0:1x16=2.5") == GivenInput(name="serve:0", shape=(1, 16), value=2.5)


@pytest.mark.parametrize("text", ["", "x", "x:", "x:0x3", "x=", "x=one", ":3", "x:1xx2"])
def test_other_descriptions_of_inputs_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="NAME:SHAPE"):
        parse_input(text)


def if_model() -> bytes:
    """Which branch is taken depends on the input's sum; both read what lies outside, and use the same names."""
    branches = {
        side: onnx.helper.make_graph(
            [node("Relu", ["x"], ["inner"]), node(operator, ["inner", "inner"], ["result"])],
            side,
            [],
            [onnx.ValueInfoProto(name="result")],
        )
        for side, operator in (("then_branch", "Add"), ("else_branch", "Mul"))
    }
    nodes = [
        node("ReduceSum", ["x"], ["sum"], keepdims=0),
        node("Greater", ["sum", "zero"], ["condition"]),
        node("If", ["condition"], ["first"], **branches),
        node("If", ["condition"], ["second"], **branches),
        node("Sub", ["first", "second"], ["y"]),
    ]
    return onnx_model(nodes, {"x": [1, 8]}, ["y"], {"zero": np.float32(0)})


@pytest.mark.parametrize(("value", "operator"), [(1, "Add"), (-1, "Mul")])
def test_an_if_is_replaced_by_the_branch_that_is_taken(value: float, operator: str) -> None:
    cut = units_of(if_model(), "onnx", [GivenInput(name="x", value=value)])

    counts = {unit.operator: unit.count for unit in cut.units}
    assert counts[operator] == 2 and counts["If"] == 2
    assert not {"Add", "Mul"} - {operator} & set(counts)


def test_a_loop_stays_one_unit_with_what_it_reads_from_outside() -> None:
    body = onnx.helper.make_graph(
        [node("Identity", ["going"], ["goes_on"]), node("Add", ["before", "x"], ["after"])],
        "body",
        [
            onnx.helper.make_tensor_value_info("turn", onnx.TensorProto.INT64, []),
            onnx.helper.make_tensor_value_info("going", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("before", onnx.TensorProto.FLOAT, [1, 8]),
        ],
        [
            onnx.helper.make_tensor_value_info("goes_on", onnx.TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("after", onnx.TensorProto.FLOAT, [1, 8]),
        ],
    )
    nodes = [node("Relu", ["x"], ["start"]), node("Loop", ["turns", "", "start"], ["y"], body=body)]
    model = onnx_model(nodes, {"x": [1, 8]}, ["y"], {"turns": np.int64(3)})

    (loop,) = (unit for unit in units_of(model, "onnx", [parse_input("x=1")]).units if unit.operator == "Loop")

    assert set(loop.sample) == {"start", "x"}
    np.testing.assert_array_equal(results(loop, "onnx")[0], np.full((1, 8), 4.0))


def test_what_is_no_tensor_is_named_and_the_rest_is_timed(tmp_path: Path) -> None:
    nodes = [
        node("SequenceConstruct", ["x", "x"], ["both"]),
        node("ConcatFromSequence", ["both"], ["joined"], axis=1),
        node("Softmax", ["joined"], ["y"]),
    ]
    path = tmp_path / "sequence.onnx"
    path.write_bytes(onnx_model(nodes, {"x": [1, 8]}, ["y"], {}))

    profile = profile_file(path, seconds=_SECONDS)

    assert [item.operator for item in profile.not_separable] == ["SequenceConstruct", "ConcatFromSequence"]
    assert [row.operator for row in profile.rows] == ["Softmax"]


def test_indices_that_the_model_computes_are_valid_in_its_units() -> None:
    """Random numbers would reach beyond the table."""
    nodes = [node("ArgMax", ["x"], ["place"], axis=1, keepdims=0), node("Gather", ["table", "place"], ["y"])]
    table = np.arange(16, dtype=np.float32).reshape(8, 2)
    model = onnx_model(nodes, {"x": [1, 8]}, ["y"], {"table": table})

    units = units_of(model, "onnx").units

    (gathered,) = results(units[-1], "onnx")
    place = int(next(iter(units[0].sample.values())).argmax())
    np.testing.assert_array_equal(gathered[0], table[place])


def test_a_view_is_not_charged_for_a_copy() -> None:
    constants = {"shape": np.array([1, -1], dtype=np.int64)}
    nodes = [node("Relu", ["x"], ["positive"]), node("Reshape", ["positive", "shape"], ["y"])]
    model = onnx_model(nodes, {"x": [1, 4, 4]}, ["y"], constants)

    view = units_of(model, "onnx").units[-1]

    assert (view.operator, view.extra_nodes) == ("Reshape", 1)
    np.testing.assert_array_equal(results(view, "onnx")[0], [1, 16])


def test_a_model_that_does_not_run_on_made_up_inputs_says_so() -> None:
    nodes = [node("Reshape", ["x", "shape"], ["y"])]
    model = onnx_model(nodes, {"x": [1, "length"]}, ["y"], {"shape": np.array([1, 4], dtype=np.int64)})

    with pytest.raises(UnsupportedModelError, match="did not run"):
        units_of(model, "onnx", [parse_input("x:1x5")])


@pytest.mark.parametrize("name", ["model.onnx", "model.tflite"])
def test_what_is_no_model_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"this is no model, whatever its name says")

    with pytest.raises(BadInputError):
        profile_file(path)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_file_that_was_cut_off_is_refused(tmp_path: Path, runtime: RuntimeName) -> None:
    model = written(small_chain(), runtime)
    path = tmp_path / f"model{get(runtime).suffix}"
    path.write_bytes(model[: len(model) // 2])

    with pytest.raises(BadInputError):
        profile_file(path)


def test_another_suffix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.onnx or \.tflite"):
        profile_file(tmp_path / "model.pt")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"absent\.onnx"):
        profile_file(tmp_path / "absent.onnx")


def test_weights_that_lie_beside_the_file_are_found(tmp_path: Path) -> None:
    model = onnx.load_from_string(written(small_chain(), "onnx"))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)

    profile = profile_file(path, seconds=_SECONDS)

    assert sum(row.operator.endswith("Conv") for row in profile.rows) == 3


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_profile_adds_up(tmp_path: Path, runtime: RuntimeName) -> None:
    path = tmp_path / f"model{get(runtime).suffix}"
    path.write_bytes(written(small_chain(), runtime))

    profile = profile_file(path, seconds=_SECONDS)

    assert profile.sum_us == pytest.approx(
        profile.overhead_us + sum(row.count * row.latency_us for row in profile.rows)
    )
    assert profile.ratio == pytest.approx(profile.sum_us / profile.whole.median_us)
    assert sum(row.share for row in profile.rows) == pytest.approx(1)


def test_a_profile_is_json_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(written(small_chain(), "onnx"))

    profile = profile_file(path, seconds=_SECONDS)

    assert msgspec.json.decode(msgspec.json.encode(profile), type=FileProfile) == profile


_FILES: dict[str, tuple[Callable[[], Path], list[GivenInput], str]] = {
    "squeezenet": (lambda: LIGHT_MODELS / "light_squeezenet.onnx", [], "Conv[float]"),
    "shufflenet": (lambda: LIGHT_MODELS / "light_shufflenet.onnx", [], "Conv[float]"),
    "silero": (silero, SILERO_INPUTS, "LSTM[float]"),
    "hand": (lambda: mediapipe("hand_landmark_lite"), [], "xnnpack:CONV_2D[float32]"),
    "face": (lambda: mediapipe("face_detection_short_range"), [], "xnnpack:DEPTHWISE_CONV_2D[float32]"),
}


@pytest.mark.parametrize("name", _FILES)
def test_public_models_are_profiled_whole(name: str) -> None:
    """Nothing is left out, the kernels are named, and the parts are not out of all proportion to the whole.

    On a machine that others use the whole is interrupted where its parts are not: only the upper bound is sharp.
    """
    find, inputs, kernel = _FILES[name]

    profile = profile_file(find(), inputs=inputs, seconds=0.5)

    assert profile.not_separable == ()
    assert kernel in profile.kernels
    assert 0 < profile.hot_ratio < 1.6


def test_half_precision_weights_stay_with_the_layers_that_read_them() -> None:
    cut = units_of(mediapipe("hand_landmark_lite").read_bytes(), "tflite")

    operators = Counter(unit.operator for unit in cut.units for _ in unit.names)

    assert "DEQUANTIZE" not in operators
    assert operators["CONV_2D"] == 31
    assert "102 operators prepare constants" in cut.notes[0]


def test_a_custom_operator_that_the_runtime_lacks_is_named() -> None:
    model = mediapipe("selfie_segmentation").read_bytes()

    with pytest.raises(UnsupportedModelError, match="Convolution2DTransposeBias"):
        units_of(model, "tflite")
