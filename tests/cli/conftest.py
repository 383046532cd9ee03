"""Running the command line inside the test's own process, in an empty folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edgekit.cli.main import main


@dataclass(frozen=True)
class Outcome:
    exit_code: int
    stdout: str
    stderr: str

    @property
    def envelope(self) -> dict[str, Any]:
        """The only thing on standard output, or the test fails here."""
        return dict(json.loads(self.stdout))


Invoke = Callable[..., Outcome]


@pytest.fixture
def invoke(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """``invoke("target", "list")`` with an empty current folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Outcome:
        exit_code = main(args)
        captured = capfd.readouterr()
        return Outcome(exit_code, captured.out, captured.err)

    return run
