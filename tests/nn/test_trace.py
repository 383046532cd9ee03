"""A traced user model computes what the user's model computes, or is refused by a message that says where and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from edgekit.errors import BadInputError, EdgekitError, UnsupportedModelError, UsageError  # noqa: E402
from edgekit.nn.folding import fold  # noqa: E402
from edgekit.nn.network import Network  # noqa: E402
from edgekit.nn.trace import load_factory, trace  # noqa: E402
from edgekit.runtimes._base import LayerWeights  # noqa: E402
from edgekit.types import INPUT, Layer, NetworkSpec  # noqa: E402
from tests.nn.unsupported_models import UNSUPPORTED  # noqa: E402
from tests.nn.user_models import SUPPORTED, BasicBlock, deep_resnet, resnet  # noqa: E402


def _randomise(module: nn.Module) -> nn.Module:
    """Batch normalisation as after training: statistics, factors and offsets that a wrong fold would show."""
    generator = torch.Generator().manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.running_mean is not None:
            part.running_mean.normal_(0, 0.5, generator=generator)
            part.running_var.uniform_(0.5, 2, generator=generator)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 1.5, generator=generator)
                nn.init.normal_(part.bias, 0, 0.5, generator=generator)
    return module


def interpret(spec: NetworkSpec, weights: Mapping[str, LayerWeights], x: Tensor) -> Tensor:
    """The plainest possible reading of a spec with folded weights."""
    values = {INPUT: x}
    for layer in spec.layers:
        inputs = [values[name] for name in layer.inputs]
        assert all(tuple(value.shape[1:]) == layer.unit.input_shape for value in inputs)
        y = _run(layer, weights.get(layer.name), inputs)
        assert tuple(y.shape[1:]) == layer.unit.output_shape
        values[layer.name] = {"none": lambda v: v, "relu": F.relu, "relu6": F.relu6}[layer.unit.activation](y)
    return values[spec.output.name]


def _run(layer: Layer, weights: LayerWeights | None, inputs: list[Tensor]) -> Tensor:
    unit, x = layer.unit, inputs[0]
    top, left, bottom, right = unit.padding
    pads = (left, right, top, bottom)
    if weights is not None:
        weight, bias = torch.from_numpy(weights.weight), torch.from_numpy(weights.bias)
        if unit.kind == "conv":
            return F.conv2d(F.pad(x, pads), weight, bias, unit.stride, 0, unit.dilation, unit.groups)
        if unit.kind == "dense":
            return F.linear(x, weight, bias)
        shape = (1, -1, *[1] * (x.dim() - 2))
        return x * weight.reshape(shape) + bias.reshape(shape)
    if unit.kind == "add":
        return inputs[0] + inputs[1]
    if unit.kind == "max_pool":
        return F.max_pool2d(F.pad(x, pads, value=float("-inf")), unit.kernel, unit.stride, 0, unit.dilation)
    if unit.kind == "average_pool":
        return F.avg_pool2d(F.pad(x, pads), unit.kernel, unit.stride)
    if unit.kind == "global_average_pool":
        return x.mean((2, 3))
    return x.flatten(1) if unit.kind == "flatten" else x


def _largest_difference(module: nn.Module, input_shape: tuple[int, ...]) -> float:
    traced = trace(module, input_shape)
    x = torch.randn(3, *input_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = module.eval()(x.clone())
        found = interpret(traced.spec, fold(traced.spec, traced.modules), x)
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max().clamp(min=1))


@pytest.mark.parametrize("name", SUPPORTED)
def test_traced_model_computes_what_the_module_computes(name: str) -> None:
    factory, input_shape = SUPPORTED[name]
    torch.manual_seed(0)

    assert _largest_difference(_randomise(factory()), input_shape) < 1e-5


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_unsupported_model_is_refused_with_place_and_advice(name: str) -> None:
    factory, input_shape, message, hint = UNSUPPORTED[name]

    with pytest.raises(EdgekitError, match=message) as caught:
        trace(factory(), input_shape)

    assert hint in (caught.value.hint or "")


def test_refusal_names_the_source_line() -> None:
    factory, input_shape, *_ = UNSUPPORTED["concatenation"]

    with pytest.raises(UnsupportedModelError, match=r"'dense' \(unsupported_models\.py, line \d+\)"):
        trace(factory(), input_shape)


@pytest.mark.parametrize("name", ["data-dependent", "wrong-shape-inside"])
def test_what_fails_in_forward_is_found_by_file_and_line(name: str) -> None:
    factory, input_shape, *_ = UNSUPPORTED[name]

    with pytest.raises(UnsupportedModelError, match=r"\(unsupported_models\.py, line \d+\)"):
        trace(factory(), input_shape)


@settings(max_examples=12, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2, 4]),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    has_bias=st.booleans(),
)
def test_any_convolution_computes_what_its_module_computes(
    kernel: tuple[int, int], stride: int, dilation: int, groups: int, pads: tuple[int, ...], has_bias: bool
) -> None:
    conv = nn.Conv2d(4, 8, kernel, stride, 1, dilation, groups, has_bias)
    module = nn.Sequential(nn.ZeroPad2d(pads), conv, nn.BatchNorm2d(8), nn.ReLU6())

    assert _largest_difference(_randomise(module), (4, 9, 11)) < 1e-5


@settings(max_examples=12, deadline=None)
@given(
    kernel=st.integers(2, 4),
    stride=st.integers(1, 4),
    is_padded=st.booleans(),
    ceil_mode=st.booleans(),
    size=st.integers(7, 12),
)
def test_any_max_pool_computes_what_its_module_computes(
    kernel: int, stride: int, is_padded: bool, ceil_mode: bool, size: int
) -> None:
    module = nn.Sequential(nn.Conv2d(2, 2, 1), nn.MaxPool2d(kernel, stride, int(is_padded), ceil_mode=ceil_mode))

    assert _largest_difference(module, (2, size, size + 1)) < 1e-5


def test_batch_norm_and_activation_become_part_of_the_unit() -> None:
    layers = {layer.name: layer for layer in trace(resnet(), (3, 14, 14)).spec.layers}

    assert list(layers) == [
        "conv1",
        "layers.0.conv1",
        "layers.0.conv2",
        "layers.0.add",
        "layers.1.downsample.0",
        "layers.1.conv1",
        "layers.1.conv2",
        "layers.1.add",
        "avgpool",
        "fc",
    ]
    assert layers["conv1"].batch_norm and layers["conv1"].unit.activation == "relu"
    assert layers["layers.0.conv2"].batch_norm and layers["layers.0.conv2"].unit.activation == "none"
    assert layers["layers.0.add"].unit.activation == "relu"
    assert layers["avgpool"].unit.kind == "global_average_pool"


def test_batch_norm_that_cannot_be_folded_becomes_a_scale() -> None:
    factory, input_shape = SUPPORTED["pre-activation"]
    module = factory()

    traced = trace(module, input_shape)

    scale = traced.spec.layer("layers.1.bn1")
    assert (scale.unit.kind, scale.unit.activation, scale.batch_norm) == ("scale", "relu", True)
    assert traced.modules["layers.1.bn1"].batch_norm is module.get_submodule("layers.1.bn1")
    assert traced.modules["layers.1.bn1"].operator is None


def test_values_that_are_read_twice_are_not_merged() -> None:
    factory, input_shape = SUPPORTED["shared-reading"]

    kinds = [layer.unit.kind for layer in trace(factory(), input_shape).spec.layers]

    assert kinds[:3] == ["conv", "scale", "activation"]


def test_modules_are_the_users_own_objects() -> None:
    module = resnet()

    modules = trace(module, (3, 14, 14)).modules

    assert modules["layers.1.conv2"].operator is module.get_submodule("layers.1.conv2")
    assert modules["layers.1.conv2"].batch_norm is module.get_submodule("layers.1.bn2")


def test_network_of_the_modules_trains_the_users_parameters() -> None:
    module = resnet().train()
    traced = trace(module, (3, 14, 14))
    x = torch.randn(4, 3, 14, 14)

    output = Network(traced.spec, traced.modules).train()(x)
    output.sum().backward()

    assert torch.allclose(output, module(x), atol=1e-5)
    assert all(parameter.grad is not None for parameter in module.parameters())


def test_training_flags_are_left_alone() -> None:
    module = resnet().train()
    module.get_submodule("layers.0").eval()
    before = [part.training for part in module.modules()]

    trace(module, (3, 14, 14))

    assert [part.training for part in module.modules()] == before


def test_training_flags_are_restored_after_a_failure() -> None:
    module = nn.Linear(4, 4).train()

    with pytest.raises(UnsupportedModelError):
        trace(module, (5,))

    assert module.training


def test_layers_come_after_what_they_read_and_the_output_is_last() -> None:
    for factory, input_shape in SUPPORTED.values():
        spec = trace(factory(), input_shape).spec
        seen = {INPUT}
        for layer in spec.layers:
            assert seen.issuperset(layer.inputs)
            seen.add(layer.name)
        read = {name for layer in spec.layers for name in layer.inputs}
        assert [layer.name for layer in spec.layers if layer.name not in read] == [spec.output.name]


def test_names_are_unique_even_if_a_module_is_called_input() -> None:
    module = nn.Sequential()
    module.add_module("input", nn.Linear(4, 4))
    module.add_module("add", BasicBlock(1, 1).relu)

    spec = trace(module, (4,)).spec

    assert [layer.name for layer in spec.layers] == ["input_2"]


def test_global_pool_before_a_convolution_keeps_its_map() -> None:
    factory, input_shape = SUPPORTED["convolutional-head"]

    layers = trace(factory(), input_shape).spec.layers

    assert [(layer.unit.kind, layer.unit.output_shape) for layer in layers][-3:] == [
        ("average_pool", (8, 1, 1)),
        ("conv", (10, 1, 1)),
        ("flatten", (10,)),
    ]


def test_asymmetric_padding_is_part_of_the_convolution() -> None:
    factory, input_shape = SUPPORTED["same-padding"]

    spec = trace(factory(), input_shape).spec

    assert spec.layer("conv1").unit.padding == (1, 1, 2, 1)
    assert spec.layer("conv3").unit.padding == (0, 0, 1, 1)
    assert spec.layer("conv4").unit.padding == (2, 3, 1, 1)


def test_network_has_the_name_of_its_class_or_the_given_one() -> None:
    assert trace(resnet(), (3, 14, 14)).spec.name == "ResidualNet"
    assert trace(resnet(), (3, 14, 14), "mine").spec.name == "mine"


def test_deep_networks_are_traced_whole() -> None:
    spec = trace(deep_resnet(52), (3, 8, 8)).spec

    assert sum(layer.unit.kind == "conv" for layer in spec.layers) == 105


def test_double_precision_models_are_traced() -> None:
    traced = trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU()).double(), (4,))

    assert fold(traced.spec, traced.modules)["0"].weight.dtype == "float32"


@pytest.mark.parametrize("name", ["data-dependent", "wrong-shape", "untraceable"])
def test_nothing_is_printed(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    factory, input_shape, *_ = UNSUPPORTED[name]

    with pytest.raises(UnsupportedModelError):
        trace(factory(), input_shape)

    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("shape", [(), (3, 8), (0,), (3, -1, 8), (1, 3, 8, 8)])
def test_impossible_input_shape_is_a_usage_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="cannot read inputs of shape"):
        trace(nn.Linear(4, 4), shape)


@pytest.fixture
def user_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module that a user may have written."""
    (tmp_path / "sibling.py").write_text("WIDTH = 3\n")
    (tmp_path / "my_models.py").write_text(
        "from torch import nn\n"
        "from sibling import WIDTH\n"
        "def make(): return nn.Linear(4, WIDTH)\n"
        "def needs(width): return nn.Linear(4, width)\n"
        "def number(): return 3\n"
        "ready = nn.Linear(2, 2)\n"
        "constant = 5\n"
        "def raises():\n"
        "    raise ValueError('no weights')\n"
        "def in_torch():\n"
        "    return nn.Conv2d(4, 4, 3, groups=3)\n"
    )
    (tmp_path / "broken.py").write_text("import a_package_that_is_missing\n")
    (tmp_path / "quits.py").write_text("raise SystemExit(1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("my_models", "sibling", "broken", "quits"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("reference", ["my_models:make", "my_models.py:make"])
def test_factory_is_found_in_the_working_directory(user_code: Path, reference: str) -> None:
    module = load_factory(reference)

    assert isinstance(module, nn.Linear) and module.out_features == 3


def test_factory_is_found_in_a_file_elsewhere(user_code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")

    assert isinstance(load_factory(f"{user_code / 'my_models.py'}:make"), nn.Linear)


def test_module_object_is_taken_as_it_is(user_code: Path) -> None:
    module = load_factory("my_models:ready")

    assert module is sys.modules["my_models"].ready


def test_class_is_a_factory(user_code: Path) -> None:
    assert isinstance(load_factory("tests.nn.user_models:PlainCnn"), nn.Module)


@pytest.mark.parametrize(
    ("reference", "error", "message", "hint"),
    [
        ("my_models", UsageError, "names no factory", "package.module:factory"),
        ("my_models:", UsageError, "names no factory", "package.module:factory"),
        ("absent:make", UsageError, "no Python module 'absent'", "folder"),
        ("absent.part:make", UsageError, "no Python module 'absent.part'", "folder"),
        ("absent.py:make", UsageError, r"no file 'absent\.py'", "path"),
        ("my_models:mak", UsageError, "has no 'mak'", "it has make"),
        ("my_models:needs", BadInputError, "failed: TypeError", "without arguments"),
        ("my_models:number", BadInputError, "gave 'int'", "returns the model"),
        ("my_models:constant", BadInputError, "is 'int', not a function", "factory"),
        ("broken:make", BadInputError, "a_package_that_is_missing", "install"),
        ("broken.py:make", BadInputError, "a_package_that_is_missing", "install"),
        ("quits.py:make", BadInputError, "SystemExit", "side effects"),
        ("quits.py:make", BadInputError, r"failed \(quits\.py, line 1\)", "side effects"),
        ("my_models:raises", BadInputError, r"failed \(my_models\.py, line 9\): ValueError", "without arguments"),
        ("my_models:in_torch", BadInputError, r"failed \(my_models\.py, line 11\): \w+Error", "without arguments"),
    ],
)
def test_wrong_reference_is_refused_with_advice(
    user_code: Path, reference: str, error: type[EdgekitError], message: str, hint: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        load_factory(reference)

    assert hint in (caught.value.hint or "")
