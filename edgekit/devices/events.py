"""The lines that a worker answers with (docs/jobs.md), decoded once and for all.

What they mean is decided by those who asked; a line that is none of these ends with a DeviceError.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from edgekit.devices.state import DeviceState
from edgekit.errors import DeviceError

# A worker is a program on another machine: what it says is bounded like a file that was handed in.
Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Index = Annotated[int, msgspec.Meta(ge=0, le=2**31)]
Text = Annotated[str, msgspec.Meta(max_length=10_000)]


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="hello"):
    """Which worker it is and what it runs. One that speaks another version of the format is refused."""

    worker: Text
    version: Literal[1]
    runtime: Text
    runtime_version: Text
    providers: tuple[Text, ...] = ()
    boot_id: Text = ""
    architecture: Text = ""
    pid: Index = 0


class State(DeviceState, frozen=True, kw_only=True, tag_field="event", tag="state"):
    """The machine before or after a measurement."""


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="begin"):
    """A task of timing begins: its models and how often each runs in a round."""

    task: Index
    models: tuple[Text, ...]
    runs_per_round: tuple[Annotated[int, msgspec.Meta(ge=1, le=2**31)], ...]


class Round(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="round"):
    """Fastest run and sum of the runs of each model in one round."""

    task: Index
    fastest_ns: tuple[Nanoseconds, ...]
    total_ns: tuple[Nanoseconds, ...]


class Cold(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="cold"):
    """One run of each model with cold caches."""

    task: Index
    ns: tuple[Nanoseconds, ...]


class End(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="end"):
    """A task of timing is complete."""

    task: Index


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a model and the provider that ran it."""

    name: Text = ""
    operator: Text = ""
    provider: Text = ""


class Kernels(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="kernels"):
    """The kernels that ran, and where each node was placed."""

    task: Index
    model: Text
    kernels: tuple[Text, ...]
    nodes: tuple[Node, ...] = ()


class Output(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="output"):
    """A model ran over a file of samples; its results are in ``file``."""

    task: Index
    model: Text
    file: Text
    samples: Index


class Error(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="error"):
    """A task, or the whole job, could not be carried out."""

    code: Text
    message: Text
    task: Index | None = None
    model: Text | None = None


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="done"):
    """The last line of a whole run."""


Event = Hello | State | Begin | Round | Cold | End | Kernels | Output | Error | Done

_DECODER: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)


def parse_events(lines: Iterable[bytes], device: str) -> list[Event]:
    """Events of whole lines. Raises DeviceError for one that is no event, with its beginning."""
    return [_parse(line, device) for line in lines]


def _parse(line: bytes, device: str) -> Event:
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DeviceError(
            f"the worker on {device!r} answered {line[:80]!r}, which is no event: {error}",
            f"install it again: edgekit target setup {device}",
        ) from error
