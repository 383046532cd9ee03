"""Finding target files: by path, by name in ./targets, by name among those that edgekit ships.

What a target file may hold is decided in ``codec``; no device is reached from here.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edgekit.codec import read_target
from edgekit.errors import BadInputError, UsageError
from edgekit.types import Target

USER_FOLDER = Path("targets")
"""Folder of the user's own targets, below the current folder."""


@dataclass(frozen=True)
class TargetFile:
    """A target that can be named: where its file lies, and what it says or (``problem``) why it cannot be used."""

    name: str
    path: Path
    origin: Literal["user", "edgekit"]
    target: Target | None
    problem: str = ""


def packaged_folder() -> Path:
    """Folder of the targets that edgekit ships: inside the installed package, or beside it in a source checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "_targets"
    return installed if installed.is_dir() else package.parent / "targets"


def find(name_or_path: str, folder: Path = USER_FOLDER) -> Target:
    """The target in the file ``name_or_path``, or that of this name in ``folder``, or among the shipped ones.

    Raises UsageError with the nearest names when there is none, BadInputError when its file is not valid.
    """
    if "/" in name_or_path or name_or_path.endswith(".toml"):
        return _find_path(Path(name_or_path))
    files = _by_name(folder)
    if name_or_path in files:
        return read_target(files[name_or_path][0])
    near = difflib.get_close_matches(name_or_path, files, n=3) or sorted(files)
    hint = f"use one of: {', '.join(near)}" if near else "write one: see `edgekit target --help`"
    raise UsageError(f"there is no target {name_or_path!r} in ./{folder} or among those of edgekit", hint)


def list_all(folder: Path = USER_FOLDER) -> tuple[TargetFile, ...]:
    """Every target that `find` knows by name, sorted; a user's file hides a shipped one of the same name."""
    return tuple(_look(name, path, origin) for name, (path, origin) in sorted(_by_name(folder).items()))


def _find_path(path: Path) -> Target:
    if not path.exists():
        raise UsageError(f"there is no target file {path}", "give a name (see `edgekit target list`) or a .toml file")
    return read_target(path)


def _by_name(folder: Path) -> dict[str, tuple[Path, Literal["user", "edgekit"]]]:
    shipped: dict[str, tuple[Path, Literal["user", "edgekit"]]] = {
        path.stem: (path, "edgekit") for path in packaged_folder().glob("*.toml")
    }
    if folder.resolve() == packaged_folder():
        return shipped
    return shipped | {path.stem: (path, "user") for path in folder.glob("*.toml")}


def _look(name: str, path: Path, origin: Literal["user", "edgekit"]) -> TargetFile:
    try:
        return TargetFile(name, path, origin, read_target(path))
    except BadInputError as error:
        return TargetFile(name, path, origin, None, error.message)
