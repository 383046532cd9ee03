"""What every runtime must do; an implementation passes by inheriting `RuntimeConformance` and saying how it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekit.errors import BadInputError, UnsupportedModelError, UsageError
from edgekit.runtimes import FloatArray, FoldedNetwork, LayerWeights, Runtime
from tests.runtimes.networks import (
    NetworkBuilder,
    calibrate,
    float_output,
    output_step,
    quantized_output,
    random_builder,
)

SEEDS = st.integers(0, 2**32 - 1)
RANDOM_NETWORKS = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)

SINGLE_UNITS: dict[str, Callable[[NetworkBuilder], str]] = {
    "convolution": lambda b: b.add("conv", channels=7, kernel=(3, 3), padding=(1, 1, 1, 1), activation="relu"),
    "strided convolution": lambda b: b.add("conv", channels=7, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
    "convolution with a stride above its kernel": lambda b: b.add(
        "conv", channels=2, kernel=(1, 5), stride=(3, 1), padding=(0, 2, 1, 2)
    ),
    "dilated convolution": lambda b: b.add("conv", channels=5, kernel=(3, 2), dilation=(2, 3), padding=(2, 0, 1, 3)),
    "grouped convolution": lambda b: b.add("conv", channels=6, groups=2, kernel=(3, 3), activation="relu6"),
    "depthwise convolution": lambda b: b.add("conv", groups=4, kernel=(5, 3), padding=(2, 1, 2, 1)),
    "depthwise convolution with multiplier": lambda b: b.add("conv", channels=12, groups=4, kernel=(3, 3)),
    "dilated depthwise convolution": lambda b: b.add("conv", groups=4, kernel=(2, 2), dilation=(2, 2)),
    "scale": lambda b: b.add("scale", activation="relu"),
    # Behind a pool, because ONNX Runtime merges an activation with the quantization of the input: more exact than both.
    "activation": lambda b: b.add("activation", b.add("max_pool", kernel=(2, 2)), activation="relu"),
    "activation of a convolution": lambda b: b.add("activation", b.add("conv", channels=5), activation="relu6"),
    "sum with itself": lambda b: b.add("add", "input", "input", activation="relu"),
    "max pool": lambda b: b.add("max_pool", kernel=(2, 2), stride=(2, 2)),
    "padded max pool": lambda b: b.add("max_pool", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
    "average pool": lambda b: b.add("average_pool", kernel=(2, 3), stride=(2, 1)),
    "padded average pool": lambda b: b.add("average_pool", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1)),
    "global average pool": lambda b: b.add("global_average_pool"),
    "flatten": lambda b: b.add("flatten"),
    "dense behind flatten": lambda b: b.add("dense", b.add("flatten"), channels=9, activation="relu"),
    "identity": lambda b: b.add("activation"),
}


class RuntimeConformance:
    """The suite; `make_runtime` is all that an implementation adds."""

    def make_runtime(self) -> Runtime:
        raise NotImplementedError

    def run(self, network: FoldedNetwork, samples: FloatArray) -> FloatArray:
        runtime = self.make_runtime()
        return runtime.load(runtime.write(network)).run(samples)

    def run_quantized(self, network: FoldedNetwork, samples: FloatArray, ranges: Any) -> FloatArray:
        runtime = self.make_runtime()
        return runtime.load(runtime.write(network, "int8", ranges)).run(samples)

    @given(seed=SEEDS)
    @RANDOM_NETWORKS
    def test_a_random_network_computes_what_torch_computes(self, seed: int) -> None:
        builder = random_builder(seed)
        network, samples = builder.build(), builder.samples(4)

        result = self.run(network, samples)

        expected = float_output(network, samples)
        assert np.abs(result - expected).max() <= 1e-4 * np.abs(expected).max()

    @given(seed=SEEDS)
    @RANDOM_NETWORKS
    def test_a_random_int8_network_computes_what_quantization_leaves(self, seed: int) -> None:
        builder = random_builder(seed)
        network, samples = builder.build(), builder.samples(16)
        ranges = calibrate(network, samples)

        result = self.run_quantized(network, samples, ranges)

        expected = quantized_output(network, samples, ranges)
        lost_by_quantization = root_mean_square(expected - float_output(network, samples))
        # Ties round differently, and later layers enlarge one step of earlier ones.
        assert root_mean_square(result - expected) <= 2 * max(output_step(network, ranges), lost_by_quantization)

    @pytest.mark.parametrize("unit", SINGLE_UNITS)
    def test_a_unit_computes_what_torch_computes(self, unit: str) -> None:
        builder = NetworkBuilder((4, 9, 8), seed=1)
        SINGLE_UNITS[unit](builder)
        network, samples = builder.build(), builder.samples(3)

        result = self.run(network, samples)

        np.testing.assert_allclose(result, float_output(network, samples), rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("unit", SINGLE_UNITS)
    def test_an_int8_unit_is_within_one_step_of_the_fake_quantized_one(self, unit: str) -> None:
        builder = NetworkBuilder((4, 9, 8), seed=1)
        SINGLE_UNITS[unit](builder)
        network, samples = builder.build(), builder.samples(8)
        ranges = calibrate(network, samples)

        result = self.run_quantized(network, samples, ranges)

        difference = np.abs(result - quantized_output(network, samples, ranges))
        assert difference.max() <= 1.01 * output_step(network, ranges)

    def test_int8_and_fake_quantization_choose_the_same_class(self, record_property: Callable[..., None]) -> None:
        builder = residual_network()
        network, samples = builder.build(), builder.samples(200)
        ranges = calibrate(network, samples)

        result = self.run_quantized(network, samples, ranges)

        agreement = float((result.argmax(1) == quantized_output(network, samples, ranges).argmax(1)).mean())
        record_property("top1_agreement", agreement)
        assert agreement >= 0.95

    @pytest.mark.parametrize("number_format", ["fp32", "int8"])
    def test_metadata_comes_back(self, number_format: Any) -> None:
        runtime, builder = self.make_runtime(), residual_network()
        network = builder.build()
        ranges = calibrate(network, builder.samples(4))
        metadata = {"edgekit": '{"labels": ["Äpfel", "木"]}', "empty": ""}

        model = runtime.write(network, number_format, ranges, metadata)

        assert runtime.metadata(model) == metadata

    def test_a_model_without_metadata_has_none(self) -> None:
        runtime = self.make_runtime()

        assert runtime.metadata(runtime.write(residual_network().build())) == {}

    def test_the_input_is_channels_first(self) -> None:
        """Three channels of different size, picked out by a dense layer that reads a flattened map."""
        builder = NetworkBuilder((3, 2, 4))
        builder.add("dense", builder.add("flatten"), channels=24)
        network = builder.build()
        weights = {builder.last: LayerWeights(np.eye(24, dtype=np.float32), np.zeros(24, dtype=np.float32))}
        samples = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)

        result = self.run(FoldedNetwork(network.spec, weights), samples)

        np.testing.assert_array_equal(result, samples.reshape(1, 24))

    def test_a_map_as_output_is_channels_first(self) -> None:
        builder = NetworkBuilder((3, 2, 4))
        builder.add("activation", activation="relu")
        samples = np.arange(24, dtype=np.float32).reshape(1, 3, 2, 4)

        np.testing.assert_array_equal(self.run(builder.build(), samples), samples)

    def test_a_flattened_map_that_is_not_only_read_by_dense_layers_is_channels_first(self) -> None:
        builder = NetworkBuilder((3, 4, 5))
        flat = builder.add("flatten")
        builder.add("dense", builder.add("add", flat, builder.add("scale", flat)), channels=4)
        samples = builder.samples(2)

        expected = float_output(builder.build(), samples)

        np.testing.assert_allclose(self.run(builder.build(), samples), expected, rtol=1e-4, atol=1e-5)

    def test_a_network_may_read_features(self) -> None:
        builder = NetworkBuilder((12,))
        builder.add("dense", channels=8, activation="relu")
        builder.add("dense", channels=3)
        samples = builder.samples(5)

        expected = float_output(builder.build(), samples)

        np.testing.assert_allclose(self.run(builder.build(), samples), expected, rtol=1e-4, atol=1e-5)

    def test_samples_are_independent_of_their_number(self) -> None:
        runtime, builder = self.make_runtime(), residual_network()
        session = runtime.load(runtime.write(builder.build()))
        samples = builder.samples(7)

        together = session.run(samples)

        np.testing.assert_array_equal(together, np.concatenate([session.run(samples[i : i + 1]) for i in range(7)]))

    def test_two_threads_compute_what_one_computes(self) -> None:
        runtime, builder = self.make_runtime(), residual_network()
        model, samples = runtime.write(builder.build()), builder.samples(3)

        result = runtime.load(model, threads=2).run(samples)

        np.testing.assert_allclose(result, runtime.load(model).run(samples), rtol=1e-4, atol=1e-5)

    def test_a_prepared_input_can_be_run_again_and_again(self) -> None:
        runtime, builder = self.make_runtime(), residual_network()
        session = runtime.load(runtime.write(builder.build()))
        samples = builder.samples(2)
        expected = session.run(samples)

        session.prepare(samples[:1])
        for _ in range(3):
            session.invoke()

        np.testing.assert_array_equal(session.run(samples), expected)

    def test_the_input_shape_is_that_of_one_run(self) -> None:
        runtime, builder = self.make_runtime(), NetworkBuilder((3, 6, 8))
        builder.add("global_average_pool")

        assert runtime.load(runtime.write(builder.build())).input_shape == (1, 3, 6, 8)

    @pytest.mark.parametrize("shape", [(2, 8, 6, 3), (3, 6, 8), (0, 3, 6, 8)])
    def test_samples_of_another_shape_are_refused(self, shape: tuple[int, ...]) -> None:
        runtime, builder = self.make_runtime(), NetworkBuilder((3, 6, 8))
        builder.add("global_average_pool")
        session = runtime.load(runtime.write(builder.build()))

        with pytest.raises(UsageError, match="samples"):
            session.run(np.zeros(shape, dtype=np.float32))

    @pytest.mark.parametrize("model", [b"", b"12345678", bytes(100), b"\x18\0\0\0TFL3" + b"\xff" * 60])
    def test_what_is_no_model_is_refused(self, model: bytes) -> None:
        runtime = self.make_runtime()

        with pytest.raises(BadInputError):
            runtime.load(model)
        with pytest.raises(BadInputError):
            runtime.metadata(model)

    @pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
    def test_a_model_that_was_cut_off_is_refused(self, share: float) -> None:
        runtime = self.make_runtime()
        model = runtime.write(residual_network().build())

        with pytest.raises(BadInputError):
            runtime.load(model[: int(share * len(model))])

    def test_a_layer_without_a_range_is_named(self) -> None:
        runtime, builder = self.make_runtime(), residual_network()
        ranges = calibrate(builder.build(), builder.samples(2))
        del ranges["layer0"]

        with pytest.raises(UsageError, match="layer0"):
            runtime.write(builder.build(), "int8", ranges)

    def test_int8_without_ranges_is_refused(self) -> None:
        with pytest.raises(UsageError, match="int8"):
            self.make_runtime().write(residual_network().build(), "int8")

    def test_a_layer_with_4_bit_weights_is_named(self) -> None:
        network = residual_network().build()
        first = network.spec.layers[0]
        first = msgspec.structs.replace(first, unit=msgspec.structs.replace(first.unit, weight_bits=4))
        spec = msgspec.structs.replace(network.spec, layers=(first, *network.spec.layers[1:]))

        with pytest.raises(UnsupportedModelError, match="'layer0' needs 4-bit"):
            self.make_runtime().write(FoldedNetwork(spec, network.weights))

    def test_weights_of_another_shape_are_refused(self) -> None:
        network = residual_network().build()
        weights = {**network.weights, "layer0": LayerWeights(np.ones((1, 1), np.float32), np.ones(1, np.float32))}

        with pytest.raises(UnsupportedModelError, match="layer0"):
            self.make_runtime().write(FoldedNetwork(network.spec, weights))

    def test_pruned_channels_keep_their_bias_in_int8(self) -> None:
        """A weight of 0 or nearly so would ask for a scale in which the bias does not fit in 32 bits."""
        builder = NetworkBuilder((3, 6, 6))
        name = builder.add("conv", channels=3, kernel=(3, 3))
        weight = builder.weights[name].weight * np.float32([1, 0, 1e-12]).reshape(3, 1, 1, 1)
        builder.weights[name] = LayerWeights(weight, np.float32([0.5, -1.5, 1.5]))
        network, samples = builder.build(), builder.samples(2)
        ranges = calibrate(network, samples)

        result = self.run_quantized(network, samples, ranges)

        step = output_step(network, ranges)
        np.testing.assert_allclose(result[:, 1:], float_output(network, samples)[:, 1:], atol=step)

    def test_a_layer_that_is_always_zero_can_be_written_in_int8(self) -> None:
        builder = NetworkBuilder((3, 6, 6))
        name = builder.add("conv", channels=3, activation="relu")
        builder.weights[name] = LayerWeights(builder.weights[name].weight * 0, np.float32([-1, -1, -1]))
        network, samples = builder.build(), builder.samples(2)

        result = self.run_quantized(network, samples, calibrate(network, samples))

        np.testing.assert_array_equal(result, 0)


def residual_network() -> NetworkBuilder:
    """A small network as people use them: convolution, residual block with a depthwise layer, pools, dense."""
    builder = NetworkBuilder((3, 16, 16), seed=3)
    builder.add("conv", channels=16, kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), activation="relu")
    trunk = builder.add("max_pool", kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1))
    builder.add("conv", groups=16, kernel=(3, 3), padding=(1, 1, 1, 1), activation="relu6")
    branch = builder.add("conv", channels=16)
    builder.add("add", branch, trunk, activation="relu")
    builder.add("global_average_pool")
    builder.add("dense", channels=10)
    return builder


def root_mean_square(values: FloatArray) -> float:
    """Of all elements."""
    return float(np.sqrt(np.mean(np.square(values))))
