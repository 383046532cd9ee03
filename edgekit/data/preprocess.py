"""How an image becomes the input of a network: decoding, sizes, channels, normalisation and its measured constants.

Training and the runner both go through these functions, so that both see the same numbers; no file format but the
image formats of Pillow is known here, and nothing is augmented.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from edgekit.data._base import MAX_SIDE, ImageArray, IndexArray
from edgekit.errors import BadInputError, DataError, UsageError
from edgekit.types import Preprocessing

# Named one by one because Pillow also knows formats that start other programs (EPS runs Ghostscript).
IMAGE_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm"}
)
MAX_IMAGE_PIXELS = 2**26
"""Most pixels of one encoded image; Pillow's own bound against decompression bombs (0.09 G) stays in force above it."""

_GREY_MODES = ("1", "L", "LA", "La")
_COLOUR_MODES = ("RGB", "RGBA", "RGBX", "RGBa", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
# A quarter of one grey level: below it a channel is constant up to rounding, and dividing by it only blows up noise.
_SMALLEST_STD = 1e-3
_CHUNK_VALUES = 2**22


def decode_image(path: Path, image_size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """One image file as uint8 (channels, height, width), channels 1 for grey and 3 for colour.

    The first frame counts, EXIF orientation is applied, transparency is dropped, 16-bit grey is scaled to 8 bits, and
    ``image_size`` (height, width) is reached by bilinear sampling without keeping the aspect ratio. Raises DataError
    for whatever cannot be decoded in full; the message is the reason alone, for a caller who names the file.
    """
    # os.path, because Path.is_file raises for names that are too long or lie in a closed folder.
    if not os.path.isfile(path):
        raise DataError("it is not a regular file" if os.path.exists(path) else "there is no such file")
    try:
        with Image.open(path, formats=IMAGE_FORMATS) as image:
            _check_pixels(image)
            return _to_array(_to_eight_bits(ImageOps.exif_transpose(image)), image_size)
    except DataError:
        raise
    except Exception as error:  # Pillow's decoders raise almost any type on damaged files, SyntaxError among them.
        raise DataError(_reason(error)) from error


def match_channels(image: ImageArray, channels: int) -> ImageArray:
    """An image (1 or 3, height, width) with ``channels`` channels: grey is repeated, colour becomes ITU-R 601 luma."""
    if image.shape[0] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=0)
    if image.dtype == np.uint8:
        return np.asarray(Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).convert("L"))[None]
    luma = np.array([0.299, 0.587, 0.114], dtype=image.dtype)
    return np.asarray(np.tensordot(luma, image, axes=1)[None], dtype=image.dtype)


def resize(image: ImageArray, image_size: tuple[int, int]) -> ImageArray:
    """An image (channels, height, width) at ``image_size`` (height, width), by bilinear sampling of each channel."""
    if image.shape[1:] == image_size:
        return image
    height, width = image_size
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize((width, height), Image.Resampling.BILINEAR))
        for plane in image
    ]
    return np.stack(planes)


def normalise(images: ImageArray, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """``(x / 255 - mean) / std`` per channel for uint8, ``(x - mean) / std`` for float images that are in [0, 1].

    ``images`` is (samples, channels, height, width); the result has the same shape, is float32 and is always new.
    """
    mean = np.array(preprocessing.mean, dtype=np.float32)[None, :, None, None]
    std = np.array(preprocessing.std, dtype=np.float32)[None, :, None, None]
    result = images.astype(np.float32)
    if images.dtype == np.uint8:
        result /= np.float32(255)
    result -= mean
    result /= std
    return result


def network_input(image: ImageArray, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """One decoded image (1 or 3, height, width) as a batch of one, float32 (1, channels, height, width)."""
    channels, height, width = preprocessing.input_shape
    fitted = match_channels(resize(image, (height, width)), channels)
    return normalise(fitted[None], preprocessing)


def measure(images: ImageArray, indices: IndexArray) -> Preprocessing:
    """Mean and standard deviation per channel, on the [0, 1] scale, of the samples at ``indices``.

    A channel that is constant up to rounding gets the standard deviation 1.
    """
    channels = images.shape[1]
    total, squares = np.zeros(channels), np.zeros(channels)
    step = max(1, _CHUNK_VALUES // max(1, int(np.prod(images.shape[1:]))))
    for start in range(0, len(indices), step):
        values = images[indices[start : start + step]].astype(np.float64)
        total += values.sum(axis=(0, 2, 3))
        squares += np.square(values, out=values).sum(axis=(0, 2, 3))
    count = len(indices) * images.shape[2] * images.shape[3]
    scale = 255.0 if images.dtype == np.uint8 else 1.0
    mean = total / count / scale
    std = np.sqrt(np.maximum(squares / count / scale**2 - mean**2, 0.0))
    std[std < _SMALLEST_STD] = 1.0
    return Preprocessing(
        input_shape=tuple(images.shape[1:]),
        mean=tuple(float(value) for value in mean),
        std=tuple(float(value) for value in std),
    )


def check_preprocessing(preprocessing: Preprocessing, source: str) -> None:
    """Refuse, with BadInputError, a shape that no image can be brought to: it may come out of a stranger's file."""
    shape = preprocessing.input_shape
    if len(shape) != 3 or shape[0] not in (1, 3) or max(shape[1:]) > MAX_SIDE:
        raise BadInputError(
            f"{source}: the preprocessing has input_shape {shape}; allowed is (1 or 3, height, width) with sides of at "
            f"most {MAX_SIDE} pixels"
        )


def check_image_size(image_size: tuple[int, int]) -> None:
    """Refuse an (height, width) outside 1 to MAX_SIDE pixels with UsageError."""
    if len(image_size) != 2 or not all(1 <= side <= MAX_SIDE for side in image_size):
        raise UsageError(
            f"image_size is {tuple(image_size)}; allowed is (height, width) with 1 to {MAX_SIDE} pixels each"
        )


def _check_pixels(image: Image.Image) -> None:
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise DataError(f"it has {image.width} x {image.height} pixels; allowed are {MAX_IMAGE_PIXELS}")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in _GREY_MODES:
        return image.convert("L")
    if image.mode.startswith("I;16"):
        # convert("L") clips 16-bit values at 255 instead of scaling them.
        return Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    if image.mode in _COLOUR_MODES:
        return image.convert("RGB")
    raise DataError(f"its pixel format is {image.mode!r}; allowed are grey and colour with 8 bits, and 16-bit grey")


def _to_array(image: Image.Image, image_size: tuple[int, int] | None) -> NDArray[np.uint8]:
    if image_size is not None and (image.height, image.width) != image_size:
        image = image.resize((image_size[1], image_size[0]), Image.Resampling.BILINEAR)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"it is none of the image formats {', '.join(IMAGE_FORMATS)}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return " ".join(str(error).split()) or type(error).__name__
