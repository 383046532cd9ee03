"""Profiles of any .onnx or .tflite file: its operators, each timed as a file of its own, beside the whole.

The parts: `onnx` and `tflite` (how a file is cut), `sessions` (how it is loaded), `profile` (what is timed and summed).
"""

from __future__ import annotations

from edgekit.profile.files.profile import profile_file, runtime_of, units_of
from edgekit.profile.files.structs import (
    CutFile,
    FileProfile,
    FileRow,
    FileUnit,
    GivenInput,
    NotSeparable,
    Tensor,
    parse_input,
)

__all__ = [
    "CutFile",
    "FileProfile",
    "FileRow",
    "FileUnit",
    "GivenInput",
    "NotSeparable",
    "Tensor",
    "parse_input",
    "profile_file",
    "runtime_of",
    "units_of",
]
