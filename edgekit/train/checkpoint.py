"""Checkpoints of a training stage: safetensors with a sha256 beside each, the two newest kept, written atomically.

What is in a state is decided in ``loop``; here it is only named tensors and a small JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from edgekit.files import sha256_bytes, write_atomic

KEPT = 2
_STEP_DIGITS = 9


@dataclass(frozen=True)
class Snapshot:
    """State of a stage before step ``step``."""

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, float | int | str]


class CheckpointFolder:
    """Checkpoints of one stage in one folder: ``STAGE-000123.safetensors`` and ``….sha256``."""

    def __init__(self, folder: Path, stage: str) -> None:
        self.folder, self.stage = folder, stage

    def save(self, snapshot: Snapshot) -> None:
        """Write a snapshot, then forget all but the newest two.

        Checkpoints of later steps go too: training that stands before them could not read them.
        """
        tensors = {name: tensor.detach().contiguous() for name, tensor in snapshot.tensors.items()}
        facts = json.dumps({"step": snapshot.step, **snapshot.facts})
        data = save_tensors(tensors, metadata={"edgekit": facts})
        path = self.folder / f"{self.stage}-{snapshot.step:0{_STEP_DIGITS}d}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        # The hash goes last: a file without one was cut off while being written.
        write_atomic(path, data)
        write_atomic(path.with_suffix(".sha256"), f"{sha256_bytes(data)}\n".encode())
        paths = self._paths()
        kept = paths[: paths.index(path) + 1][-KEPT:]
        self._remove(other for other in paths if other not in kept)

    def newest(self) -> Snapshot | None:
        """The newest checkpoint whose hash is right; None if there is none."""
        for path in reversed(self._paths()):
            data = path.read_bytes()
            mark = path.with_suffix(".sha256")
            if mark.exists() and mark.read_bytes().strip() == sha256_bytes(data).encode():
                return _parse(data)
        return None

    def clear(self) -> None:
        """Remove all checkpoints of the stage: its result is stored elsewhere."""
        self._remove(self._paths())

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            path.with_suffix(".sha256").unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.stage}-{'[0-9]' * _STEP_DIGITS}.safetensors"))


def _parse(data: bytes) -> Snapshot:
    header_size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + header_size])
    facts = json.loads(header["__metadata__"]["edgekit"])
    return Snapshot(int(facts.pop("step")), load_tensors(data), facts)
