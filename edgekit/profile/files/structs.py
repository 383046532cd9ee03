"""What passes between the parts of file profiling: units, tensors, the inputs a user gives, and the result.

No model is read, cut or timed here; `FileProfile` encodes to JSON, a `FileUnit` holds arrays and does not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
from numpy.typing import NDArray

from edgekit.errors import UsageError
from edgekit.types import Count, Dimension, Machine, Microseconds, RuntimeName, Timing

Arrays = Mapping[str, NDArray[Any]]

_INPUT = re.compile(r"(?P<name>.+?)(:(?P<shape>[1-9]\d*(x[1-9]\d*)*))?(=(?P<value>[-+.\deE]+))?")


class GivenInput(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user says of one input of a model: its shape, with the batch, where the file leaves it open; the value
    that fills it where random numbers (or zeros, for integers) will not do."""

    name: str
    shape: tuple[Dimension, ...] | None = None
    value: float | None = None


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Type (a numpy name) and shape, with the batch; ``constant`` for what the file holds."""

    type: str
    shape: tuple[Count, ...]
    constant: bool = False


class NotSeparable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An operator that has no unit, and so no time, and why."""

    name: str
    operator: str
    reason: str


class FileRow(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of one distinct unit. ``timing`` is that of its own model; ``latency_us`` is its median less the overhead
    of a run, ``total_us`` that times ``count``, ``share`` its part of all units. ``hot_us`` is the latency directly
    behind another run of the same unit, with all that it reads in the caches. ``names`` are the operators' own."""

    key: str
    operator: str
    names: tuple[str, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    kernels: tuple[str, ...]
    count: Count
    latency_us: Microseconds
    hot_us: Microseconds
    total_us: Microseconds
    share: float
    timing: Timing


class FileProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times of the operators of one file beside that of the whole file.

    ``sum_us`` is ``overhead_us`` (what a run costs that computes nothing) plus the ``total_us`` of all rows,
    ``hot_sum_us`` the same of the hot times; ``ratio`` and ``hot_ratio`` are these to the whole's median. The sum is
    the better one for files larger than the caches of a core, the hot sum for smaller ones. ``kernels`` are those that
    ran in the whole, as the runtime names them, with their number. ``notes`` say what was changed or assumed to cut
    the file.
    """

    schema: Literal[1] = 1
    model: str
    model_hash: str
    size_bytes: Count
    runtime: RuntimeName
    runtime_version: str
    threads: Count
    machine: Machine
    date: str
    rounds: Count
    inputs: dict[str, Tensor]
    rows: tuple[FileRow, ...]
    overhead_us: Microseconds
    sum_us: Microseconds
    hot_sum_us: Microseconds
    whole: Timing
    ratio: float
    hot_ratio: float
    kernels: dict[str, Count]
    not_separable: tuple[NotSeparable, ...] = ()
    notes: tuple[str, ...] = ()
    tainted: tuple[str, ...] = ()
    seconds: float


@dataclass(frozen=True)
class FileUnit:
    """One operator of a file, or several equal ones, as a model of its own.

    ``key`` is a hash of operator, attributes, shapes and types: units of the same key take the same time, and are
    one unit with a ``count``. ``sample`` is a set of valid inputs of ``model``. ``extra_nodes`` of the model only
    make it loadable or keep it from computing what the whole does not.
    """

    names: tuple[str, ...]
    operator: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    key: str
    model: bytes
    sample: Arrays
    extra_nodes: int = 0

    @property
    def count(self) -> int:
        """How many operators of the file are this unit."""
        return len(self.names)


@dataclass(frozen=True)
class CutFile:
    """A file's units in the order in which they first run, and what could not be cut."""

    units: tuple[FileUnit, ...]
    not_separable: tuple[NotSeparable, ...]
    notes: tuple[str, ...]
    inputs: Arrays


def parse_input(text: str) -> GivenInput:
    """``NAME:SHAPE``, ``NAME=VALUE`` or ``NAME:SHAPE=VALUE``, for example ``input:1x512`` and ``rate=16000``.

    Raises UsageError for anything else.
    """
    match = _INPUT.fullmatch(text)
    try:
        if match is None or not (match["shape"] or match["value"]):
            raise ValueError
        shape = tuple(map(int, match["shape"].split("x"))) if match["shape"] else None
        value = float(match["value"]) if match["value"] else None
        return GivenInput(name=match["name"], shape=shape, value=value)
    except ValueError:
        raise UsageError(
            f"an input is described by {text!r}; it must be NAME:SHAPE, NAME=VALUE or NAME:SHAPE=VALUE",
            "for example input:1x512 or rate=16000",
        ) from None
