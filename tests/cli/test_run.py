"""``edgekit run``: a small real model classifies real files; what cannot be read is named and told by the exit code."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

import edgekit
from edgekit.data._base import ImageArray
from edgekit.data.preprocess import decode_image
from edgekit.run import inputs
from tests.cli.conftest import Invoke
from tests.cli.models import write_brightness_model


@pytest.fixture
def model(invoke: Invoke) -> str:
    """A real model in the current folder."""
    return write_brightness_model(Path("brightness.onnx"))


def write_image(name: str, brightness: int) -> str:
    Image.new("L", (2, 2), brightness).save(name)
    return name


def test_each_image_becomes_a_row_in_the_order_given(model: str, invoke: Invoke) -> None:
    names = [write_image("a.png", 250), write_image("b.png", 5)]

    rows = list(csv.DictReader(io.StringIO(invoke("run", model, *names).stdout)))

    assert [(row["path"], row["label"]) for row in rows] == [("a.png", "light"), ("b.png", "dark")]


def test_json_lines_give_as_many_classes_as_were_asked_for(model: str, invoke: Invoke) -> None:
    line = invoke("run", model, write_image("a.png", 250), "--format", "jsonl", "--top", "2").stdout

    assert [score["label"] for score in json.loads(line)["top"]] == ["light", "dark"]


def test_the_envelope_holds_results_and_summary(model: str, invoke: Invoke) -> None:
    data = invoke("run", model, write_image("a.png", 250), "--json").envelope["data"]

    assert (data["results"][0]["label"], data["summary"]["classified_count"]) == ("light", 1)


def test_a_file_that_is_no_image_is_named_and_the_others_are_classified(model: str, invoke: Invoke) -> None:
    Path("broken.png").write_bytes(b"\x89PNG broken")

    outcome = invoke("run", model, "broken.png", write_image("a.png", 250))

    rows = list(csv.DictReader(io.StringIO(outcome.stdout)))
    assert [bool(row["error"]) for row in rows] == [True, False]
    assert outcome.exit_code == 3


def test_failed_inputs_are_an_error_in_the_envelope(model: str, invoke: Invoke) -> None:
    outcome = invoke("run", model, "missing.png", "--json")

    assert (outcome.exit_code, outcome.envelope["errors"][0]["code"]) == (3, "bad_data")


def test_output_goes_to_the_file_and_not_to_standard_output(model: str, invoke: Invoke) -> None:
    outcome = invoke("run", model, write_image("a.png", 250), "--output", "labels.csv")

    assert (outcome.stdout, Path("labels.csv").read_text().splitlines()[1][:12]) == ("", "a.png,light,")


def test_a_file_that_is_no_model_is_bad_input(invoke: Invoke) -> None:
    Path("model.onnx").write_bytes(b"no model")

    assert invoke("run", "model.onnx", "a.png", "--json").exit_code == 3


def test_ctrl_c_while_it_waits_for_names_ends_with_130_and_one_json_object(model: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekit.cli.main", "run", model, "-", "--json"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(edgekit.__file__).parents[1])},
        # Tests that are started in the background inherit an ignored SIGINT, and so would the process.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdin and process.stderr
    process.stdin.write("missing.png\n")
    process.stdin.flush()
    assert process.stderr.readline().startswith("run")

    process.send_signal(signal.SIGINT)

    stdout, _ = process.communicate(timeout=60)
    assert (process.returncode, json.loads(stdout)["errors"][0]["code"]) == (130, "interrupted")


def test_ctrl_c_leaves_the_old_output_and_what_was_written_beside_it(
    model: str, invoke: Invoke, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(path: Path, size: tuple[int, int]) -> ImageArray:
        if path.name == "last.png":
            raise KeyboardInterrupt
        return decode_image(path, size)

    monkeypatch.setattr(inputs, "decode_image", decode)
    Path("labels.csv").write_text("the old one")
    names = [write_image("a.png", 250), write_image("b.png", 5), "last.png"]

    outcome = invoke("run", model, *names, "--output", "labels.csv")

    assert (outcome.exit_code, Path("labels.csv").read_text()) == (130, "the old one")
    rows = list(csv.DictReader(io.StringIO(Path("labels.csv.part").read_text())))
    assert [row["path"] for row in rows] == ["a.png", "b.png"]
    assert "labels.csv.part holds the results until here; labels.csv is as it was" in outcome.stderr
