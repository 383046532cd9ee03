"""Which line of the user's own code an exception came from, for messages that must lead there.

Only tracebacks are read; what is said about them is the business of the callers.
"""

from __future__ import annotations

import sysconfig
import traceback
from pathlib import Path

import torch

_OWN = Path(__file__).resolve().parents[2]
_TORCH = Path(torch.__file__).resolve().parent
_STANDARD = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_INSTALLED = tuple(Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib"))


def at_user_line(error: BaseException) -> str:
    """`` (my_models.py, line 7)`` for the innermost frame of ``error`` in the user's code; empty if there is none."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_file() and not _is_below(Path(frame.filename), (_OWN, _TORCH))
    ]
    # A model may itself be an installed package: its lines count where there are no others.
    for foreign in ((*_STANDARD, *_INSTALLED), _STANDARD):
        own = [frame for frame in frames if not _is_below(Path(frame.filename), foreign)]
        if own:
            return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})"
    return ""


def _is_below(path: Path, folders: tuple[Path, ...]) -> bool:
    return any(folder in path.resolve().parents for folder in folders)
