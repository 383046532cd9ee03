"""Numbers for the inputs of a model of which only names, types and shapes are known.

What the model computes from them is of no interest here; what a user knows better, he gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgekit.errors import BadInputError, UsageError
from edgekit.profile.files.structs import Arrays, GivenInput

LARGEST_ELEMENTS = 2**28
"""Numbers that an input may have: more is a mistake in a shape, and not to be allocated."""


@dataclass(frozen=True)
class InputSlot:
    """One input of a model as its file describes it: open sizes are None, or a name that sizes can share."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...]


def sample_inputs(slots: Sequence[InputSlot], given: Sequence[GivenInput] = ()) -> Arrays:
    """Arrays for all ``slots``: normal numbers for floats, zeros for integers, or the value that is given.

    An open first size is a batch and taken as 1, as is every size of the same name. Raises UsageError for an input
    that does not exist or does not fit, BadInputError naming the inputs whose other sizes are open and not given.
    """
    by_name = _by_name(slots, given)
    batch_names = {slot.shape[0] for slot in slots if slot.shape and isinstance(slot.shape[0], str)}
    shapes = {slot.name: _shape(slot, by_name.get(slot.name), batch_names) for slot in slots}
    _refuse_open(slots, shapes)
    return {slot.name: _fill(slot, shapes[slot.name] or (), by_name.get(slot.name)) for slot in slots}


def _by_name(slots: Sequence[InputSlot], given: Sequence[GivenInput]) -> dict[str, GivenInput]:
    names = [slot.name for slot in slots]
    for item in given:
        if item.name not in names:
            raise UsageError(f"the model has no input {item.name!r}; its inputs are {', '.join(names) or 'none'}")
    return {item.name: item for item in given}


def _shape(slot: InputSlot, given: GivenInput | None, batch_names: set[Any]) -> tuple[int, ...] | None:
    """The shape to run; None where a size is open."""
    if given is not None and given.shape is not None:
        _check_fits(slot, given.shape)
        return given.shape
    sizes = [1 if position == 0 and not isinstance(size, int) else size for position, size in enumerate(slot.shape)]
    closed = [1 if size in batch_names else size for size in sizes]
    fixed = tuple(size for size in closed if isinstance(size, int))
    return fixed if len(fixed) == len(closed) else None


def _check_fits(slot: InputSlot, shape: tuple[int, ...]) -> None:
    fits = len(shape) == len(slot.shape) and all(
        wanted == size for wanted, size in zip(slot.shape, shape, strict=True) if isinstance(wanted, int)
    )
    if not fits:
        raise UsageError(f"input {slot.name!r} has the shape ({_sizes(slot.shape)}), and cannot be ({_sizes(shape)})")


def _refuse_open(slots: Sequence[InputSlot], shapes: Mapping[str, tuple[int, ...] | None]) -> None:
    open_slots = [slot for slot in slots if shapes[slot.name] is None]
    if open_slots:
        found = ", ".join(f"{slot.name!r} ({_sizes(slot.shape)})" for slot in open_slots)
        raise BadInputError(
            f"the model leaves sizes of its inputs open: {found}; only a batch, in front, can be taken as 1",
            f"give the shape to run, for example {open_slots[0].name}:"
            + "x".join(str(size) if isinstance(size, int) else "1" for size in open_slots[0].shape),
        )


def _fill(slot: InputSlot, shape: tuple[int, ...], given: GivenInput | None) -> NDArray[Any]:
    if np.prod(shape, dtype=np.float64) > LARGEST_ELEMENTS:
        raise UsageError(f"input {slot.name!r} would have more than {LARGEST_ELEMENTS} numbers: ({_sizes(shape)})")
    if given is not None and given.value is not None:
        return np.full(shape, given.value).astype(slot.dtype)
    if np.issubdtype(slot.dtype, np.floating):
        return np.asarray(np.random.default_rng(0).standard_normal(shape)).astype(slot.dtype)
    return np.zeros(shape, dtype=slot.dtype)


def _sizes(shape: Sequence[int | str | None]) -> str:
    return ", ".join("?" if size is None else str(size) for size in shape)
