"""A run's directory belongs to one process and one set of settings, and what it says is finished is whole."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from edgekit.errors import BadInputError, EdgekitError, UsageError
from edgekit.pipeline import run_directory
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


def test_a_folder_with_other_files_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious.onnx").write_bytes(b"mine")
    (tmp_path / "profile.json").write_bytes(b"mine too")

    with pytest.raises(UsageError, match="holds other files, such as models"), open_run(tmp_path, SETTINGS, False):
        pass

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["models", "profile.json"]


def test_a_failed_start_costs_no_file_of_others(tmp_path: Path) -> None:
    """What it did: a new run whose data is missing removed models/ and profile.json of whoever owned the folder."""
    from edgekit.pipeline.training_run import train_run

    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "precious.onnx").write_bytes(b"mine")
    missing = msgspec.structs.replace(SETTINGS, data=str(tmp_path / "no such folder"))

    with pytest.raises(EdgekitError):
        train_run(missing, tmp_path)

    assert (tmp_path / "models" / "precious.onnx").read_bytes() == b"mine"


@pytest.mark.parametrize("left", [".lock", ".config.json.k3_x0a9z"])
def test_what_a_process_left_that_was_killed_before_the_start_is_no_hindrance(tmp_path: Path, left: str) -> None:
    (tmp_path / left).touch()

    assert read_settings(begun(tmp_path)) == SETTINGS


def test_a_file_in_the_place_of_the_folder_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "run").touch()

    with pytest.raises(UsageError, match="is no folder"), open_run(tmp_path / "run", SETTINGS, resume=False):
        pass


@pytest.mark.parametrize("was_there", [True, False])
def test_discarding_leaves_what_was_there_before(tmp_path: Path, was_there: bool) -> None:
    path = tmp_path / "run"
    if was_there:
        path.mkdir()

    with open_run(path, SETTINGS, resume=False) as run:
        run.finish("data", {"fingerprint": "1"}, {"w": torch.zeros(2)})
        run.discard()

    assert path.exists() == was_there and not list(path.glob("*"))


def test_discarding_leaves_what_others_put_there_since(tmp_path: Path) -> None:
    with open_run(tmp_path / "run", SETTINGS, resume=False) as run:
        run.models.mkdir()
        (run.models / "mine.onnx").touch()
        run.discard()

    assert [path.name for path in run.path.rglob("*")] == ["models", "mine.onnx"]


def before_the_lock(monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Another process does ``what`` just before the next lock is taken."""
    flock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        what()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)


def test_a_run_that_another_process_began_first_keeps_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before_the_lock(monkeypatch, lambda: begun(tmp_path))
    other = msgspec.structs.replace(SETTINGS, seed=9)

    with pytest.raises(UsageError, match="exists"), open_run(tmp_path, other, resume=False):
        pass

    assert read_settings(tmp_path) == SETTINGS


def test_a_lock_on_a_file_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process discards its run, and a third begins one: their files have the same name and are not the same."""
    with ExitStack() as third:

        def replace() -> None:
            (tmp_path / ".lock").unlink()
            third.enter_context(open_run(tmp_path, SETTINGS, resume=False))

        before_the_lock(monkeypatch, replace)

        with pytest.raises(UsageError, match="another process is working on"), open_run(tmp_path, SETTINGS, False):
            pass


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

    assert (run.finished("dense") or {})["accuracy"] == 0.5
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


def finished_stage(path: Path, tensors: dict[str, torch.Tensor]) -> RunDirectory:
    run = RunDirectory(path)
    run.finish("dense", {"accuracy": 0.5}, tensors)
    return run


def test_tensors_come_back_as_they_were_stored(tmp_path: Path) -> None:
    run = finished_stage(tmp_path, {"w": torch.arange(4.0)})

    assert run.tensors("dense")["w"].equal(torch.arange(4.0))


def test_a_single_flipped_bit_is_noticed_and_the_file_named(tmp_path: Path) -> None:
    run = finished_stage(tmp_path, {"w": torch.arange(4.0)})
    path = tmp_path / "stages" / "dense.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)

    with pytest.raises(BadInputError, match=r"dense\.safetensors: damaged") as raised:
        run.tensors("dense")

    assert raised.value.exit_code == 3 and "dense.json" in str(raised.value.hint)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensors_that_are_not_finite_are_refused_by_name(tmp_path: Path, value: float) -> None:
    run = finished_stage(tmp_path, {"stem.weight": torch.tensor([1.0, value])})

    with pytest.raises(BadInputError, match=r"dense\.safetensors: stem\.weight holds NaN or infinity"):
        run.tensors("dense")


def test_a_stage_that_is_stored_again_is_unfinished_until_its_new_hash_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a kill between the two files would leave tensors that no hash fits."""
    run = finished_stage(tmp_path, {"w": torch.zeros(2)})
    write, seen = run_directory.write_atomic, []

    def noting(path: Path, data: bytes) -> None:
        seen.append((path.suffix, run.finished("dense") is None))
        write(path, data)

    monkeypatch.setattr(run_directory, "write_atomic", noting)
    run.finish("dense", {"accuracy": 0.6}, {"w": torch.ones(2)})

    assert seen == [(".safetensors", True), (".json", True)]


def test_a_damaged_config_says_what_can_be_saved(tmp_path: Path) -> None:
    path = begun(tmp_path / "run")
    (path / "config.json").write_text('{"model": "resnet8"')

    with pytest.raises(BadInputError, match=r"config\.json") as raised:
        read_settings(path)

    assert "models stay good" in str(raised.value.hint) and "from a copy" in str(raised.value.hint)
