"""Does measuring pay? Drop on measured time, the same method on MACs, and uniform width scaling, at the same budgets.

Every network trains for the same number of epochs along the same schedule: drop counts its warm-up as a dense network,
search, trials and fine-tuning; uniform scaling trains its network from scratch. Drop distils from the dense network, so
uniform_distilled, the same narrow network with the same teacher, tells how much of a difference is due to that. The
files are timed beside the dense one in one process at the end.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import msgspec
import torch
from table import Row, format_table

from edgekit.nn.cut import cut_spec
from edgekit.nn.folding import fold
from edgekit.nn.latency import KeptCounts
from edgekit.nn.network import Network, clone
from edgekit.pipeline.run_directory import RunDirectory, open_run
from edgekit.pipeline.settings import TrainSettings
from edgekit.pipeline.training_run import train_run
from edgekit.pipeline.workspace import Workspace, prepare
from edgekit.profile import measure_interleaved, read_machine
from edgekit.runtimes import FoldedNetwork, get
from edgekit.train.loop import evaluate
from edgekit.train.pricing import choice_from_counts
from edgekit.train.randomness import generator
from edgekit.train.selection import uniform_choices
from edgekit.types import Progress, RunResult

COLUMNS = (
    "method",
    "budget",
    "seed",
    "accuracy",
    "time_ratio",
    "met",
    "measured_us",
    "budget_us",
    "predicted_ratio",
    "epochs",
)
DROP_SOURCES: dict[str, Literal["measured", "macs"]] = {"drop_ms": "measured", "drop_macs": "macs"}
METHODS = (*DROP_SOURCES, "uniform", "uniform_distilled")


def main() -> None:
    """Command line: which seeds and budgets, how many epochs, where the runs are kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help='print {"rows": [...], "machine": {...}}')
    parser.add_argument("--quick", action="store_true", help="one seed, one budget, few samples: within a minute")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--budgets", type=int, nargs="+", default=[70, 50, 35], help="percent of the dense network's time"
    )
    parser.add_argument("--epochs", type=float, default=4.0, help="of every network in total")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--limit", type=int, default=None, help="use that many samples")
    parser.add_argument("--model", default="resnet14")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--runs", type=Path, default=None, help="keep the runs here, and go on with what is there")
    options = parser.parse_args()
    if options.quick:
        options.seeds, options.budgets, options.epochs, options.limit = [0], [50], 0.5, 6000
    machine = msgspec.to_builtins(read_machine())
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        rows = [row for seed in options.seeds for row in seed_rows(options, seed, folder)]
    if options.json:
        print(json.dumps({"rows": [*rows, *mean_rows(rows)], "machine": machine}, indent=1))
    else:
        print(format_table([*rows, *mean_rows(rows)], COLUMNS))
        print(f"{options.model}, {options.data}, onnx fp32, one thread, {machine}")


def seed_rows(options: argparse.Namespace, seed: int, folder: Path) -> list[Row]:
    """All methods at all budgets for one seed, timed beside each other at the end."""
    base = TrainSettings(
        model=options.model, data=options.data, epochs=options.epochs, limit=options.limit, seed=seed, threads=1
    )
    dense_path = folder / f"dense-{seed}"
    dense = run(msgspec.structs.replace(base, method="dense", budget="100%"), dense_path)
    files = [("dense", 100, dense.accuracy, dense_path / dense.points[0].file, 1.0, options.epochs)]
    for budget in options.budgets:
        for method in options.methods:
            if method in DROP_SOURCES:
                made = drop_file(base, method, budget, dense_path, folder)
            else:
                made = uniform_file(base, method, budget, dense_path, folder)
            files.append((method, budget, *made, options.epochs))
    return timed_rows(files, seed)


def drop_file(
    base: TrainSettings, method: str, budget: int, dense_path: Path, folder: Path
) -> tuple[float, Path, float]:
    """Accuracy, file and predicted share of what `edgekit train` chooses."""
    source = DROP_SOURCES[method]
    settings = msgspec.structs.replace(base, budget=f"{budget}%", latency_source=source, dense_from=str(dense_path))
    path = folder / f"{method}-{budget}-{base.seed}"
    result = run(settings, path)
    chosen = next(point for point in result.points if point.role == "chosen")
    return result.accuracy, path / chosen.file, chosen.predicted_us / result.points[0].predicted_us


