"""The newest checkpoint that is whole is the one that is read, and two are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from edgekit.train.checkpoint import CheckpointFolder, Snapshot


def snapshot(step: int) -> Snapshot:
    return Snapshot(step, {"weight": torch.full((2, 3), float(step)), "count": torch.tensor(step)}, {"lambda": 0.1})


def folder_with(path: Path, *steps: int, stage: str = "dense") -> CheckpointFolder:
    folder = CheckpointFolder(path, stage)
    for step in steps:
        folder.save(snapshot(step))
    return folder


def file_of(path: Path, step: int, stage: str = "dense") -> Path:
    return path / f"{stage}-{step:09d}.safetensors"


def newest_step(folder: CheckpointFolder) -> int | None:
    newest = folder.newest()
    return None if newest is None else newest.step


def test_a_folder_without_checkpoints_has_none(tmp_path: Path) -> None:
    assert CheckpointFolder(tmp_path / "absent", "dense").newest() is None


def test_a_checkpoint_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    tensors: dict[str, Tensor] = {
        "w": torch.rand(4, 3, 3, 3).contiguous(memory_format=torch.channels_last),
        "scalar": torch.tensor(7.0),
        "counter": torch.tensor(3),
    }
    facts: dict[str, float | int | str] = {"multiplier": 0.1 + 0.2, "count": 3}

    CheckpointFolder(tmp_path, "dense").save(Snapshot(12, tensors, facts))

    found = CheckpointFolder(tmp_path, "dense").newest()
    assert found is not None and (found.step, found.facts) == (12, facts)
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in tensors.items())


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    folder_with(tmp_path, 5, 10, 15, 20)

    kept = sorted(path.name for path in tmp_path.iterdir())

    assert kept == [f"dense-{step:09d}.{suffix}" for step in (15, 20) for suffix in ("safetensors", "sha256")]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def lose_the_hash(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


def spoil_the_hash(path: Path) -> None:
    path.with_suffix(".sha256").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lose_the_hash, spoil_the_hash])
def test_a_damaged_newest_checkpoint_falls_back_to_the_older_one(tmp_path: Path, damage: object) -> None:
    folder = folder_with(tmp_path, 10, 20)

    damage(file_of(tmp_path, 20))  # type: ignore[operator]

    assert newest_step(folder) == 10


def test_two_damaged_checkpoints_are_as_good_as_none(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 10, 20)

    for step in (10, 20):
        truncate(file_of(tmp_path, step))

    assert folder.newest() is None


def test_a_checkpoint_saved_after_damage_outlives_the_damaged_ones_of_later_steps(tmp_path: Path) -> None:
    folder = folder_with(tmp_path, 100, 200)
    for step in (100, 200):
        truncate(file_of(tmp_path, step))

    folder.save(snapshot(5))

    assert newest_step(folder) == 5


def test_stages_whose_names_begin_alike_do_not_touch_each_other(tmp_path: Path) -> None:
    other = folder_with(tmp_path, 30, stage="fine-tune-2")
    folder = folder_with(tmp_path, 1, 2, 3, stage="fine-tune")

    folder.clear()

    assert (newest_step(folder), newest_step(other)) == (None, 30)


def test_clearing_leaves_no_file(tmp_path: Path) -> None:
    folder_with(tmp_path, 1, 2, 3).clear()

    assert list(tmp_path.iterdir()) == []
