"""Batches are a function of seed, stage and step; an epoch shows every sample once; augmentation moves whole pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from edgekit.train.batches import (
    SHIFT_PIXELS,
    Augmentation,
    Split,
    augment,
    batch_at,
    in_order,
    spread,
    steps_per_epoch,
)
from edgekit.train.randomness import generator
from tests.train import small

AUGMENTATIONS: tuple[Augmentation, ...] = ("none", "shift", "flip", "shift+flip")


def counting_split(count: int, size: int = 4) -> Split:
    """Images without a pattern; the label of each is its index."""
    samples = torch.arange(count * size * size).remainder(251).to(torch.uint8).reshape(count, 1, size, size)
    return Split(samples, torch.arange(count), torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1))


def test_the_same_step_gives_the_same_batch() -> None:
    split = small.split()
    first = batch_at(split, 16, "shift+flip", seed=5, stage="dense", step=7)
    batch_at(split, 16, "shift+flip", seed=5, stage="dense", step=2)

    again = batch_at(split, 16, "shift+flip", seed=5, stage="dense", step=7)

    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])


@pytest.mark.parametrize("other", [{"seed": 6}, {"stage": "search"}, {"step": 8}])
def test_another_seed_stage_or_step_gives_another_batch(other: dict[str, object]) -> None:
    place: dict[str, object] = {"seed": 5, "stage": "dense", "step": 7}
    first = batch_at(counting_split(60), 16, "none", **place)  # type: ignore[arg-type]

    second = batch_at(counting_split(60), 16, "none", **(place | other))  # type: ignore[arg-type]

    assert not torch.equal(first[1], second[1])


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), epoch=st.integers(0, 3))
def test_an_epoch_shows_no_sample_twice_and_leaves_out_less_than_a_batch(
    count: int, batch_size: int, epoch: int
) -> None:
    split = counting_split(count)
    steps = range(epoch * steps_per_epoch(split, batch_size), (epoch + 1) * steps_per_epoch(split, batch_size))

    seen = torch.cat([batch_at(split, batch_size, "none", 1, "dense", step)[1] for step in steps])

    assert len(set(seen.tolist())) == len(seen) > count - batch_size


def test_two_epochs_have_different_orders() -> None:
    split = counting_split(40)

    first, second = (batch_at(split, 40, "none", 1, "dense", epoch)[1] for epoch in (0, 1))

    assert not torch.equal(first, second)


def test_labels_follow_their_images() -> None:
    split = counting_split(30)

    inputs, labels = batch_at(split, 10, "none", 1, "dense", 4)

    assert torch.equal(inputs, split.inputs(labels))


@given(
    augmentation=st.sampled_from(AUGMENTATIONS),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
)
def test_augmentation_keeps_shape_and_type(augmentation: Augmentation, shape: tuple[int, int, int, int]) -> None:
    inputs = torch.rand(shape)

    augmented = augment(inputs, augmentation, generator(0, "test"))

    assert augmented.shape == inputs.shape and augmented.dtype == inputs.dtype


def test_vectors_are_not_augmented() -> None:
    inputs = torch.rand(4, 9)

    assert augment(inputs, "shift+flip", generator(0, "test")) is inputs


def test_a_flip_mirrors_some_images_and_leaves_the_others() -> None:
    inputs = torch.rand(64, 2, 3, 5)

    augmented = augment(inputs, "flip", generator(0, "test"))

    mirrored = [torch.equal(after, before.flip(2)) for before, after in zip(inputs, augmented, strict=True)]
    kept = [torch.equal(after, before) for before, after in zip(inputs, augmented, strict=True)]
    assert [not m for m in mirrored] == kept and 16 < sum(mirrored) < 48


def test_a_shift_moves_each_image_by_up_to_two_pixels_and_repeats_its_edge() -> None:
    inputs = torch.rand(80, 2, 5, 6)

    augmented = augment(inputs, "shift", generator(0, "test"))

    moves = {_move(before.numpy(), after.numpy()) for before, after in zip(inputs, augmented, strict=True)}
    assert len(moves) > 15 and {move[0] for move in moves} == {move[1] for move in moves} == set(range(5))


def _move(before: np.ndarray, after: np.ndarray) -> tuple[int, int]:  # type: ignore[type-arg]
    """Offset at which ``after`` lies in ``before`` with its edge repeated on all sides; fails if it lies nowhere."""
    _, height, width = before.shape
    padded = np.pad(before, ((0, 0), (SHIFT_PIXELS, SHIFT_PIXELS), (SHIFT_PIXELS, SHIFT_PIXELS)), mode="edge")
    offsets = [(down, right) for down in range(5) for right in range(5)]
    return next(o for o in offsets if np.array_equal(padded[:, o[0] : o[0] + height, o[1] : o[1] + width], after))


def test_bytes_are_scaled_to_one_and_normalised() -> None:
    split = small.split(6)

    inputs = split.inputs(torch.tensor([4]))

    expected = (split.samples[4].float() / 255 - 0.3) / 0.2
    torch.testing.assert_close(inputs[0], expected)


@pytest.mark.parametrize("indices", [slice(0, 4), slice(None), torch.tensor([1, 2])])
def test_reading_float_samples_does_not_change_them(indices: torch.Tensor | slice) -> None:
    samples = torch.rand(6, 1, 3, 3)
    split = Split(samples.clone(), torch.zeros(6).long(), torch.full((1, 1, 1, 1), 0.5), torch.full((1, 1, 1, 1), 2.0))

    split.inputs(indices)

    assert torch.equal(split.samples, samples)


@given(count=st.integers(1, 30), batch_size=st.integers(1, 40))
def test_evaluation_reads_every_sample_once_and_in_order(count: int, batch_size: int) -> None:
    split = counting_split(count)

    labels = torch.cat([labels for _, labels in in_order(split, batch_size)])

    assert torch.equal(labels, torch.arange(count))


@given(st.integers(1, 5000), st.integers(1, 3000))
def test_spread_indices_are_distinct_and_reach_from_end_to_end(count: int, limit: int) -> None:
    indices = spread(count, limit)
    assert len(indices) == min(count, limit) == len(set(indices.tolist()))
    assert indices[0] == 0 and (limit == 1 or indices[-1] == count - 1)
