"""``write_report`` writes one page and two data files, or says why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.errors import UsageError
from edgekit.report import write_report
from tests.report.results import WriteRun


def test_a_page_is_written_with_csv_and_json_beside_it(write_run: WriteRun, tmp_path: Path) -> None:
    output = write_report([write_run()], tmp_path / "new" / "report.html")

    assert sorted(path.name for path in output.parent.iterdir()) == ["report.csv", "report.html", "report.json"]


def test_the_page_is_the_same_when_written_again(write_run: WriteRun, tmp_path: Path) -> None:
    directory = write_run()

    first = write_report([directory], tmp_path / "a.html").read_bytes()

    assert write_report([directory], tmp_path / "b.html").read_bytes() == first


@pytest.mark.parametrize("name", ["report", "report.csv", "report.json"])
def test_an_output_that_is_no_page_is_refused_before_anything_is_written(
    write_run: WriteRun, tmp_path: Path, name: str
) -> None:
    with pytest.raises(UsageError, match=r"\.html"):
        write_report([write_run()], tmp_path / name)

    assert not (tmp_path / name).exists()
