"""What the command line costs before it does anything: processor time of whole processes, from start to exit.

Bound: ``edgekit --help`` and ``edgekit --version`` at most 100 ms of processor time, with compiled files in place.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from table import Row, main

import edgekit

BOUND_MS = 100.0
PROGRAM = "import sys; from edgekit.cli.main import main; sys.exit(main(sys.argv[1:]))"
CASES: dict[str, tuple[str, ...]] = {
    "python": ("-c", "pass"),
    "import click": ("-c", "import click"),
    "edgekit --version": ("-c", PROGRAM, "--version"),
    "edgekit --help": ("-c", PROGRAM, "--help"),
    "edgekit train --help": ("-c", PROGRAM, "train", "--help"),
    "edgekit target list": ("-c", PROGRAM, "target", "list"),
}
BOUNDED = ("edgekit --version", "edgekit --help")


class ProcessTime(NamedTuple):
    """Processor time (user and system) and wall time of one process, in milliseconds."""

    cpu_ms: float
    wall_ms: float


def startup_rows(quick: bool) -> list[Row]:
    """Start-up of the command line beside a bare interpreter, interleaved; medians."""
    for arguments in CASES.values():
        _time_process(arguments)
    rounds = [[_time_process(arguments) for arguments in CASES.values()] for _ in range(5 if quick else 20)]
    return [_row(case, times) for case, times in zip(CASES, zip(*rounds, strict=True), strict=True)]


def _time_process(arguments: tuple[str, ...]) -> ProcessTime:
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.DEVNULL, cwd=Path(edgekit.__file__).parents[1]
    )
    # Not process.wait(): only wait4 gives the times of this one child.
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{arguments} ended with {process.returncode}")
    return ProcessTime(1e3 * (usage.ru_utime + usage.ru_stime), 1e3 * (time.perf_counter() - start))


def _row(case: str, times: tuple[ProcessTime, ...]) -> Row:
    cpu_ms = statistics.median(measured.cpu_ms for measured in times)
    return {
        "case": case,
        "cpu_ms": cpu_ms,
        "wall_ms": statistics.median(measured.wall_ms for measured in times),
        "bound_ms": BOUND_MS if case in BOUNDED else None,
        "holds": cpu_ms <= BOUND_MS if case in BOUNDED else None,
        "runs": len(times),
    }


if __name__ == "__main__":
    main(startup_rows, ["case", "cpu_ms", "wall_ms", "bound_ms", "holds", "runs"])
