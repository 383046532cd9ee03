"""Random numbers depend on the seed and the place alone."""

from __future__ import annotations

import pytest
import torch

from edgekit.train.randomness import generator


def test_the_same_place_draws_the_same_numbers() -> None:
    torch.rand(3)

    first, second = (torch.rand(5, generator=generator(4, "search", "step", 17)) for _ in range(2))

    assert torch.equal(first, second)


@pytest.mark.parametrize("other", [(5, "search", "step", 17), (4, "dense", "step", 17), (4, "search", "step", 18)])
def test_another_place_draws_other_numbers(other: tuple[int | str, ...]) -> None:
    first = torch.rand(5, generator=generator(4, "search", "step", 17))

    assert not torch.equal(first, torch.rand(5, generator=generator(*other)))  # type: ignore[arg-type]
