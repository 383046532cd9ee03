"""A run that is killed again and again ends with the very weights of one that was not, and never leaves a torn file."""

from __future__ import annotations

import json
import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from edgekit.codec import read_result
from edgekit.files import sha256_file
from edgekit.pipeline.settings import TrainSettings
from edgekit.pipeline.training_run import train_run
from edgekit.run.model import open_model
from edgekit.types import Progress, RunResult
from tests.pipeline import runs

KILLS = 20
LONGEST_DELAY_SECONDS = 0.03
PATIENCE_SECONDS = 300
Event = tuple[str, float]

# Forked from a process that has torch imported: importing it takes longer than the whole run.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["edgekit.pipeline.training_run", "onnxruntime"])


def carry_out(settings: TrainSettings, path: Path, told: Connection) -> None:
    """Begin the run or go on with it, and tell every step; in a process of its own."""
    runs.use_steady_clock(pytest.MonkeyPatch())

    def tell(progress: Progress) -> None:
        told.send((progress.stage, progress.done))

    train_run(settings, path, resume=(path / "config.json").exists(), progress=tell)


def events_of(settings: TrainSettings, path: Path) -> Iterator[Event]:
    """Events of the run in a process that is killed when the caller stops listening."""
    ours, theirs = processes.Pipe(duplex=False)
    process = processes.Process(target=carry_out, args=(settings, path, theirs))
    process.start()
    theirs.close()
    try:
        while ours.poll(PATIENCE_SECONDS):
            yield ours.recv()
        pytest.fail(f"the run said nothing for {PATIENCE_SECONDS} s")
    except EOFError:
        process.join()
        assert process.exitcode == 0
    finally:
        process.kill()
        process.join()
    assert process.exitcode in (0, -signal.SIGKILL)


def kill_after(
    settings: TrainSettings, path: Path, event: Event, order: dict[Event, int], delay_seconds: float
) -> bool:
    """Let the run come to an event, and kill it a moment later; False if it ended before."""
    for found in (events := events_of(settings, path)):
        if order.get(found, -1) >= order[event]:
            time.sleep(delay_seconds)
            events.close()  # type: ignore[attr-defined]
            return not (path / "result.json").exists()
    return False


@dataclass(frozen=True)
class Runs:
    """The directory of a run that was killed again and again, and that of one that was not."""

    killed: Path
    unbroken: Path
    kill_count: int

    def results(self) -> tuple[RunResult, RunResult]:
        return read_result(self.killed / "result.json"), read_result(self.unbroken / "result.json")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    folder = tmp_path_factory.mktemp("interruption")
    settings = runs.settings(folder, epochs=2.0, batch_size=32, checkpoint_seconds=0.0)
    unbroken, killed = folder / "unbroken", folder / "killed"
    events = list(dict.fromkeys(events_of(settings, unbroken)))
    order = {event: index for index, event in enumerate(events)}
    chance = random.Random(4)
    moments = sorted(chance.choices(events, k=KILLS), key=order.__getitem__)
    delays = [chance.uniform(0, LONGEST_DELAY_SECONDS) for _ in moments]
    count = sum(kill_after(settings, killed, event, order, delay) for event, delay in zip(moments, delays, strict=True))
    for _ in events_of(settings, killed):
        pass
    return Runs(killed, unbroken, count)


def test_the_run_was_killed_before_its_end(both: Runs) -> None:
    assert both.kill_count >= KILLS - 2


@pytest.mark.parametrize("name", ["dense", "chosen"])
def test_the_weights_are_those_of_the_unbroken_run(both: Runs, name: str) -> None:
    hashes = {
        open_model(path / "models" / f"{name}-fp32.onnx").info.source_hash for path in (both.killed, both.unbroken)
    }

    assert len(hashes) == 1


def test_the_result_says_the_same(both: Runs) -> None:
    killed, unbroken = both.results()

    assert killed.points == unbroken.points
    assert (killed.accuracy, killed.measured_us) == (unbroken.accuracy, unbroken.measured_us)


def test_the_decisions_are_the_same(both: Runs) -> None:
    files = [path.relative_to(both.unbroken) for path in (both.unbroken / "stages").glob("*.json")]

    different = [str(file) for file in files if decisions(both.killed / file) != decisions(both.unbroken / file)]

    assert len(files) > 5 and different == []


def decisions(path: Path) -> dict[str, Any]:
    """What a stage's facts say, but for how long it took."""
    facts: dict[str, Any] = json.loads(path.read_bytes())
    facts.pop("seconds", None)
    return facts


def test_every_json_file_can_be_read(both: Runs) -> None:
    for path in both.killed.rglob("*.json"):
        json.loads(path.read_bytes())


def test_every_line_of_the_metrics_can_be_read(both: Runs) -> None:
    lines = (both.killed / "metrics.jsonl").read_bytes().splitlines()

    assert len([json.loads(line) for line in lines]) > 5


def test_every_tensor_file_can_be_read(both: Runs) -> None:
    loaded = [load_file(path) for path in both.killed.rglob("*.safetensors")]

    assert len(loaded) > 3 and all(loaded)


def test_no_checkpoint_and_no_unfinished_file_is_left(both: Runs) -> None:
    names = {path.name for path in both.killed.rglob("*") if path.is_file()}

    assert names == {path.name for path in both.unbroken.rglob("*") if path.is_file()}


def test_the_profile_is_the_one_that_the_run_began_with(both: Runs) -> None:
    info = open_model(both.killed / "models" / "chosen-fp32.onnx").info

    assert info.profile_hash == sha256_file(both.killed / "profile.json") == sha256_file(both.unbroken / "profile.json")
