"""A run's directory: settings, finished stages, checkpoints, metrics and result; killed at any moment, it can go on.

What the stages compute is in ``training_run``; here each is only stored once, whole, and read back.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from edgekit.errors import BadInputError, EdgekitError, UsageError
from edgekit.files import acquire_lock, sha256_bytes, write_atomic
from edgekit.pipeline.settings import TrainSettings
from edgekit.train.checkpoint import CheckpointFolder

CONFIG, METRICS, RESULT = "config.json", "metrics.jsonl", "result.json"
_LOCK = ".lock"
_HASH = "tensors_sha256"
# As `edgekit.files.write_atomic` names what it has not finished.
_TORN = re.compile(r"\..+\.(json|safetensors|sha256|onnx|tflite)\.[a-z0-9_]{8}")


class RunDirectory:
    """One run on disk. Made by `open_run`. ``made_folder``: whether its folder was not there before."""

    def __init__(self, path: Path, made_folder: bool = False) -> None:
        self.path = path
        self.models = path / "models"
        self._made_folder = made_folder

    @property
    def name(self) -> str:
        """The run's name: that of its folder."""
        return self.path.name

    @property
    def profile_path(self) -> Path:
        """The profile as it was when the run began: a resumed run must not decide on other numbers."""
        return self.path / "profile.json"

    @property
    def result_path(self) -> Path:
        """Where the result is written, last of all."""
        return self.path / RESULT

    def checkpoints(self, stage: str) -> CheckpointFolder:
        """The checkpoints of a stage."""
        return CheckpointFolder(self.path / "checkpoints", stage)

    def finished(self, stage: str) -> dict[str, Any] | None:
        """Facts of a finished stage, or None. Raises BadInputError if unreadable."""
        path = self._facts_path(stage)
        if not path.exists():
            return None
        try:
            return dict(json.loads(path.read_bytes()))
        except (ValueError, TypeError) as error:
            raise BadInputError(f"{path}: unreadable: {error}", "remove it: the stage is then done again") from error

    def tensors(self, stage: str) -> dict[str, Tensor]:
        """Tensors of a finished stage. Raises BadInputError if unreadable, changed since, or not finite."""
        path = self._tensors_path(stage)
        way_out = f"edgekit train --resume --name {self.name}"
        hint = f"remove {self._facts_path(stage)}, then `{way_out}`: the stage is done again"
        try:
            data = path.read_bytes()
            tensors = load_tensors(data)
        except (OSError, SafetensorError) as error:
            raise BadInputError(f"{path}: unreadable: {error}", hint) from error
        # Runs of the first versions have no hash.
        if (self.finished(stage) or {}).get(_HASH, sha256_bytes(data)) != sha256_bytes(data):
            raise BadInputError(f"{path}: damaged: it is not what was written (its sha256 differs)", hint)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise BadInputError(f"{path}: {name} holds NaN or infinity", hint)
        return tensors

    def finish(self, stage: str, facts: dict[str, Any], tensors: dict[str, Tensor] | None = None) -> None:
        """Store a stage: tensors first, facts with their hash last (they alone say that it is done); then drop its
        checkpoints."""
        if tensors is not None:
            data = save_tensors({name: tensor.detach().contiguous() for name, tensor in tensors.items()})
            # A kill between the two files must not leave the new tensors beside the hash of the old ones.
            self._facts_path(stage).unlink(missing_ok=True)
            write_atomic(self._tensors_path(stage), data)
            facts = {**facts, _HASH: sha256_bytes(data)}
        write_atomic(self._facts_path(stage), json.dumps(facts, indent=1).encode())
        self.checkpoints(stage).clear()

    def discard(self) -> None:
        """Remove a whole run that this process began: it never got to anything that is worth resuming.

        Its folder held nothing before; what others put there since stays, and so does a folder that was there."""
        for folder in ("stages", "checkpoints"):
            shutil.rmtree(self.path / folder, ignore_errors=True)
        # The lock last: whoever opens the folder from then on finds nothing of this run.
        for name in (CONFIG, METRICS, self.profile_path.name, _LOCK):
            (self.path / name).unlink(missing_ok=True)
        if self._made_folder:
            with suppress(OSError):
                self.path.rmdir()

    def training_seconds(self) -> float:
        """Sum of what the finished stages of training took."""
        names = [path.stem for path in (self.path / "stages").glob("*.json")]
        return sum(float((self.finished(name) or {}).get("seconds", 0.0)) for name in names)

    def append_metrics(self, values: dict[str, float | int | str]) -> None:
        """Add one line to metrics.jsonl. A kill can tear the last line; readers skip it, the next one starts anew."""
        with (self.path / METRICS).open("ab") as stream:
            if stream.tell() and not _ends_with_newline(self.path / METRICS):
                stream.write(b"\n")
            stream.write(json.dumps(values).encode() + b"\n")

    def _facts_path(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.json"

    def _tensors_path(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage}.safetensors"


@contextmanager
def open_run(path: Path, settings: TrainSettings, resume: bool) -> Iterator[RunDirectory]:
    """The run at ``path``, held by this process alone; begun, or with ``resume`` gone on with.

    Raises UsageError when the run exists and ``resume`` is not given, was begun with other settings, or is held, and
    for a folder that holds anything else.
    """
    _check_state(path, resume)
    run = RunDirectory(path, made_folder=_make_folder(path))
    with _held(path):
        # Again: another process may have begun, or discarded, this very run before the lock was taken.
        _check_state(path, resume)
        if resume:
            _check_same(path / CONFIG, settings)
        else:
            write_atomic(path / CONFIG, msgspec.json.format(msgspec.json.encode(settings), indent=2))
        _remove_torn(path)
        torch.set_num_threads(settings.threads)
        yield run


def read_settings(path: Path) -> TrainSettings:
    """Settings of the run at ``path``. Raises BadInputError if its config.json is missing or wrong."""
    config = path / CONFIG
    try:
        return msgspec.json.decode(config.read_bytes(), type=TrainSettings)
    except FileNotFoundError as error:
        raise BadInputError(f"{path} is no run: it has no {CONFIG}", "runs are made by edgekit train") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, EdgekitError) as error:
        hint = (
            f"the files in {path / 'models'} stay good; to go on, put {CONFIG} back from a copy "
            f"(a finished run has its settings in {RESULT} too), else begin a new run"
        )
        raise BadInputError(f"{config}: {error}", hint) from error


