"""``edgekit report``: runs by name or directory become a page, with data beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.codec import write_result
from tests.cli.conftest import Invoke
from tests.cli.results import make_result


@pytest.fixture
def run(invoke: Invoke) -> str:
    """The name of a finished run in ./runs."""
    Path("runs/first").mkdir(parents=True)
    write_result(Path("runs/first/result.json"), make_result("first"))
    return "first"


def test_a_run_becomes_a_page(run: str, invoke: Invoke) -> None:
    outcome = invoke("report", run)

    assert (outcome.exit_code, Path("report.html").read_text().startswith("<!")) == (0, True)


def test_every_file_that_was_written_is_named(run: str, invoke: Invoke) -> None:
    files = invoke("report", run, "--output", "page.html", "--json").envelope["data"]["files"]

    assert files == ["page.html", "page.csv", "page.json"]
    assert all(Path(name).exists() for name in files)


def test_a_run_that_is_not_there_is_a_usage_error(invoke: Invoke) -> None:
    assert invoke("report", "first", "--json").exit_code == 2


def test_a_run_that_is_not_finished_is_bad_input(invoke: Invoke) -> None:
    Path("runs/first").mkdir(parents=True)

    assert invoke("report", "first", "--json").exit_code == 3