def run(settings: TrainSettings, path: Path) -> RunResult:
    """One run of the product, gone on with if it was begun."""
    return train_run(settings, path, resume=(path / "config.json").exists(), progress=show)


def uniform_file(
    base: TrainSettings, method: str, budget: int, dense_path: Path, folder: Path
) -> tuple[float, Path, float]:
    """The widest uniformly narrowed network that is *measured* within the budget, trained from scratch along the same
    schedule, with or without the dense network as its teacher. Budgets with the same widths share the training."""
    sizing = folder / f"{method}-{budget}-{base.seed}"
    with open_run(sizing, base, resume=(sizing / "config.json").exists()) as directory:
        work = prepare(base, directory, show)
        kept = widest_within(work, budget / 100)
    shared = folder / f"{method}-{'-'.join(map(str, kept.groups))}-{base.seed}"
    with open_run(shared, base, resume=(shared / "config.json").exists()) as directory:
        work = dataclasses.replace(work, run=directory)
        torch.manual_seed(generator(base.seed, "uniform").initial_seed() % 2**63)
        network = Network(cut_spec(work.structure, choice_from_counts(work.structure, kept)))
        distil = method == "uniform_distilled"
        work.train_stage("uniform", network, work.recipe(0.0, 1.0, distil=distil), teacher_of(work, dense_path, distil))
        file = shared / "uniform.onnx"
        file.write_bytes(work.runtime.write(FoldedNetwork(network.spec, fold(network.spec, network.layer_modules))))
        return evaluate(network, work.test), file, work.latency.latency_us(kept) / work.baseline_us


def teacher_of(work: Workspace, dense_path: Path, distil: bool) -> Network | None:
    """The trained dense network, if there is to be a teacher."""
    if not distil:
        return None
    teacher = clone(work.initial)
    teacher.load_state_dict(RunDirectory(dense_path).tensors("dense"))
    return teacher.eval()


def widest_within(work: Workspace, share: float) -> KeptCounts:
    """Uniform widths, narrowed further as long as the measured time is above the budget."""
    budget_us = share * work.baseline_us
    while True:
        kept = uniform_choices(work.latency, budget_us)
        if kept is None:
            raise SystemExit(f"no uniform width fits {share:.0%}")
        network = Network(cut_spec(work.structure, choice_from_counts(work.structure, kept)))
        dense, timing = work.time([work.initial, network])
        if timing.median_us <= share * dense.median_us:
            return kept
        budget_us = work.latency.latency_us(kept) * 0.999


def timed_rows(files: Sequence[tuple[str, int, float, Path, float, float]], seed: int) -> list[Row]:
    """Every file of a seed in one process, interleaved; times as shares of the dense one."""
    runtime = get("onnx")
    sessions = [runtime.load(path.read_bytes()) for _, _, _, path, _, _ in files]
    timings = measure_interleaved(sessions, min_seconds=1.0)
    dense_us = timings[0].median_us
    rows: list[Row] = []
    for (method, budget, accuracy, _, predicted, epochs), timing in zip(files, timings, strict=True):
        share = timing.median_us / dense_us
        rows.append(
            {
                "method": method,
                "budget": budget,
                "seed": seed,
                "accuracy": round(100 * accuracy, 2),
                "time_ratio": round(share, 3),
                "met": share <= budget / 100 * 1.02,
                "measured_us": round(timing.median_us, 1),
                "budget_us": round(dense_us * budget / 100, 1),
                "predicted_ratio": round(predicted, 3),
                "epochs": epochs,
            }
        )
    return rows


def mean_rows(rows: Sequence[Row]) -> list[Row]:
    """Means over the seeds."""
    means: list[Row] = []
    for key in dict.fromkeys((row["method"], row["budget"]) for row in rows):
        group = [row for row in rows if (row["method"], row["budget"]) == key]
        mean = {name: round(sum(float(row[name] or 0) for row in group) / len(group), 3) for name in _AVERAGED}
        means.append({"method": key[0], "budget": key[1], "seed": "mean", "met": all(r["met"] for r in group), **mean})
    return means


_AVERAGED = ("accuracy", "time_ratio", "measured_us", "budget_us", "predicted_ratio", "epochs")


def show(progress: Progress) -> None:
    """One line a stage on stderr: the table goes to stdout."""
    if progress.total and progress.done >= progress.total:
        values = " ".join(f"{name} {value}" for name, value in progress.values.items())
        print(f"{progress.stage} {values}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
