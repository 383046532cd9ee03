"""A phone from its first setup to labels, by the command line alone: Android's own ONNX Runtime with NNAPI, over adb.

The adb server is a real one; the phone is a stand-in (`phone`, `adbd`) with an accelerator that computes a few
operations (`nnapi`). Its times mean nothing.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekit
from edgekit.codec import encode_model_info
from edgekit.devices.native_worker import find_worker
from edgekit.errors import DeviceError
from edgekit.profile.frame import with_random_weights
from edgekit.runtimes import get
from edgekit.types import INPUT, Layer, ModelInfo, NetworkSpec, Preprocessing, UnitSpec
from tests.devices import nnapi
from tests.devices.adbd import Adbd
from tests.devices.desk import Answer
from tests.devices.phone import NoPhoneError, Phone, phone_at
from tests.devices.test_adb import own_adb
from tests.profile.networks import conv, dense

# Phones of several workers would share this machine's processes, and end each other's jobs of the same name.
pytestmark = pytest.mark.xdist_group("phone")

LABELS = ("left", "right")
QUICK = ("--min-seconds", "0.05")
COMMAND_SECONDS = 240.0
MOST_SECONDS_WITHOUT_A_LINK = 45.0
NOTHING = {"FAKE_NNAPI_OPERATIONS": ","}

TARGET = """\
name = "phone"
description = "A stand-in for tests"
transport = "adb"
address = "{address}"

[runtimes.onnx]
provider = "nnapi"
"""


@dataclass(frozen=True)
class Owner:
    """Who has the phone: ``project`` is their current folder."""

    project: Path
    environment: dict[str, str]
    phone: Phone
    adbd: Adbd
    installed: dict[str, Any] = field(default_factory=dict)
    """What the first setup answered."""

    def edgekit(self, *arguments: str) -> Answer:
        """What ``edgekit ARGUMENTS... --json`` answers."""
        done = self._run(*arguments, "--json")
        assert done.stdout, done.stderr
        return Answer(done.returncode, json.loads(done.stdout), done.stderr)

    def see(self, *arguments: str) -> tuple[str, str]:
        """What ``edgekit ARGUMENTS...`` shows to people, and its notes."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgekit.cli.main", *arguments],
            cwd=self.project,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    """A phone on which edgekit is installed already, from the library itself."""
    folder = tmp_path_factory.mktemp("owner")
    project = folder / "project"
    (project / "targets").mkdir(parents=True)
    with ExitStack() as stack:
        try:
            phone = stack.enter_context(phone_at(tmp_path_factory.mktemp("phone") / "root"))
            program = find_worker("android", "x86_64", nnapi.CACHE / "native")
        except (NoPhoneError, DeviceError) as error:
            pytest.skip(str(error))
        library = nnapi.equip(phone, program)
        environment = stack.enter_context(own_adb(folder))
        environment["PYTHONPATH"] = str(Path(edgekit.__file__).parents[1])
        adbd = stack.enter_context(Adbd(phone))
        (project / "targets/phone.toml").write_text(TARGET.format(address=adbd.address))
        write_models(project)
        owner = Owner(project, environment, phone, adbd)
        answer = owner.edgekit("target", "setup", "phone", "--library", str(library))
        owner.installed.update(answer.data["installation"])
        yield owner


@pytest.fixture(autouse=True)
def calm(owner: Owner) -> Iterator[None]:
    """Each test begins and ends with a phone whose accelerator takes what it can."""
    yield
    owner.phone.variables.clear()


def test_setup_from_the_archive_installs_the_same_library(owner: Owner, tmp_path: Path) -> None:
    found = owner.edgekit("target", "setup", "phone", "--library", str(nnapi.android_archive(tmp_path)))

    assert found.data["installation"]["files"] == owner.installed["files"]


def test_setup_without_a_library_says_what_is_needed(owner: Owner) -> None:
    answer = owner.edgekit("target", "setup", "phone")

    assert answer.exit_code == 2 and "--library" in answer.envelope["errors"][0]["hint"]


