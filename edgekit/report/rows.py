"""The report as data: one row per model point, as CSV for a spreadsheet and as JSON for a program.

Latencies are in microseconds and accuracies are fractions, unrounded; what is not known is empty in CSV, null in JSON.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from typing import Literal

import msgspec

import edgekit
from edgekit.report.quantities import relative_error
from edgekit.report.runs import Run
from edgekit.types import ModelPoint, meets

# A spreadsheet runs a cell that starts with one of these as a formula (OWASP, CSV injection).
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")

CSV_START = b"run,model,data,target,runtime,number_format,seed,date,point,role,"
"""How every CSV file of a report begins, and no other file: it may be replaced by a new report."""
JSON_START = b'{\n  "kind": "edgekit report",'
"""The same of the JSON file."""


class PointRow(msgspec.Struct, frozen=True, kw_only=True):
    """One model point beside the run that it belongs to."""

    run: str
    model: str
    data: str
    target: str
    runtime: str
    number_format: str
    seed: int
    date: str
    point: str
    role: str
    accuracy: float
    measured_us: float | None
    predicted_us: float
    relative_error: float | None
    budget_us: float | None
    within_budget: bool | None
    parameter_count: int
    mac_count: int
    size_bytes: int | None
    file: str
    penalty_weight: float | None


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """The JSON file that is written beside the page."""

    kind: Literal["edgekit report"] = "edgekit report"
    schema: int = 1
    edgekit_version: str
    points: tuple[PointRow, ...]


def point_rows(runs: Iterable[Run]) -> tuple[PointRow, ...]:
    """One row per point of every run, in the order of the runs."""
    return tuple(_point_row(run, point) for run in runs for point in run.result.points)


def as_csv(rows: Sequence[PointRow]) -> bytes:
    """The rows as UTF-8 CSV with a header. Text that a spreadsheet would run as a formula gets a leading apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(PointRow.__struct_fields__)
    for row in rows:
        writer.writerow([_cell(value) for value in msgspec.structs.astuple(row)])
    return text.getvalue().encode("utf-8", "replace")


def as_json(rows: Sequence[PointRow]) -> bytes:
    """The rows as indented JSON, see ``ReportData``."""
    data = ReportData(edgekit_version=edgekit.__version__, points=tuple(rows))
    return msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"


def _point_row(run: Run, point: ModelPoint) -> PointRow:
    result = run.result
    return PointRow(
        run=run.label,
        model=result.model,
        data=result.data,
        target=result.target,
        runtime=result.runtime,
        number_format=result.number_format,
        seed=result.seed,
        date=result.date,
        point=point.name,
        role=point.role,
        accuracy=point.accuracy,
        measured_us=point.measured_us,
        predicted_us=point.predicted_us,
        relative_error=relative_error(point.predicted_us, point.measured_us),
        budget_us=run.budget_us,
        within_budget=_within_budget(point.measured_us, run.budget_us),
        parameter_count=point.parameter_count,
        mac_count=point.mac_count,
        size_bytes=point.size_bytes or None,
        file=point.file,
        penalty_weight=point.penalty_weight,
    )


def _within_budget(measured_us: float | None, budget_us: float | None) -> bool | None:
    return None if measured_us is None or budget_us is None else meets(measured_us, budget_us)


def _cell(value: object) -> object:
    if isinstance(value, float) and not math.isfinite(value):
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return f"'{value}"
    return value