def _check_state(path: Path, resume: bool) -> None:
    begun = (path / CONFIG).exists()
    if resume and not begun:
        raise UsageError(f"there is no run {path} to resume", "leave out --resume, or check --name")
    if begun and not resume:
        raise UsageError(f"the run {path} exists", "go on with it by --resume, or choose another --name")
    if not begun and (found := _foreign(path)) is not None:
        raise UsageError(
            f"{path} is no run and holds other files, such as {found}", "choose another --name, or an empty folder"
        )


def _foreign(path: Path) -> str | None:
    """The name of something that is not left over from a run that was killed before it was begun."""
    names = sorted(entry.name for entry in path.iterdir()) if path.is_dir() else []
    return next((name for name in names if name != _LOCK and not _TORN.fullmatch(name)), None)


def _make_folder(path: Path) -> bool:
    """Whether the folder was not there before. Raises UsageError for a place where none can be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir()
    except FileExistsError as error:
        if path.is_dir():
            return False
        raise UsageError(f"{path} is no folder", "choose another --name") from error
    except OSError as error:
        raise EdgekitError(f"{path}: cannot be made: {error.strerror or error}", "choose a writable folder") from error
    return True


def _check_same(config: Path, settings: TrainSettings) -> None:
    before, now = msgspec.structs.asdict(read_settings(config.parent)), msgspec.structs.asdict(settings)
    changed = [name for name, value in before.items() if now[name] != value]
    if changed:
        name = changed[0]
        raise UsageError(
            f"{config.parent} was begun with {name} = {before[name]!r}, not {now[name]!r}",
            "resume with the same options, or choose another --name",
        )


def _remove_torn(path: Path) -> None:
    """Files that were being written when an earlier process was killed; the lock says that nobody writes them now."""
    for found in path.rglob(".*"):
        if _TORN.fullmatch(found.name) and found.is_file():
            found.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """The kernel drops the lock with the process, however that ends."""
    try:
        descriptor = acquire_lock(path / _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"another process is working on {path}", "wait for it, or choose another --name") from error
    except OSError as error:
        raise EdgekitError(f"{path}: cannot be locked: {error.strerror or error}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            os.close(descriptor)


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
