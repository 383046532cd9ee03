"""What every benchmark shares: its options, the table that people read, and the JSON that programs read.

What is measured, and how, belongs to the benchmarks; nothing is timed here.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence

import msgspec

from edgekit.profile.machine import read_machine

Value = str | int | float | bool | None
Row = Mapping[str, Value]


def main(rows: Callable[[bool], Sequence[Row]], columns: Sequence[str]) -> None:
    """Run a benchmark and print ``columns`` of its rows; ``--json`` prints all of them and the machine's facts.

    ``rows`` is called with whether ``--quick`` was given; its docstring is the help text.
    """
    parser = argparse.ArgumentParser(description=rows.__doc__)
    parser.add_argument("--json", action="store_true", help='print {"rows": [...], "machine": {...}}')
    parser.add_argument("--quick", action="store_true", help="fewer repetitions, within a minute")
    options = parser.parse_args()
    machine = msgspec.to_builtins(read_machine())
    measured = rows(options.quick)
    if options.json:
        json.dump({"rows": [dict(row) for row in measured], "machine": machine}, sys.stdout, indent=1)
        print()
    else:
        print(format_table(measured, columns))
        print(", ".join(f"{name} {value}" for name, value in machine.items()))


def format_table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Columns of equal width: text to the left, numbers to the right."""
    cells = [list(columns)] + [[_text(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    numeric = [all(isinstance(row.get(column), int | float) for row in rows) for column in columns]
    return "\n".join(_line(line, widths, numeric) for line in cells)


def _line(cells: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    padded = [
        cell.rjust(width) if is_number else cell.ljust(width)
        for cell, width, is_number in zip(cells, widths, numeric, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _text(value: Value) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
