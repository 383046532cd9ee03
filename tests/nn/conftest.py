"""What every test of nn runs with: one thread, since tiny operators lose more by waiting than they gain."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    torch = pytest.importorskip("torch", reason="training needs torch: pip install 'edgekit[train]'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
