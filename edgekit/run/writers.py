"""Outcomes as text: CSV for tables, JSON lines for programs.

Only written to the text stream that is given; no file is opened here.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from typing import TextIO

from edgekit.run.outcomes import Failed, Outcome


def write_csv(outcomes: Iterable[Outcome], stream: TextIO, *, top: int = 1) -> None:
    """A header, then one row per outcome: path, label, score, error, and label_2, score_2, ... for ``top`` > 1.

    Cells are quoted as RFC 4180 says, rows end in a line feed. Each row is written as its outcome comes in.
    """
    ranks = range(2, top + 1)
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(
        ["path", "label", "score", "error", *(name for rank in ranks for name in (f"label_{rank}", f"score_{rank}"))]
    )
    for outcome in outcomes:
        writer.writerow(_row(outcome, top))


def write_json_lines(outcomes: Iterable[Outcome], stream: TextIO) -> None:
    """One JSON object per line: ``{"path", "label", "score", "top": [{"label", "score"}, ...]}`` or
    ``{"path", "error"}``. Each line is written as its outcome comes in."""
    for outcome in outcomes:
        stream.write(json.dumps(_object(outcome), ensure_ascii=False) + "\n")


def printable(path: str) -> str:
    """A path that any UTF-8 stream takes: bytes that are no UTF-8 become ``\\\\xNN``, all else stays."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _row(outcome: Outcome, top: int) -> list[str]:
    if isinstance(outcome, Failed):
        return [printable(outcome.path), "", "", outcome.reason, *[""] * (2 * (top - 1))]
    others = [cell for score in outcome.top[1:top] for cell in (score.label, f"{score.score:.6f}")]
    missing = 2 * (top - 1) - len(others)
    return [printable(outcome.path), outcome.label, f"{outcome.score:.6f}", "", *others, *[""] * missing]


def _object(outcome: Outcome) -> dict[str, object]:
    if isinstance(outcome, Failed):
        return {"path": printable(outcome.path), "error": outcome.reason}
    top = [{"label": score.label, "score": score.score} for score in outcome.top]
    return {"path": printable(outcome.path), "label": outcome.label, "score": outcome.score, "top": top}
