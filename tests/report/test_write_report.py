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


@pytest.mark.parametrize("name", ["result.html", "config.html", "profile.htm"])
def test_a_page_inside_a_run_costs_none_of_its_files(write_run: WriteRun, name: str) -> None:
    directory = write_run()
    victim = (directory / name).with_suffix(".json")
    victim.write_bytes((directory / "result.json").read_bytes())
    before = victim.read_bytes()

    with pytest.raises(UsageError, match=f"{victim}: the report .* would replace"):
        write_report([directory], directory / name)

    assert victim.read_bytes() == before and not (directory / name).exists()


@pytest.mark.parametrize(
    "content", [b"", b"path,label,score,error\na.png,light,0.9,\n", b"run,model,data\nmine,a,b\n"], ids=len
)
def test_a_table_that_no_report_wrote_stays_and_so_does_all_else(
    write_run: WriteRun, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "labels.csv").write_bytes(content)

    with pytest.raises(UsageError, match=r"labels\.csv"):
        write_report([write_run()], tmp_path / "labels.html")

    assert (tmp_path / "labels.csv").read_bytes() == content
    assert not (tmp_path / "labels.json").exists()


def test_a_link_to_nowhere_is_not_written_through(write_run: WriteRun, tmp_path: Path) -> None:
    (tmp_path / "page.json").symlink_to(tmp_path / "elsewhere.json")

    with pytest.raises(UsageError, match=r"page\.json"):
        write_report([write_run()], tmp_path / "page.html")

    assert not (tmp_path / "elsewhere.json").exists()


def test_what_an_earlier_report_wrote_is_replaced(write_run: WriteRun, tmp_path: Path) -> None:
    output = write_report([write_run("first", name="first")], tmp_path / "report.html")

    write_report([write_run("second", name="second")], output)

    beside = [output.with_suffix(suffix).read_text() for suffix in (".csv", ".json")]
    assert ["second" in text and "first" not in text for text in beside] == [True, True]
