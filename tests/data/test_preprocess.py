"""Decoding, resizing and normalising images, the same for training and for the runner."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edgekit.data.preprocess import (
    check_image_size,
    check_preprocessing,
    decode_image,
    match_channels,
    measure,
    network_input,
    normalise,
    resize,
)
from edgekit.errors import BadInputError, DataError, UsageError
from edgekit.types import Preprocessing
from tests.data.sources import random_pixels, write_image

GREY = Preprocessing(input_shape=(1, 6, 5), mean=(0.25,), std=(0.5,))
COLOUR = Preprocessing(input_shape=(3, 6, 5), mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7))


@given(count=st.integers(1, 40), height=st.integers(1, 9), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_measured_constants_are_the_mean_and_standard_deviation(count: int, height: int, width: int, seed: int) -> None:
    images = random_pixels(count + 3, (3, height, width), seed)
    scaled = images[3:].astype(np.float64) / 255
    expected_std = scaled.std(axis=(0, 2, 3))

    measured = measure(images, np.arange(3, count + 3))

    assert np.allclose(measured.mean, scaled.mean(axis=(0, 2, 3)))
    assert np.allclose(measured.std, np.where(expected_std < 1e-3, 1.0, expected_std))


def test_what_is_measured_normalises_to_mean_0_and_deviation_1() -> None:
    images = random_pixels(50, (3, 6, 5))

    result = normalise(images, measure(images, np.arange(50)))

    assert np.allclose(result.mean(axis=(0, 2, 3)), 0, atol=1e-5) and np.allclose(
        result.std(axis=(0, 2, 3)), 1, atol=1e-5
    )


def test_a_constant_channel_has_the_deviation_1() -> None:
    assert measure(np.full((4, 1, 6, 5), 77, np.uint8), np.arange(4)).std == (1.0,)


def test_bytes_and_floats_of_the_same_image_normalise_alike() -> None:
    images = random_pixels(3)

    assert np.allclose(normalise(images, GREY), normalise(images.astype(np.float32) / 255, GREY), atol=1e-6)


def test_normalising_leaves_the_images_as_they_were() -> None:
    images = random_pixels(3).astype(np.float32) / 255
    before = images.copy()

    normalise(images, GREY)

    assert np.array_equal(images, before)


def test_grey_becomes_colour_by_repetition() -> None:
    image = random_pixels(1)[0]

    assert np.array_equal(match_channels(image, 3), np.repeat(image, 3, axis=0))


def test_colour_becomes_grey_by_the_luma_of_bt_601() -> None:
    image = random_pixels(1, (3, 6, 5))[0]
    luma = np.tensordot([0.299, 0.587, 0.114], image, axes=1)

    assert np.abs(match_channels(image, 1)[0] - luma).max() <= 1


def test_float_colour_becomes_grey_like_bytes() -> None:
    image = random_pixels(1, (3, 6, 5))[0]

    difference = match_channels(image.astype(np.float32) / 255, 1) - match_channels(image, 1) / 255

    assert np.abs(difference).max() < 1 / 255


@given(
    channels=st.sampled_from([1, 3]),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    wanted=st.tuples(st.integers(1, 20), st.integers(1, 20)),
)
def test_an_array_is_resized_as_its_image_file_is(
    channels: int, size: tuple[int, int], wanted: tuple[int, int]
) -> None:
    pixels = random_pixels(1, (channels, *size))[0]
    image = Image.fromarray(pixels[0] if channels == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    by_pillow = np.asarray(image.resize((wanted[1], wanted[0]), Image.Resampling.BILINEAR))

    resized = resize(pixels, wanted)

    assert np.array_equal(resized, by_pillow[None] if channels == 1 else by_pillow.transpose(2, 0, 1))


def test_a_file_gives_the_network_the_same_input_as_the_data_set(tmp_path: Path) -> None:
    pixels = random_pixels(1, (3, 6, 5))
    path = write_image(tmp_path / "a.png", pixels[0])

    assert np.array_equal(network_input(decode_image(path, (6, 5)), COLOUR), normalise(pixels, COLOUR))


@pytest.mark.parametrize("mode", ["1", "L", "LA"])
def test_grey_modes_have_one_channel(tmp_path: Path, mode: str) -> None:
    Image.new(mode, (5, 6)).save(tmp_path / "a.png")

    assert decode_image(tmp_path / "a.png").shape == (1, 6, 5)


@pytest.mark.parametrize(("mode", "suffix"), [("RGB", "png"), ("RGBA", "png"), ("P", "png"), ("CMYK", "jpg")])
def test_colour_modes_have_three_channels(tmp_path: Path, mode: str, suffix: str) -> None:
    Image.new(mode, (5, 6)).save(tmp_path / f"a.{suffix}")

    assert decode_image(tmp_path / f"a.{suffix}").shape == (3, 6, 5)


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "webp", "ppm"])
def test_lossless_formats_come_back_exactly(tmp_path: Path, suffix: str) -> None:
    pixels = random_pixels(1, (3, 6, 5))[0]
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 2, 0))).save(path, lossless=True)

    assert np.array_equal(decode_image(path), pixels)


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    levels = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")

    assert decode_image(tmp_path / "a.png").tolist() == [[[0, 1, 128, 255]]]


def test_the_orientation_of_a_photograph_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(tmp_path / "a.jpg", exif=exif)

    assert decode_image(tmp_path / "a.jpg").shape == (3, 40, 20)


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 5), np.float32)).save(tmp_path / "a.tif")

    with pytest.raises(DataError, match="pixel format is 'F'"):
        decode_image(tmp_path / "a.tif")


def test_postscript_is_never_opened(tmp_path: Path) -> None:
    Image.new("RGB", (5, 6)).save(tmp_path / "a.png", format="EPS")

    with pytest.raises(DataError, match="none of the image formats"):
        decode_image(tmp_path / "a.png")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.data.preprocess.MAX_IMAGE_PIXELS", 29)
    path = write_image(tmp_path / "a.png", random_pixels(1)[0])

    with pytest.raises(DataError, match="5 x 6 pixels; allowed are 29"):
        decode_image(path)


@pytest.mark.parametrize("name", ["absent.png", "x" * 300, "nul\0byte"])
def test_a_file_that_cannot_be_there_is_called_absent(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="there is no such file"):
        decode_image(tmp_path / name)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (5, 10**9)])
def test_sizes_out_of_range_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match="image_size"):
        check_image_size(size)


@pytest.mark.parametrize("shape", [(784,), (2, 6, 5), (1, 6, 10**9), (1, 1, 6, 5)])
def test_input_shapes_that_no_image_has_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(BadInputError, match="input_shape"):
        check_preprocessing(Preprocessing(input_shape=shape, mean=(0.0,), std=(1.0,)), "'model.onnx'")
