"""Reports on finished runs: one HTML page that needs nothing but itself, and the same models as CSV and JSON.

Everything shown was recorded by the stages before; nothing is measured, trained or predicted here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from edgekit import files
from edgekit.errors import BadInputError, UsageError
from edgekit.report.page import page
from edgekit.report.rows import CSV_START, JSON_START, as_csv, as_json, point_rows
from edgekit.report.runs import read_runs

__all__ = ["write_report"]


def write_report(run_directories: Sequence[Path], output: Path) -> Path:
    """Write the page on one or more runs to ``output``, and beside it one row per model point as .csv and .json.

    Each directory holds the ``result.json`` of a finished run. ``output`` is replaced if it exists, the files beside it
    only if an earlier report wrote them. Returns ``output``. UsageError when no directory is given, ``output`` is no
    .html file, or a file beside it is something else; BadInputError when a result cannot be read.
    """
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: a report is an .html file", f"name it {output.with_suffix('.html')}")
    table, data = output.with_suffix(".csv"), output.with_suffix(".json")
    _refuse_foreign(output, table, CSV_START)
    _refuse_foreign(output, data, JSON_START)
    runs = read_runs(run_directories)
    rows = point_rows(runs)
    files.write_atomic(table, as_csv(rows))
    files.write_atomic(data, as_json(rows))
    files.write_atomic(output, page(runs).encode("utf-8"))
    return output


def _refuse_foreign(output: Path, beside: Path, start: bytes) -> None:
    """``--output result.html`` inside a run must not cost its result.json, nor any other file that nobody named."""
    if os.path.lexists(beside) and not _starts_with(beside, start):
        raise UsageError(
            f"{beside}: the report {output} would replace this file, which no report wrote",
            "give the report another name, such as report.html",
        )


def _starts_with(path: Path, start: bytes) -> bool:
    try:
        return files.read_start(path, len(start)) == start
    except BadInputError:
        return False
