"""From a device that nobody trusts yet to labels that it computed, by the command line over real SSH to this machine's
own OpenSSH server. The same over programs of another architecture is in ``test_pi``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.desk import Desk, Journey
from tests.devices.sshd import MISSING, PROGRAM, running_sshd

pytestmark = pytest.mark.skipif(PROGRAM is None, reason=MISSING)

RUNTIMES = ("onnx", "tflite")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_sshd(tmp_path / "server") as server:
        yield Desk.furnished(tmp_path, "board", f"127.0.0.1:{server.port}", server.client_key, RUNTIMES)


def test_nothing_is_sent_to_a_device_that_is_not_trusted(desk: Desk) -> None:
    refused = desk.edgekit("target", "check", "board")

    assert (refused.exit_code, refused.error["code"]) == (5, "trust")
    assert "edgekit target trust board" in refused.error["hint"]


def test_setting_up_twice_changes_nothing(desk: Desk) -> None:
    assert desk.edgekit("target", "trust", "board").exit_code == 0
    first = desk.edgekit("target", "setup", "board").data

    second = desk.edgekit("target", "setup", "board").data

    assert second == first


def test_a_device_without_the_runtime_says_which_command_installs_it(desk: Desk) -> None:
    assert desk.edgekit("target", "trust", "board").exit_code == 0

    answer = desk.edgekit("target", "check", "board")

    assert answer.exit_code == 4
    assert {row["runtime"] for row in answer.envelope["data"]["check"]["runtimes"] if row["problem"]} == set(RUNTIMES)
    assert "edgekit target setup board" in answer.error["hint"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_device_labels_images_with_a_network_that_was_fitted_to_it(desk: Desk, runtime: str) -> None:
    journey = Journey(desk, runtime)
    journey.arrive()

    network = journey.train()
    rows = journey.bench(network)
    labels_there, labels_here = journey.labels(network)

    assert network["target"] == "board" and network["measured_us"] <= 1.2 * network["budget_us"]
    assert [row["runtime"] for row in rows] == [runtime, runtime] and rows[1]["ratio"] < 1
    assert labels_there == labels_here == journey.true_labels