def test_check_runs_a_model_on_the_accelerator(owner: Owner) -> None:
    found = owner.edgekit("target", "check", "phone").data["check"]

    (runtime,) = found["runtimes"]
    assert runtime["provider"] == "nnapi" and runtime["kernels"][0].startswith("nnapi:")
    assert found["model"] == "EdgeKit Phone" and found["machine"]["temperature_celsius"] == pytest.approx(41.3)


def test_a_profile_tells_what_the_accelerator_left_to_the_cpu(owner: Owner) -> None:
    model = ("--model", "network.json", "--input", "1x8x8", "--classes", "2", "--group-size", "8")

    (profile,) = owner.edgekit("profile", "--target", "phone", "--provider", "nnapi", *model).data["profiles"]

    assert profile["target"] == "phone" and profile["measured_count"] > 3
    assert any("the provider nnapi left to the CPU" in reason for reason in profile["tainted"])


def test_times_of_another_provider_go_into_another_profile(owner: Owner) -> None:
    model = ("--model", "network.json", "--input", "1x8x8", "--classes", "2", "--group-size", "8")

    (profile,) = owner.edgekit("profile", "--target", "phone", "--provider", "cpu", *model).data["profiles"]

    assert profile["target"] == "phone-cpu" and "phone-cpu" in profile["path"]
    assert not any("nnapi" in reason for reason in profile["tainted"])


def test_bench_shows_how_many_nodes_each_provider_runs(owner: Owner) -> None:
    table, notes = owner.see("bench", "whole.onnx", "mixed.onnx", "--target", "phone", *QUICK)

    head, whole, mixed = table.splitlines()
    assert head.split()[-1] == "placement"
    assert re.search(r"nnapi 1, cpu 0$", whole.strip()) and re.search(r"nnapi 2, cpu [1-9]$", mixed.strip())
    assert re.search(r"mixed.onnx: the CPU runs .*AveragePool", notes) and "whole.onnx: the CPU" not in notes


def test_the_provider_of_the_command_line_wins(owner: Owner) -> None:
    found = owner.edgekit("bench", "whole.onnx", "--target", "phone", "--provider", "cpu", *QUICK).data

    assert found["placement"] == {"whole.onnx": None}
    assert not any("nnapi" in kernel for row in found["bench"]["rows"] for kernel in row["kernels"])


def test_the_phone_gives_the_labels_of_this_machine(owner: Owner) -> None:
    here = owner.edgekit("run", "whole.onnx", "images.npz").data["results"]

    there = owner.edgekit("run", "whole.onnx", "images.npz", "--target", "phone").data

    assert [image["label"] for image in there["results"]] == [image["label"] for image in here]
    assert {image["label"] for image in here} == set(LABELS)


@pytest.mark.parametrize(
    "command", [("bench", "whole.onnx", "--target", "phone", *QUICK), ("target", "check", "phone")]
)
def test_an_accelerator_that_takes_nothing_over_is_an_error_with_a_way_out(
    owner: Owner, command: tuple[str, ...]
) -> None:
    owner.phone.variables.update(NOTHING)

    answer = owner.edgekit(*command)

    (error,) = answer.envelope["errors"]
    assert answer.exit_code == 4 and "target devices" in error["message"]
    assert "would be those of the CPU" in error["hint"]


def test_a_phone_too_old_for_nnapi_is_told_before_it_is_timed(owner: Owner) -> None:
    owner.phone.variables.update({"FAKE_ANDROID_API_LEVEL": "26"})

    answer = owner.edgekit("bench", "whole.onnx", "--target", "phone", *QUICK)

    (error,) = answer.envelope["errors"]
    assert answer.exit_code == 4 and "took over none" in error["message"] and error["hint"]


def test_an_unknown_provider_is_a_usage_error_that_names_the_known(owner: Owner) -> None:
    answer = owner.edgekit("bench", "whole.onnx", "--target", "phone", "--provider", "gpu")

    message = answer.envelope["errors"][0]["message"]
    assert answer.exit_code == 2 and "'cpu'" in message and "'nnapi'" in message


def test_this_machine_has_no_accelerator_to_ask_for(owner: Owner) -> None:
    answer = owner.edgekit("bench", "whole.onnx", "--provider", "nnapi")

    assert answer.exit_code == 2 and "this machine" in answer.envelope["errors"][0]["message"]


