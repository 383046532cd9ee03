"""The CSV and JSON files hold one row per model point, unrounded, and nothing that a spreadsheet would run."""

from __future__ import annotations

import csv
import json

import pytest

from edgekit.report.rows import as_csv, as_json, point_rows
from edgekit.report.runs import Run
from tests.report.results import make_point, make_result


def rows_of(**changes: object) -> list[dict[str, str]]:
    run = Run(label="run", anchor="run-1", result=make_result(**changes))
    return list(csv.DictReader(as_csv(point_rows([run])).decode().splitlines()))


def test_every_point_has_a_row_in_order() -> None:
    assert [row["point"] for row in rows_of()] == [point.name for point in make_result().points]


def test_numbers_are_not_rounded() -> None:
    row = rows_of(points=(make_point("a", "dense", 1 / 3, 100.0, 123.456789),))[0]

    assert (float(row["accuracy"]), float(row["measured_us"])) == (1 / 3, 123.456789)


def test_a_point_that_was_not_measured_has_neither_error_nor_verdict() -> None:
    row = rows_of(points=(make_point("a", "swept", 0.9, 100.0, None),))[0]

    assert [row[name] for name in ("measured_us", "relative_error", "within_budget")] == ["", "", ""]


@pytest.mark.parametrize(("measured_us", "within"), [(499.0, "true"), (511.0, "false")])
def test_a_measured_point_is_within_the_budget_or_not(measured_us: float, within: str) -> None:
    assert rows_of(points=(make_point("a", "swept", 0.9, 1.0, measured_us),))[0]["within_budget"] == within


@pytest.mark.parametrize("name", ["=1+1", "+cmd|' /C calc'!A0", "-1", "@SUM(A1)", "\t=1"])
def test_a_name_that_a_spreadsheet_would_run_is_made_text(name: str) -> None:
    row = rows_of(points=(make_point(name, "dense", 0.9, 1.0, 1.0),))[0]

    assert row["point"] == f"'{name}"


def test_the_json_file_holds_names_as_they_are() -> None:
    run = Run(label="run", anchor="run-1", result=make_result(points=(make_point("=1+1", "dense", 0.9, 1.0, None),)))

    data = json.loads(as_json(point_rows([run])))

    assert data["schema"] == 1
    assert (data["points"][0]["point"], data["points"][0]["measured_us"]) == ("=1+1", None)
