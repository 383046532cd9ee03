"""Run directories for the tests of the report."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.report.results import WriteRun, make_result


@pytest.fixture
def write_run(tmp_path: Path) -> WriteRun:
    """Writes a run directory, named by its first argument, whose result has the given fields replaced."""

    def write(directory: str = "run", **changes: object) -> Path:
        folder = tmp_path / "runs" / directory
        folder.mkdir(parents=True)
        (folder / "result.json").write_bytes(msgspec.json.encode(make_result(**changes)))
        return folder

    return write
