"""The runs that a report shows: read from their directories, with the points that the page asks for by role.

No figure is drawn and no text is made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec

from edgekit import codec
from edgekit.errors import BadInputError, UsageError
from edgekit.types import LayerChoice, ModelPoint, RunResult, meets

RESULT_FILE = "result.json"
Verdict = Literal["met", "missed", "no_budget", "not_measured"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One run of a report. ``label`` is its name, made unique; ``anchor`` is its id on the page."""

    label: str
    anchor: str
    result: RunResult

    @property
    def chosen(self) -> ModelPoint | None:
        """The model that the run decided for."""
        return self._first("chosen")

    @property
    def dense(self) -> ModelPoint | None:
        """The network before anything was taken away."""
        return self._first("dense")

    @property
    def layers(self) -> tuple[LayerChoice, ...]:
        """What became of each layer in the chosen model; empty when the run chose none."""
        return self.chosen.layers if self.chosen else ()

    @property
    def measured_us(self) -> float | None:
        """Measured latency of the chosen model; None when it was never measured."""
        return self.result.measured_us or None

    @property
    def baseline_us(self) -> float | None:
        """Latency of the dense network, measured beside the chosen one."""
        return self.result.baseline_measured_us or None

    @property
    def budget_us(self) -> float | None:
        """Latency that was asked for; None when the run had no budget."""
        return self.result.budget_us or None

    @property
    def verdict(self) -> Verdict:
        """Whether the chosen model fits the budget on the device, judged by its measured latency alone."""
        if self.measured_us is None:
            return "not_measured"
        if self.budget_us is None:
            return "no_budget"
        return "met" if meets(self.measured_us, self.budget_us) else "missed"

    @property
    def comparable_key(self) -> tuple[str, ...]:
        """Runs with the same key share their axes: same data, device, runtime and number format."""
        return (self.result.data, self.result.target, self.result.runtime, self.result.number_format)

    def _first(self, role: str) -> ModelPoint | None:
        return next((point for point in self.result.points if point.role == role), None)


def read_runs(directories: Sequence[Path]) -> tuple[Run, ...]:
    """Read ``result.json`` of each run directory, in the order given.

    UsageError when there is none, BadInputError when a run has no result or one that cannot be read.
    """
    if not directories:
        raise UsageError("a report needs at least one run directory, got none", "give one, such as runs/NAME")
    results = [_read_result(Path(directory)) for directory in directories]
    labels = _unique_labels([result.name for result in results])
    return tuple(
        Run(label=label, anchor=f"run-{number}", result=result)
        for number, (label, result) in enumerate(zip(labels, results, strict=True), start=1)
    )


def _read_result(directory: Path) -> RunResult:
    path = directory / RESULT_FILE
    if not path.is_file():
        raise BadInputError(
            f"{directory}: not a finished run, which has a file {RESULT_FILE}",
            "name a run directory such as runs/NAME; a run that was interrupted is finished by edgekit train --resume",
        )
    return codec.read_result(path)


def _unique_labels(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    labels = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        labels.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return labels
