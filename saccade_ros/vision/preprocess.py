"""Preprocessing of pictures to the encoder's input: square, normalised, channels first.

`crop` is the checkpoints' evaluation transform, transformers' VJEPA2VideoProcessor: shorter side to 256/224
of the input size, bilinear with antialiasing, then the centre. Up to an aspect ratio of 2:1 the geometry is
the same to the pixel; grey levels differ by 0.4 to 0.9 on average on camera pictures, as OpenCV antialiases
with a box where torch uses a triangle.
"""

import math
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD, Picture, Pixels, View

# (value / 255 - mean) / std as one multiply and one add
_SCALE = (1 / (255 * np.array(IMAGENET_STD))).astype(np.float32)[:, None, None]  # (3, 1, 1)
_SHIFT = (-np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)).astype(np.float32)[:, None, None]  # (3, 1, 1)
_NORMALIZED = _SCALE[..., 0] * np.arange(256, dtype=np.float32) + _SHIFT[..., 0]  # (3, 256), of each grey level


def tubelet_pixels(older: Picture, newer: Picture, size: int, fit: str) -> Pixels:
    """Preprocess two pictures to one tubelet: float32 (2, 3, size, size), C-contiguous."""
    return pair_pixels(resize_to_square(older, size, fit), resize_to_square(newer, size, fit))


def pair_pixels(older: Picture, newer: Picture) -> Pixels:
    """Normalise two squares to one tubelet: uint8 (size, size, 3) each -> float32 (2, 3, size, size), C-contiguous."""
    pixels = np.empty((2, 3, *newer.shape[:2]), np.float32)
    for square, out in zip((older, newer), pixels, strict=True):
        normalize(square, out)
    return pixels


def resize_to_square(picture: Picture, size: int, fit: str) -> Picture:
    """Resize to uint8 (size, size, 3): the picture's centre for fit 'crop', all of it, distorted, for 'stretch'.

    Raises:
        ValueError: `fit` is neither.
    """
    if fit == "stretch":
        return _resize(picture, size, size, size, size)
    if fit == "crop":
        return _resize_and_crop(picture, size)
    raise ValueError(f"fit is {fit!r}: choose crop or stretch")


def reduction(height: int, width: int, size: int, fit: str) -> int:
    """Factor by which a decoder may shrink a (height, width) picture for `resize_to_square`: 1, 2, 4 or 8.

    It is a part of the whole factor that goes first there, so that the same areas are averaged; all borders stay on
    whole pixels.
    """
    if fit == "stretch":
        return math.gcd(8, _whole_factor(height, width, size, size))
    top, left = _trimmed(height, width)
    rows, columns = height - 2 * top, width - 2 * left
    return math.gcd(8, _whole_factor(rows, columns, *_resized(rows, columns, size)), top, left)


def view_of(height: int, width: int, size: int, fit: str) -> View:
    """Part of a (height, width) picture that `resize_to_square` keeps, in pixels of that picture."""
    if fit == "stretch":
        return View(0.0, 0.0, float(height), float(width))
    trimmed_top, trimmed_left = _trimmed(height, width)
    rows, columns = height - 2 * trimmed_top, width - 2 * trimmed_left
    new_height, new_width = _resized(rows, columns, size)
    down, right = rows / new_height, columns / new_width  # picture pixels per input pixel
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return View(trimmed_top + top * down, trimmed_left + left * right, size * down, size * right)


def normalize(picture: Picture, out: Pixels | None = None) -> Pixels:
    """Subtract ImageNet's mean and divide by its standard deviation: float32 (3, H, W), in `out` if given."""
    height, width, colours = picture.shape
    pixels = np.empty((colours, height, width), np.float32) if out is None else out
    for plane, levels, normalized in zip(cv2.split(picture), _NORMALIZED, pixels, strict=True):
        cv2.LUT(plane, levels, dst=normalized)  # (H, W)
    return pixels


def normalize_all(pictures: npt.NDArray[np.uint8]) -> Pixels:
    """Normalise any number of pictures: uint8 (..., H, W, 3) -> float32 (..., 3, H, W), C-contiguous."""
    *leading, height, width, colours = pictures.shape
    pixels = np.empty((*leading, colours, height, width), np.float32)
    for index in np.ndindex(*leading):
        normalize(pictures[index], pixels[index])
    return pixels


def grey_levels(pixels: Pixels) -> Pixels:
    """Undo the normalisation: float32 (..., 3, H, W) -> grey levels, 0 to 255, of the same shape."""
    levels: Pixels = (pixels - _SHIFT) / _SCALE
    return levels


def _resize_and_crop(picture: Picture, size: int) -> Picture:
    picture = _trim(picture)
    height, width = picture.shape[:2]
    new_height, new_width = _resized(height, width, size)
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return _resize(picture, new_height, new_width, top + size, left + size)[top:, left:]  # (size, size, 3)


def _resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of the whole picture once its shorter side is 256/224 of the input."""
    shorter = int(size * 256 / 224)
    return int(shorter * height / min(height, width)), int(shorter * width / min(height, width))


def _trim(picture: Picture) -> Picture:
    """Cut the ends off a picture longer than 2:1: however long, they would be resized to be thrown away."""
    height, width = picture.shape[:2]
    top, left = _trimmed(height, width)
    return picture[top : height - top, left : width - left]


def _trimmed(height: int, width: int) -> tuple[int, int]:
    """Rows at the top and at the bottom, and columns on either side, that are cut off."""
    return max(0, height - 2 * width) // 2, max(0, width - 2 * height) // 2


def _resize(picture: Picture, height: int, width: int, bottom: int, right: int) -> Picture:
    """Shrink by averaging areas, or grow bilinearly: antialiased on each axis, whatever the other does.

    A whole factor goes first: up to three times faster, and two boxes are nearer to a triangle than one. What is cut
    off at `bottom` and `right` of the resized picture is not made, but for a pixel that lends its neighbour the edge.
    """
    rows, columns = picture.shape[:2]
    factor = _whole_factor(rows, columns, height, width)
    rows, columns = rows // factor, columns // factor
    if rows < height or columns < width:
        shrunk = cv2.resize(picture, (min(width, columns), min(height, rows)), interpolation=cv2.INTER_AREA)
        return cast("Picture", cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)[:bottom, :right])
    down, across = height / rows, width / columns
    picture = picture[: factor * math.ceil((bottom + 1) / down), : factor * math.ceil((right + 1) / across)]
    if factor > 1:
        picture = _area(picture, 1 / factor, 1 / factor)
    return _area(picture, down, across)[:bottom, :right]


def _whole_factor(rows: int, columns: int, height: int, width: int) -> int:
    """The largest factor that divides rows and columns and leaves no fewer than asked for."""
    largest = max(1, min(rows // height, columns // width))
    return next(factor for factor in range(largest, 0, -1) if rows % factor == columns % factor == 0)


def _area(picture: Picture, down: float, across: float) -> Picture:
    return cast("Picture", cv2.resize(picture, None, fx=across, fy=down, interpolation=cv2.INTER_AREA))
