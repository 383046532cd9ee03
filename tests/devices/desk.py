"""A user in front of a device: an own home and project, and the command line as they type it; and what they do.

What is behind the address is not known here: see ``pi`` and ``sshd``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import edgekit
from tests.devices.phone import CACHE_FOLDER

IMAGE_SIDE = 8
MODEL = "resnet8-w0.1"
BUDGET = "95%"
COMMAND_SECONDS = 900.0

_TARGET = """\
name = "{name}"
description = "A stand-in for tests"
transport = "ssh"
address = "{address}"
throttling = "vcgencmd"
"""
_RUNTIME = """
[runtimes.{name}]
threads = 1
provider = "cpu"
formats = ["fp32", "int8"]
"""


@dataclass(frozen=True)
class Answer:
    """How a command ended, and the object that it wrote."""

    exit_code: int
    envelope: dict[str, Any]
    stderr: str

    @property
    def error(self) -> dict[str, Any]:
        """The first thing that went wrong."""
        return dict(self.envelope["errors"][0])

    @property
    def data(self) -> dict[str, Any]:
        """What it found; the test fails here if it found nothing."""
        assert self.exit_code == 0, f"exit code {self.exit_code}: {self.envelope['errors']}\n{self.stderr[-2000:]}"
        return dict(self.envelope["data"])


@dataclass(frozen=True)
class Desk:
    """``folder`` holds the user's home and project."""

    folder: Path

    @property
    def project(self) -> Path:
        return self.folder / "project"

    @classmethod
    def furnished(cls, folder: Path, name: str, address: str, client_key: Path, runtimes: Sequence[str]) -> Desk:
        """A home with a key for the device, and a project that describes it. Wheels are kept from one test run to the
        next."""
        desk, home = cls(folder), folder / "home"
        for needed in (home / ".ssh", home / ".cache/edgekit", desk.project / "targets", CACHE_FOLDER / "wheels"):
            needed.mkdir(parents=True, exist_ok=True)
        (home / ".ssh/config").write_text(f"Host *\n  IdentityFile {client_key}\n  IdentitiesOnly yes\n")
        (home / ".cache/edgekit/wheels").symlink_to(CACHE_FOLDER / "wheels")
        text = _TARGET.format(name=name, address=address) + "".join(_RUNTIME.format(name=each) for each in runtimes)
        (desk.project / "targets" / f"{name}.toml").write_text(text)
        return desk

    def edgekit(self, *arguments: str) -> Answer:
        """What ``edgekit ARGUMENTS... --json`` answers."""
        environment = {**os.environ, "HOME": str(self.folder / "home"), "PYTHONPATH": str(_source())}
        # The user's own settings of pip, which say where packages come from.
        environment.setdefault("PIP_CONFIG_FILE", str(Path.home() / ".config/pip/pip.conf"))
        done = subprocess.run(
            [sys.executable, "-m", "edgekit.cli.main", *arguments, "--json"],
            cwd=self.project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
        assert done.stdout, done.stderr
        return Answer(done.returncode, json.loads(done.stdout), done.stderr)

    def write_images(self, name: str, count: int, seed: int = 0) -> list[str]:
        """Write a .npz file of pictures that are brighter at the left or at the right, and tell their labels."""
        random = np.random.default_rng(seed)
        labels = np.arange(count) % 2
        images = random.integers(0, 120, size=(count, IMAGE_SIDE, IMAGE_SIDE))
        half = IMAGE_SIDE // 2
        images[labels == 0, :, :half] += 120
        images[labels == 1, :, half:] += 120
        np.savez(self.project / name, images=images.astype(np.uint8), labels=labels)
        return [str(label) for label in labels]


@dataclass
class Journey:
    """The way from a new device to labels, one command after the other, with the smallest residual network."""

    desk: Desk
    runtime: str
    name: str = "board"
    true_labels: list[str] = field(default_factory=list)

    def arrive(self) -> None:
        """Trust the device, and install what is needed there."""
        assert self.desk.edgekit("target", "trust", self.name).data["keys"][0]["accepted"]
        assert self.runtime in self.desk.edgekit("target", "setup", self.name).data["installation"]["runtimes"]
        self.desk.write_images("known.npz", 200)
        self.true_labels = self.desk.write_images("new.npz", 20, seed=1)

    def profile(self) -> dict[str, Any]:
        """Measure the units there."""
        shape = f"1x{IMAGE_SIDE}x{IMAGE_SIDE}"
        wanted = ("--target", self.name, "--runtime", self.runtime, "--model", MODEL)
        (profile,) = self.desk.edgekit("profile", *wanted, "--input", shape, "--classes", "2").data["profiles"]
        return dict(profile)

    def train(self, *options: str) -> dict[str, Any]:
        """Fit the network to a budget there; what is not measured yet is measured. A machine that is not calm may miss
        the budget, and says so."""
        wanted = ("--target", self.name, "--runtime", self.runtime, "--model", MODEL, "--data", "known.npz")
        schedule = ("--epochs", "4", "--batch-size", "16", "--budget", BUDGET, "--name", "small")
        answer = self.desk.edgekit("train", *wanted, *schedule, *options)
        is_missed = answer.exit_code == 1 and answer.error["code"] == "budget"
        return dict(answer.envelope["data"]) if is_missed else answer.data

    def bench(self, network: dict[str, Any]) -> list[dict[str, Any]]:
        """Times of the dense and the chosen file there."""
        files = [_file(network, role) for role in ("dense", "chosen")]
        answer = self.desk.edgekit("bench", *files, "--target", self.name, "--min-seconds", "0.05")
        return list(answer.data["bench"]["rows"])

    def labels(self, network: dict[str, Any]) -> tuple[list[str], list[str]]:
        """What the chosen file says of new images there, and here."""
        there, here = (
            self.desk.edgekit("run", _file(network, "chosen"), "new.npz", *where).data["results"]
            for where in (("--target", self.name), ())
        )
        return [outcome["label"] for outcome in there], [outcome["label"] for outcome in here]


def _file(network: dict[str, Any], role: str) -> str:
    point = next(point for point in network["points"] if point["role"] == role)
    return f"{network['run']}/{point['file']}"


def _source() -> Path:
    return Path(edgekit.__file__).parents[1]
