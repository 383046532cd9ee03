"""What every test runs with: telemetry off, no colours, one width of the terminal, repeatable examples in CI.

Fixtures of one part of edgekit are in that part's own conftest.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

# Examples take as long as the machine is busy: a deadline would fail for other people's load.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


# Hundreds of commands over adb into a phone's root: on a busy machine one in some hundred is too slow for the stand-in,
# and fails. Until that is found, they run when asked for: EDGEKIT_TEST_PHONES=1.
collect_ignore = (
    [] if os.environ.get("EDGEKIT_TEST_PHONES") == "1" else ["devices/test_adb.py", "devices/test_android.py"]
)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.fixture(autouse=True)
def ctrl_c_is_not_ignored() -> Iterator[None]:
    """What runs in the background inherits an ignored SIGINT, and no test could press Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
