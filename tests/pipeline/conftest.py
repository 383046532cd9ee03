"""What the tests of the pipeline run with: one thread, and on request a clock that no machine disturbs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.pipeline import runs


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def steady_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.use_steady_clock(monkeypatch)
