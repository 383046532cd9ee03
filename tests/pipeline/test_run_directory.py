"""A run's directory belongs to one process and one set of settings, and what it says is finished is whole."""

from __future__ import annotations

import json
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from edgekit.errors import BadInputError, UsageError
from edgekit.pipeline.run_directory import RunDirectory, open_run, read_settings
from edgekit.pipeline.settings import TrainSettings

# Forked from a process that has torch imported, which takes seconds.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["edgekit.pipeline.training_run", "onnxruntime"])
SETTINGS = TrainSettings(model="resnet8", data="digits")


def begun(path: Path) -> Path:
    with open_run(path, SETTINGS, resume=False):
        pass
    return path


def test_a_new_run_keeps_its_settings(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")

    assert read_settings(path) == SETTINGS


def test_a_run_that_exists_is_not_begun_again(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")

    with pytest.raises(UsageError, match=f"the run {path} exists") as raised, open_run(path, SETTINGS, resume=False):
        pass

    assert "--resume" in str(raised.value.hint)


def test_a_run_that_was_never_begun_cannot_be_resumed(tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match=r"there is no run .* to resume"),
        open_run(tmp_path / "run", SETTINGS, resume=True),
    ):
        pass


def test_a_run_can_be_resumed_with_its_settings(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")

    with open_run(path, read_settings(path), resume=True) as run:
        assert run.name == "run"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"epochs": 3.0}, "epochs = 10.0, not 3.0"),
        ({"seed": 4, "batch_size": 64}, "batch_size = 128, not 64"),
        ({"budget": "70%"}, "budget = '50%', not '70%'"),
    ],
)
def test_resuming_with_other_settings_names_the_first_that_differs(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    path = begun(tmp_path / "run")

    with (
        pytest.raises(UsageError, match=named),
        open_run(path, msgspec.structs.replace(SETTINGS, **changes), resume=True),
    ):
        pass


def hold(path: Path, ready: Connection) -> None:
    with open_run(path, SETTINGS, resume=True):
        ready.send(True)
        ready.poll(60)


def test_a_run_held_by_another_process_is_refused_until_that_ends(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    ours, theirs = processes.Pipe()
    holder = processes.Process(target=hold, args=(path, theirs))
    holder.start()
    assert ours.poll(60)

    with pytest.raises(UsageError, match="another process is working on"), open_run(path, SETTINGS, resume=True):
        pass

    holder.kill()
    holder.join()
    with open_run(path, SETTINGS, resume=True) as run:
        assert run.path == path


def test_a_stage_is_finished_once_its_facts_are_there(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    assert run.finished("dense") is None

    run.finish("dense", {"accuracy": 0.5}, {"w": torch.arange(3.0)})

    assert run.finished("dense") == {"accuracy": 0.5}
    assert torch.equal(run.tensors("dense")["w"], torch.arange(3.0))


def test_finishing_a_stage_drops_its_checkpoints(tmp_path: Path) -> None:
    from edgekit.train.checkpoint import Snapshot

    run = RunDirectory(tmp_path)
    run.checkpoints("dense").save(Snapshot(3, {"w": torch.zeros(2)}, {}))

    run.finish("dense", {})

    assert run.checkpoints("dense").newest() is None


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe"])
def test_unreadable_facts_are_named(tmp_path: Path, content: bytes) -> None:
    run = RunDirectory(tmp_path)
    run.finish("dense", {})
    path = tmp_path / "stages" / "dense.json"
    path.write_bytes(content)

    with pytest.raises(BadInputError, match=f"{path}: unreadable"):
        run.finished("dense")


@pytest.mark.parametrize("content", [b"", b"\x08\x00", b"x" * 100])
def test_unreadable_tensors_are_named_with_what_to_remove(tmp_path: Path, content: bytes) -> None:
    run = RunDirectory(tmp_path)
    run.finish("dense", {}, {"w": torch.zeros(2)})
    path = tmp_path / "stages" / "dense.safetensors"
    path.write_bytes(content)

    with pytest.raises(BadInputError, match=f"{path}: unreadable") as raised:
        run.tensors("dense")

    assert str(path.with_suffix(".json")) in str(raised.value.hint)


def test_a_torn_last_line_of_the_metrics_does_not_spoil_the_next(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.append_metrics({"step": 1})
    with (tmp_path / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 2, "lo')

    run.append_metrics({"step": 3})

    first, _, last = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert (json.loads(first), json.loads(last)) == ({"step": 1}, {"step": 3})


def test_files_that_were_being_written_are_removed_when_the_run_goes_on(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    torn = [path / ".result.json.k3_x0a9z", path / "stages" / ".dense.safetensors.abcd1234"]
    others = [path / ".notes", path / "stages" / "dense.json"]
    (path / "stages").mkdir()
    for file in (*torn, *others):
        file.write_text("{}")

    with open_run(path, SETTINGS, resume=True):
        pass

    assert not any(file.exists() for file in torn) and all(file.exists() for file in others)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"model": "resnet8", "data": "digits", "epochs": -1}'])
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)

    with pytest.raises(BadInputError, match=r"config\.json"):
        read_settings(tmp_path)


def test_a_folder_without_a_config_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"{tmp_path} is no run"):
        read_settings(tmp_path)
