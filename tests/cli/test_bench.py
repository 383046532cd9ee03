"""``edgekit bench``: real models are timed beside each other, and stand beside their own predictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Invoke
from tests.cli.models import write_brightness_model

QUICK = ("--min-seconds", "0.02")


@pytest.fixture
def model(invoke: Invoke) -> str:
    """A real model in the current folder."""
    return write_brightness_model(Path("brightness.onnx"))


def test_measured_and_predicted_times_are_different_fields(model: str, invoke: Invoke) -> None:
    row = invoke("bench", model, *QUICK, "--json").envelope["data"]["bench"]["rows"][0]

    assert (row["predicted_us"], row["measured"]["median_us"] > 0) == (7.5, True)


def test_the_first_model_is_the_baseline(model: str, invoke: Invoke) -> None:
    other = write_brightness_model(Path("other.onnx"))

    found = invoke("bench", model, other, *QUICK, "--json").envelope["data"]["bench"]

    assert (found["baseline"], found["rows"][0]["ratio"]) == (model, 1.0)


def test_people_get_one_line_per_model(model: str, invoke: Invoke) -> None:
    lines = invoke("bench", model, *QUICK).stdout.splitlines()

    assert [line.split()[0] for line in lines] == ["model", "brightness.onnx"]


def test_a_file_that_is_no_model_is_bad_input(invoke: Invoke) -> None:
    Path("broken.onnx").write_bytes(b"no model")

    assert invoke("bench", "broken.onnx", "--json").exit_code == 3


def test_a_file_that_is_not_there_is_a_usage_error(invoke: Invoke) -> None:
    assert invoke("bench", "missing.onnx", "--json").exit_code == 2


def test_a_target_that_is_elsewhere_is_a_device_error(model: str, invoke: Invoke) -> None:
    text = 'name = "pi"\ndescription = "x"\ntransport = "ssh"\naddress = "pi.invalid"\n[runtimes.onnx]\n'
    Path("pi.toml").write_text(text)

    assert invoke("bench", model, "--target", "./pi.toml", "--json").exit_code == 4
