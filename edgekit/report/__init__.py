"""Reports on finished runs: one HTML page that needs nothing but itself, and the same models as CSV and JSON.

Everything shown was recorded by the stages before; nothing is measured, trained or predicted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit import files
from edgekit.errors import UsageError
from edgekit.report.page import page
from edgekit.report.rows import as_csv, as_json, point_rows
from edgekit.report.runs import read_runs

__all__ = ["write_report"]


def write_report(run_directories: Sequence[Path], output: Path) -> Path:
    """Write the page on one or more runs to ``output``, and beside it one row per model point as .csv and .json.

    Each directory holds the ``result.json`` of a finished run. Files that exist are replaced. Returns ``output``.
    UsageError when no directory is given or ``output`` is no .html file; BadInputError when a result cannot be read.
    """
    output = Path(output)
    if output.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{output}: a report is an .html file", f"name it {output.with_suffix('.html')}")
    runs = read_runs(run_directories)
    rows = point_rows(runs)
    files.write_atomic(output.with_suffix(".csv"), as_csv(rows))
    files.write_atomic(output.with_suffix(".json"), as_json(rows))
    files.write_atomic(output, page(runs).encode("utf-8"))
    return output
