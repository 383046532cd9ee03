"""A stand-in for a Raspberry Pi 4: what edgekit sees of it over SSH, and the whole way to labels that it computed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.desk import Desk, Journey
from tests.devices.pi import NoPiError, Pi, running_pi


@pytest.fixture
def pi(tmp_path: Path) -> Iterator[Pi]:
    try:
        with running_pi(tmp_path / "pi") as running:
            yield running
    except NoPiError as error:
        pytest.skip(str(error))


@pytest.fixture
def desk(pi: Pi, tmp_path: Path) -> Desk:
    return Desk.furnished(tmp_path, "board", pi.address, pi.client_key, ["onnx"])


def test_the_board_is_told_before_anything_is_installed(desk: Desk) -> None:
    assert desk.edgekit("target", "trust", "board").exit_code == 0

    check = desk.edgekit("target", "check", "board").envelope["data"]["check"]

    assert (check["machine"]["architecture"], check["user_bits"]) == ("aarch64", 64)
    assert check["model"] == "Raspberry Pi 4 Model B Rev 1.4"


def test_nothing_is_left_of_a_board_that_was_switched_off(tmp_path: Path) -> None:
    mounts, rules = Path("/proc/self/mounts").read_text(), _rules()
    try:
        with running_pi(tmp_path / "pi") as pi:
            assert pi.path("/usr/bin/vcgencmd").is_file()
    except NoPiError as error:
        pytest.skip(str(error))

    assert (Path("/proc/self/mounts").read_text(), _rules()) == (mounts, rules)


def test_the_board_labels_images_with_a_network_that_was_fitted_to_it(desk: Desk) -> None:
    journey = Journey(desk, "onnx")
    journey.arrive()

    profile = journey.profile()
    # Coming closer to the budget takes minutes of emulation, and its times mean nothing.
    network = journey.train("--set", "max-corrections=0")
    rows = journey.bench(network)
    labels_there, labels_here = journey.labels(network)

    assert profile["machine"]["cpu"].startswith("Raspberry Pi 4") and profile["machine"]["temperature_celsius"] == 48.2
    assert network["target"] == "board" and network["baseline_measured_us"] > 0
    assert rows[1]["measured"]["median_us"] < rows[0]["measured"]["median_us"]
    assert labels_there == labels_here == journey.true_labels


def _rules() -> list[str]:
    """Names of the rules by which programs of other architectures run, where this machine shows them."""
    return sorted(path.name for path in Path("/proc/sys/fs/binfmt_misc").glob("edgekit-*"))