def test_bench_goes_on_where_it_was_when_the_link_was_cut(owner: Owner) -> None:
    links_before = owner.adbd.links_made

    answer, _ = bench_through(owner, owner.adbd.cut)

    (row,) = answer.data["bench"]["rows"]
    assert row["measured"]["count"] > 0 and owner.adbd.links_made > links_before


def test_bench_ends_with_an_error_when_the_phone_is_gone(owner: Owner) -> None:
    answer, seconds = bench_through(owner, owner.adbd.freeze, owner.adbd.cut)

    (error,) = answer.envelope["errors"]
    assert (answer.exit_code, error["code"]) == (4, "link_lost") and "same command" in error["hint"]
    assert seconds < MOST_SECONDS_WITHOUT_A_LINK


def bench_through(owner: Owner, *faults: Callable[[], None]) -> tuple[Answer, float]:
    """What bench answers when ``faults`` happen while a model is timed, and how many seconds after that."""
    with ThreadPoolExecutor(1) as pool:
        command = ("bench", "whole.onnx", "--target", "phone", "--min-seconds", "3")
        answered = pool.submit(owner.edgekit, *command)
        assert is_timing(owner.phone), "the worker was not started"
        for fault in faults:
            fault()
        started = time.monotonic()
        try:
            return answered.result(COMMAND_SECONDS), time.monotonic() - started
        finally:
            owner.adbd.thaw()


def is_timing(phone: Phone, seconds: float = 60.0) -> bool:
    """Wait until the worker times a model: that job asks for seconds."""
    jobs = phone.root / "data/local/tmp/edgekit/jobs"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        running = [path.parent for path in jobs.glob("*/work/job.txt") if "min_seconds=0.3" in path.read_text()]
        if running and any(phone.processes()):
            return True
        time.sleep(0.05)
    return False


def write_models(project: Path) -> None:
    """``whole.onnx`` fits the accelerator, ``mixed.onnx`` has an average over padding, which it never gets."""
    whole, mixed = network(is_mixed=False), network(is_mixed=True)
    for name, spec in (("whole", whole), ("mixed", mixed)):
        metadata = {"edgekit": encode_model_info(describe(name))}
        (project / f"{name}.onnx").write_bytes(get("onnx").write(with_random_weights(spec), metadata=metadata))
    (project / "network.json").write_bytes(msgspec.json.encode(mixed))
    images = np.random.default_rng(0).integers(0, 256, size=(12, 8, 8), dtype=np.uint8)
    np.savez(project / "images.npz", images=images)


def network(*, is_mixed: bool) -> NetworkSpec:
    stem = Layer(name="stem", unit=conv(1, 8, 8), inputs=(INPUT,))
    branch = Layer(name="branch", unit=conv(8, 8, 8, groups=8, activation="none"), inputs=("stem",))
    add = UnitSpec(kind="add", input_shape=(8, 8, 8), output_shape=(8, 8, 8))
    pool = UnitSpec(
        kind="average_pool", input_shape=(8, 8, 8), output_shape=(8, 8, 8), kernel=(3, 3), padding=(1, 1, 1, 1)
    )
    flat = UnitSpec(kind="flatten", input_shape=(8, 8, 8), output_shape=(512,))
    layers = [stem, branch, Layer(name="sum", unit=add, inputs=("stem", "branch"))]
    if is_mixed:
        layers.append(Layer(name="average", unit=pool, inputs=("sum",)))
    layers.append(Layer(name="flat", unit=flat, inputs=(layers[-1].name,)))
    layers.append(Layer(name="out", unit=dense(512, 2), inputs=("flat",)))
    return NetworkSpec(name="mixed" if is_mixed else "whole", input_shape=(1, 8, 8), layers=tuple(layers))


def describe(name: str) -> ModelInfo:
    return ModelInfo(
        edgekit_version="0",
        network=name,
        number_format="fp32",
        source_hash="0" * 64,
        target="phone",
        runtime="onnx",
        preprocessing=Preprocessing(input_shape=(1, 8, 8), mean=(0.5,), std=(0.5,)),
        labels=LABELS,
    )
