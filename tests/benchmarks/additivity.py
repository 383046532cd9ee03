"""Does the sum of a network's units tell the time of the whole? Random networks of three families on this machine.

Units and whole networks are timed in the same run, by the product's own functions. The correction of a network is
fitted on all others of its family. Bounds: median error 3 %, 95th percentile 8 %, rank correlation 0.98.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
from table import Row, main

from edgekit.nn.families import multilayer_perceptron, residual_network, separable_network
from edgekit.profile import LocalStopwatch, PriceTable, measure_profile
from edgekit.profile.correction import fit_correction
from edgekit.profile.frame import framed
from edgekit.profile.measure import CHUNK_MODELS
from edgekit.profile.merge import yardstick_us
from edgekit.profile.profiler import write_model
from edgekit.profile.yardstick import YARDSTICK, scale_chunk
from edgekit.runtimes import get
from edgekit.targets import find
from edgekit.types import Method, NetworkSpec, NumberFormat, RuntimeName

SEED: Final = 0
COUNT, QUICK_COUNT = 40, 24
METHOD: Final = Method(correction_networks=0)
QUICK_METHOD: Final = Method(rounds=5, runs_per_round=8, warmup_runs=2, correction_networks=0)
RUNTIMES: Final[tuple[RuntimeName, ...]] = ("onnx", "tflite")
FORMATS: Final[tuple[NumberFormat, ...]] = ("fp32", "int8")
COLUMNS: Final = (
    "network",
    "runtime",
    "format",
    "predicted_us",
    "measured_us",
    "error",
    "median_error",
    "p95_error",
    "rank_correlation",
)


def rows(quick: bool) -> Sequence[Row]:
    """Predicted and measured times of 40 random networks of 0.2 to 20 ms in both runtimes and formats; the last rows
    sum up each of these. --quick takes fewer and smaller ones, and fewer rounds."""
    networks = random_networks(QUICK_COUNT if quick else COUNT, quick)
    method = QUICK_METHOD if quick else METHOD
    found = [
        list(_rows([network.in_format(number_format) for network in networks], runtime, number_format, method))
        for runtime in RUNTIMES
        for number_format in FORMATS
    ]
    return [*(row for group in found for row in group), *(_summary(group) for group in found)]


def random_networks(count: int, small: bool) -> list[NetworkSpec]:
    """``count`` different networks, of each family a third. Their widths are few, so that many share their units."""
    chooser = random.Random(SEED)
    families = (_residual, _separable, _perceptron)
    networks: dict[str, NetworkSpec] = {}
    while len(networks) < count:
        drawn = families[len(networks) % len(families)](chooser)
        fewest, most = _macs(drawn, small)
        if fewest <= drawn.mac_count <= most:
            networks.setdefault(drawn.name, drawn)
    return list(networks.values())


def _macs(network: NetworkSpec, small: bool) -> tuple[float, float]:
    """Operations of 0.2 to 20 ms on one core of a server; those of dense layers wait for their weights."""
    fewest, most = (3e6, 4e7) if network.name.startswith("perceptron") else (2e7, 1.5e9)
    return fewest, 3 * fewest if small else most


def _residual(chooser: random.Random) -> NetworkSpec:
    depth, side = chooser.choice((8, 14, 20)), chooser.choice((32, 64, 128, 224))
    widths = sorted(chooser.choices((16, 32, 64, 128), k=3))
    name = f"residual{depth}-{'-'.join(map(str, widths))}-at-{side}"
    return residual_network(depth, widths, (3, side, side), 10, name)


def _separable(chooser: random.Random) -> NetworkSpec:
    side = chooser.choice((96, 160, 224, 320))
    widths = sorted(chooser.choices((32, 64, 128, 256), k=chooser.choice((4, 6, 8))))
    name = f"separable-{'-'.join(map(str, widths))}-at-{side}"
    return separable_network(widths, (3, side, side), 10, name)


def _perceptron(chooser: random.Random) -> NetworkSpec:
    hidden = chooser.choices((1024, 1536, 2048, 3072), k=chooser.choice((2, 3, 4)))
    return multilayer_perceptron(hidden, (1, 28, 28), 10, f"perceptron-{'-'.join(map(str, hidden))}")


def _rows(
    networks: Sequence[NetworkSpec], runtime: RuntimeName, number_format: NumberFormat, method: Method
) -> Iterator[Row]:
    pairs = _time(networks, LocalStopwatch(get(runtime)), method)
    family = [network.name.split("-")[0].rstrip("0123456789") for network in networks]
    for index, (network, (sum_us, measured_us)) in enumerate(zip(networks, pairs, strict=True)):
        others = [pair for place, pair in enumerate(pairs) if place != index and family[place] == family[index]]
        correction = fit_correction(others)
        predicted_us = correction.overhead_us + correction.scale * sum_us
        yield {
            "network": network.name,
            "runtime": runtime,
            "format": number_format,
            "sum_us": sum_us,
            "predicted_us": predicted_us,
            "measured_us": measured_us,
            "error": predicted_us / measured_us - 1.0,
        }


def _time(networks: Sequence[NetworkSpec], stopwatch: LocalStopwatch, method: Method) -> list[tuple[float, float]]:
    """Sum of the units and measured time of each network, in microseconds, both relative to the same yardstick."""
    profile = measure_profile(
        target=find("cpu"),
        stopwatch=stopwatch,
        units=list(dict.fromkeys(layer.unit for network in networks for layer in network.layers)),
        whole_networks=(),
        existing=None,
        method=method,
    )
    prices = PriceTable(profile)
    yardstick = write_model(stopwatch.runtime, framed(YARDSTICK))
    pairs: list[tuple[float, float]] = []
    for start in range(0, len(networks), CHUNK_MODELS):
        chunk = networks[start : start + CHUNK_MODELS]
        models = [write_model(stopwatch.runtime, network) for network in chunk]
        found = scale_chunk(stopwatch.measure([*models, yardstick], method).timings, yardstick_us(profile))
        pairs += [(prices.sum_us(n), timing.median_us) for n, timing in zip(chunk, found.timings, strict=True)]
    return pairs


def _summary(group: Sequence[Row]) -> Row:
    errors = np.abs([float(row["error"] or 0.0) for row in group])
    predicted, measured = ([float(row[name] or 0.0) for row in group] for name in ("predicted_us", "measured_us"))
    return {
        "network": f"all {len(group)}",
        "runtime": group[0]["runtime"],
        "format": group[0]["format"],
        "median_error": float(np.median(errors)),
        "p95_error": float(np.percentile(errors, 95)),
        "rank_correlation": _rank_correlation(predicted, measured),
    }


def _rank_correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rho: the correlation of the ranks."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


if __name__ == "__main__":
    main(rows, COLUMNS)
