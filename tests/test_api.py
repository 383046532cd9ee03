"""edgekit in a training loop of one's own: what comes out of it, what is refused, and what importing it costs."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")

import msgspec  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import edgekit  # noqa: E402
from edgekit import api, errors  # noqa: E402
from edgekit.api import AttachedGates  # noqa: E402
from edgekit.nn.network import Network  # noqa: E402
from edgekit.nn.trace import trace  # noqa: E402
from edgekit.profile import PriceTable  # noqa: E402
from edgekit.run.model import open_model  # noqa: E402
from edgekit.types import Method, Profile  # noqa: E402
from tests.own_models import (  # noqa: E402
    GROUP_SIZE,
    IMAGE,
    MODELS,
    batch_for,
    depthwise,
    exactly,
    learn,
    made_up_profile,
    made_up_time,
    perceptron,
    plain,
    profile_of,
    with_gates,
)

QUICK = Method(rounds=2, runs_per_round=1, warmup_runs=0, correction_networks=2)
DOCUMENTATION = Path(__file__).parents[1] / "docs" / "python.md"

every_model = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(before)


def masked(gates: AttachedGates, batch: Tensor) -> Tensor:
    """What the dense network computes with everything at zero that was not chosen."""
    assert gates.choice is not None
    kept = []
    for index in gates.learned.droppable:
        space, channels = gates.structure.spaces[index], gates.choice.channels[index]
        kept += [set(space.channels_of_group(group)) <= set(channels) for group in range(space.group_count)]
    kept += [block.add not in gates.choice.dropped for block in gates.structure.blocks]
    result: Tensor = gates.network.eval()(batch, gates.learned.sample_of(torch.tensor(kept).float()))
    return result


class TestShrink:
    @every_model
    def test_it_computes_what_the_masked_network_computes(self, name: str) -> None:
        model, gates = with_gates(name)
        batch = batch_for(name)
        learn(model, gates, batch, steps=5)

        small = edgekit.shrink(model.eval(), gates)

        assert torch.allclose(small(batch), masked(gates, batch), rtol=1e-4, atol=1e-5)

    @every_model
    def test_it_is_smaller_and_within_the_budget(self, name: str) -> None:
        model, gates = with_gates(name)
        learn(model, gates, batch_for(name))

        small = edgekit.shrink(model, gates)

        predicted_us = edgekit.predict(small, profile_of(name)).latency_us
        assert gates.budget_us is not None and predicted_us <= gates.budget_us * (1 + 1e-9)
        assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())

    def test_it_is_packed_again_where_the_whole_costs_more_than_its_parts(self) -> None:
        """As behind a dropped block, which leaves an activation that no layer has: the knapsack does not see it, and
        its first choice, everything, is too dear."""
        model, gates, profile = self.residual_with_gates()
        dearer = [
            msgspec.structs.replace(timing, framed=exactly(timing.frame.median_us + 1.3 * timing.latency_us))
            for timing in profile.units
        ]
        with torch.no_grad():
            gates.learned.logits.fill_(3.0)
        gates.prices = PriceTable(msgspec.structs.replace(profile, units=tuple(dearer)))
        gates.steps_done = 1
        try:
            small = edgekit.shrink(model, gates, budget="100%")
            spent_us = gates.prices.network(small.spec).latency_us
        finally:
            gates.prices = PriceTable(profile)

        assert spent_us <= gates.dense_us * (1 + 1e-9)

    @settings(max_examples=25)
    @given(share=st.integers(1, 100), logits=st.lists(st.floats(-6, 3), min_size=8, max_size=8))
    def test_any_budget_is_met_or_refused(self, share: int, logits: list[float]) -> None:
        model, gates, profile = self.residual_with_gates()
        with torch.no_grad():
            gates.learned.logits.copy_(torch.tensor(logits))
        gates.steps_done = 1

        try:
            small = edgekit.shrink(model, gates, budget=f"{share}%")
        except errors.BudgetError as error:
            assert error.smallest_us > gates.dense_us * share / 100
        else:
            assert edgekit.predict(small, profile).latency_us <= gates.dense_us * share / 100 * (1 + 1e-9)

    _made: tuple[nn.Module, AttachedGates, Profile] | None = None

    @classmethod
    def residual_with_gates(cls) -> tuple[nn.Module, AttachedGates, Profile]:
        """Traced once: it takes longer than a hundred choices."""
        if cls._made is None:
            model, gates = with_gates("residual")
            cls._made = (model, gates, made_up_profile(model, IMAGE))
        return cls._made

    def test_it_leaves_the_model_as_it_is(self) -> None:
        model, gates = with_gates("residual")
        learn(model, gates, batch_for("residual"))
        before = copy.deepcopy(model.state_dict())

        small = edgekit.shrink(model, gates)
        for parameter in small.parameters():
            nn.init.zeros_(parameter)

        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    def test_another_budget_can_be_asked_for(self) -> None:
        model, gates = with_gates("residual")
        learn(model, gates, batch_for("residual"))

        wide = edgekit.shrink(model, gates, budget="100%")

        assert wide.spec.layers == gates.network.spec.layers

    def test_a_dropped_block_is_gone(self) -> None:
        model, gates = with_gates("residual", penalty_per_ms=1.0)
        learn(model, gates, batch_for("residual"))
        with torch.no_grad():
            gates.learned.logits[gates.learned.group_total] = -6.0

        small = edgekit.shrink(model, gates)

        assert gates.kept_channels()["1.branch.0"] == 0
        assert "1.branch.0" not in [layer.name for layer in small.spec.layers]

    def test_what_was_kept_is_not_known_before(self) -> None:
        _, gates = with_gates("plain")

        with pytest.raises(errors.UsageError, match="nothing is chosen yet"):
            gates.kept_channels()

    def test_gates_that_have_learned_nothing_are_warned_of(self) -> None:
        model, gates = with_gates("plain")

        with pytest.warns(UserWarning, match="never called"):
            edgekit.shrink(model, gates)

    def test_gates_of_another_model_are_refused(self) -> None:
        _, gates = with_gates("plain")

        with pytest.raises(errors.UsageError, match="another model"):
            edgekit.shrink(plain(), gates)

    def test_the_result_can_be_shrunk_again(self) -> None:
        model, gates = with_gates("residual")
        learn(model, gates, batch_for("residual"))
        small = edgekit.shrink(model, gates, budget="80%")

        again = edgekit.attach(small, made_up_profile(model, IMAGE), penalty_per_ms=1.0, group_size=GROUP_SIZE)
        learn(small, again, batch_for("residual"))
        smaller = edgekit.shrink(small, again, budget="70%")

        assert smaller.spec.mac_count < small.spec.mac_count


class TestWhatIsRefused:
    def test_an_operator_that_cannot_be_traced_is_named(self) -> None:
        model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3))

        with pytest.raises(errors.UnsupportedModelError, match=r"aten\.gelu in '1'"):
            edgekit.attach(model, profile_of("perceptron"), (6,), penalty_per_ms=1.0)

    def test_a_module_that_computes_something_else_when_it_is_traced(self) -> None:
        class TwoFaced(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(6, 3), nn.Linear(6, 3)

            def forward(self, x: Tensor) -> Tensor:
                result: Tensor = (self.first if torch.compiler.is_exporting() else self.second)(x)
                return result

        with pytest.raises(errors.UnsupportedModelError, match="differs from the module by"):
            edgekit.predict(TwoFaced(), profile_of("perceptron"), (6,))

    def test_a_model_in_which_nothing_can_be_dropped(self) -> None:
        model = nn.Linear(6, 3)

        with pytest.raises(errors.UnsupportedModelError, match="nothing of 'Linear' can be dropped"):
            edgekit.attach(model, made_up_profile(model, (6,)), (6,), penalty_per_ms=1.0)

    def test_a_second_set_of_gates(self) -> None:
        model, _ = with_gates("plain")

        with pytest.raises(errors.UsageError, match="has gates already"):
            edgekit.attach(model, profile_of("plain"), IMAGE, penalty_per_ms=1.0)

    def test_a_budget_that_nothing_meets_before_any_training(self) -> None:
        with pytest.raises(errors.BudgetError, match="cannot be met") as caught:
            with_gates("plain", budget="1%")

        assert caught.value.smallest_us > 0

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"budget": None}, "needs a budget or penalty_per_ms"),
            ({"penalty_per_ms": 1.0, "budget": "50%"}, "and not both"),
            ({"steps": None}, "needs steps"),
            ({"steps": 0}, "it is 0"),
            ({"budget": "fast"}, "'fast' is no budget"),
            ({"penalty_per_ms": -1.0}, "penalty_per_ms is -1.0"),
            ({"penalty_per_ms": float("inf")}, "penalty_per_ms is inf"),
            ({"estimator": "arm"}, "allowed are hard-concrete and straight-through"),
            ({"coefficients": (1.0, 0.0)}, "low must be below high"),
        ],
    )
    def test_settings_that_mean_nothing(self, options: dict[str, object], message: str) -> None:
        with pytest.raises(errors.UsageError, match=message):
            with_gates("plain", **options)

    def test_a_profile_of_another_model(self) -> None:
        model = plain()

        with pytest.raises(errors.BadInputError, match="has no time in the profile") as caught:
            edgekit.attach(model, profile_of("perceptron"), IMAGE, penalty_per_ms=1.0)

        assert "profile_model" in str(caught.value.hint)

    def test_a_module_without_an_input_shape(self) -> None:
        with pytest.raises(errors.UsageError, match="input shape of Sequential is not known"):
            edgekit.predict(plain(), profile_of("plain"))


class TestTimes:
    def test_a_prediction_is_that_of_the_profile(self) -> None:
        model = plain()
        profile = made_up_profile(model, IMAGE)

        predicted = edgekit.predict(model, profile, IMAGE)

        assert predicted == PriceTable(profile).network(trace(model, IMAGE).spec)

    def test_a_prediction_does_not_depend_on_gates(self) -> None:
        model, gates = with_gates("plain")

        assert edgekit.predict(model, profile_of("plain")).latency_us == pytest.approx(gates.dense_us)

    def test_a_model_is_timed_whole(self) -> None:
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")

        timing = edgekit.measure(plain(), IMAGE, min_seconds=0.01)

        assert 0 < timing.min_us <= timing.median_us <= timing.p90_us

    def test_a_target_that_cannot_be_reached_cannot_be_timed(self, tmp_path: Path) -> None:
        pytest.importorskip("asyncssh", reason="SSH needs the package asyncssh")
        target = tmp_path / "pi.toml"
        target.write_text(
            'name = "pi"\ndescription = "a board"\ntransport = "ssh"\naddress = "127.0.0.1:1"\n'
            "[runtimes.onnx]\nthreads = 1\n"
        )

        with pytest.raises(errors.DeviceError, match="cannot be reached"):
            edgekit.measure(plain(), IMAGE, target=str(target))

    def test_a_profile_is_measured_once(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")
        path = tmp_path / "profile.json"
        first = edgekit.profile_model(perceptron(), (6,), path=path, method=QUICK, group_size=GROUP_SIZE)

        second = edgekit.profile_model(perceptron(), (6,), path=str(path), method=QUICK, group_size=GROUP_SIZE)

        assert second == first == edgekit.read_profile(path)


class TestExport:
    def test_the_suffix_names_the_runtime(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")
        model, gates = with_gates("plain")
        learn(model, gates, batch_for("plain"))
        small = edgekit.shrink(model, gates)
        path = tmp_path / "small.onnx"

        edgekit.export_model(
            small,
            path,
            test_images=torch.randn(8, *IMAGE),
            test_labels=torch.zeros(8).long(),
            class_names=("cat", "dog", "owl"),
            profile=made_up_profile(model, IMAGE),
            timing=exactly(7.0),
        )

        info = open_model(path).info
        assert (info.runtime, info.labels, info.measured_us) == ("onnx", ("cat", "dog", "owl"), 7.0)
        assert info.predicted_us == edgekit.predict(small, made_up_profile(model, IMAGE)).latency_us

    def test_int8_for_tflite(self, tmp_path: Path) -> None:
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed: pip install 'edgekit[tflite]'")
        images = torch.randn(64, *IMAGE)

        exported = edgekit.export_model(
            plain(),
            tmp_path / "small.tflite",
            test_images=images,
            test_labels=torch.zeros(64).long(),
            calibration_images=images,
            number_format="int8",
        )

        assert (exported.runtime, exported.number_format) == ("tflite", "int8")
        assert Path(exported.path).stat().st_size == exported.size_bytes

    def test_the_users_module_keeps_its_mode(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")
        model = depthwise().eval()

        edgekit.export_model(
            model, tmp_path / "m.onnx", test_images=torch.randn(8, *IMAGE), test_labels=torch.zeros(8).long()
        )

        assert not any(part.training for part in model.modules())

    def test_int8_needs_images_to_calibrate_on(self, tmp_path: Path) -> None:
        with pytest.raises(errors.UsageError, match="needs calibration_images"):
            edgekit.export_model(
                plain(),
                tmp_path / "m.onnx",
                test_images=torch.randn(1, *IMAGE),
                test_labels=torch.zeros(1).long(),
                number_format="int8",
            )

    def test_a_suffix_of_no_runtime(self, tmp_path: Path) -> None:
        with pytest.raises(errors.UsageError, match=r"allowed are \.onnx and \.tflite"):
            edgekit.export_model(
                plain(), tmp_path / "m.pt", test_images=torch.randn(1, *IMAGE), test_labels=torch.zeros(1).long()
            )


class TestThePackage:
    def test_importing_it_loads_nothing_heavy(self) -> None:
        code = "import edgekit, sys; print(*{'torch', 'numpy', 'onnx', 'onnxruntime', 'msgspec'} & set(sys.modules))"

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == ""

    def test_its_names_are_sorted_and_there(self) -> None:
        assert edgekit.__all__ == sorted(edgekit.__all__)
        assert all(hasattr(edgekit, name) for name in edgekit.__all__)

    def test_no_name_is_that_of_a_part(self) -> None:
        folder = Path(edgekit.__file__).parent

        assert not [name for name in edgekit.__all__ if (folder / name).is_dir() or (folder / f"{name}.py").is_file()]

    def test_other_names_are_not_there(self) -> None:
        with pytest.raises(AttributeError, match="no attribute 'shrimp'"):
            edgekit.shrimp  # type: ignore[attr-defined]  # noqa: B018

    def test_without_torch_the_error_says_what_to_install(self) -> None:
        code = (
            "import sys; sys.modules['torch'] = None\n"
            "import edgekit\n"
            "try: edgekit.attach\n"
            "except edgekit.errors.MissingExtraError as error: print(error.hint)"
        )

        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

        assert done.stdout.strip() == "pip install 'edgekit[train]'"


def steady_profile_model(*arguments: Any, **options: Any) -> Profile:
    """A measured profile with made-up times: what is chosen must not depend on how busy this machine is."""
    measured = api.profile_model(*arguments, **options, method=QUICK)
    times = tuple(made_up_time(timing.unit) for timing in measured.units)
    return msgspec.structs.replace(measured, units=times, corrections=(), overhead_us=0.5)


class TestTheDocumentation:
    def test_its_example_runs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        pytest.importorskip("onnx", reason="writing ONNX models needs the package onnx")
        (code,) = re.findall(r"```python\n(.*?)```", DOCUMENTATION.read_text(), re.DOTALL)
        quick = code.replace("STEPS, SHAPE = 200, (1, 16, 16)", "STEPS, SHAPE = 10, (1, 16, 16)")
        assert quick != code
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(edgekit, "profile_model", steady_profile_model, raising=False)
        monkeypatch.setattr(edgekit, "measure", partial(edgekit.measure, min_seconds=0.01), raising=False)
        names: dict[str, object] = {"__name__": "example"}

        exec(compile(quick, "python.md", "exec"), names)

        small, gates, profile = names["small"], names["gates"], names["profile"]
        assert isinstance(small, Network) and isinstance(gates, AttachedGates) and isinstance(profile, Profile)
        assert edgekit.predict(small, profile).latency_us <= 0.5 * gates.dense_us
        assert open_model(tmp_path / "small.onnx").info.network == "Sequential"

    @pytest.mark.parametrize("name", [name for name in edgekit.__all__ if name[0].islower()])
    def test_each_function_is_in_it(self, name: str) -> None:
        assert f"`{name}(" in DOCUMENTATION.read_text()
