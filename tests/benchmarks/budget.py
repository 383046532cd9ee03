"""Is the budget met on the device? Short runs of `edgekit train` over many seeds: measured time over budget.

Training is short on purpose: it changes the accuracy, not the time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec
from table import Row, format_table

from edgekit.pipeline.settings import TrainSettings
from edgekit.pipeline.training_run import train_run
from edgekit.profile import read_machine

COLUMNS = ("runtime", "format", "budget", "seed", "budget_us", "predicted_us", "measured_us", "ratio", "within")
LOWEST, HIGHEST = 0.90, 1.02


def main() -> None:
    """Command line: which seeds, how long, on which runtime."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help='print {"rows": [...], "machine": {...}}')
    parser.add_argument("--quick", action="store_true", help="two seeds: within a minute")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--epochs", type=float, default=0.5)
    parser.add_argument("--limit", type=int, default=12000)
    parser.add_argument("--model", default="resnet14")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--budget", default="50%")
    parser.add_argument("--runtime", default="onnx")
    parser.add_argument("--format", default="fp32")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.limit = [0, 1], 3000
    machine = msgspec.to_builtins(read_machine())
    with tempfile.TemporaryDirectory() as folder:
        rows = [told(budget_row(options, seed, Path(folder))) for seed in options.seeds]
    if options.json:
        print(json.dumps({"rows": rows, "machine": machine}, indent=1))
    else:
        print(format_table(rows, COLUMNS))
        print(
            f"{sum(bool(row['within']) for row in rows)} of {len(rows)} within {LOWEST:.2f} to {HIGHEST:.2f}, {machine}"
        )


def told(row: Row) -> Row:
    """The row, shown on stderr as it comes: the table is printed at the end."""
    print(f"seed {row['seed']}: {row['ratio']} of the budget", file=sys.stderr, flush=True)
    return row


def budget_row(options: argparse.Namespace, seed: int, folder: Path) -> Row:
    """One run with a seed of its own; the profile is measured once, by the first."""
    settings = TrainSettings(
        model=options.model,
        data=options.data,
        runtime=options.runtime,
        number_format=options.format,
        budget=options.budget,
        epochs=options.epochs,
        limit=options.limit,
        seed=seed,
    )
    result = train_run(settings, folder / f"seed-{seed}")
    ratio = result.measured_us / result.budget_us
    return {
        "runtime": options.runtime,
        "format": options.format,
        "budget": options.budget,
        "seed": seed,
        "budget_us": round(result.budget_us, 1),
        "predicted_us": round(result.predicted_us, 1),
        "measured_us": round(result.measured_us, 1),
        "ratio": round(ratio, 3),
        "within": LOWEST <= ratio <= HIGHEST,
    }


if __name__ == "__main__":
    main()
