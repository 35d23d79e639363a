"""Preprocessing of pictures to the encoder's input: square, normalised, channels first.

`crop` is the checkpoints' evaluation transform, transformers' VJEPA2VideoProcessor: shorter side to 256/224
of the input size, bilinear with antialiasing, then the centre. Up to an aspect ratio of 2:1 the geometry is
the same to the pixel; grey levels differ by 0.4 to 0.9 on average on camera pictures, as OpenCV antialiases
with a box where torch uses a triangle.
"""

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import IMAGENET_MEAN, IMAGENET_STD, Picture, Pixels, View

# (value / 255 - mean) / std as one multiply and one add
_SCALE = (1 / (255 * np.array(IMAGENET_STD))).astype(np.float32)[:, None, None]  # (3, 1, 1)
_SHIFT = (-np.array(IMAGENET_MEAN) / np.array(IMAGENET_STD)).astype(np.float32)[:, None, None]  # (3, 1, 1)


def tubelet_pixels(older: Picture, newer: Picture, size: int, fit: str) -> Pixels:
    """Preprocess two pictures to one tubelet: float32 (2, 3, size, size), C-contiguous."""
    pixels = np.empty((2, 3, size, size), np.float32)
    for picture, out in zip((older, newer), pixels, strict=True):
        normalize(resize_to_square(picture, size, fit), out)
    return pixels


def resize_to_square(picture: Picture, size: int, fit: str) -> Picture:
    """Resize to uint8 (size, size, 3): the picture's centre for fit 'crop', all of it, distorted, for 'stretch'.

    Raises:
        ValueError: `fit` is neither.
    """
    if fit == "stretch":
        return _resize(picture, size, size)
    if fit == "crop":
        return _resize_and_crop(picture, size)
    raise ValueError(f"fit is {fit!r}: choose crop or stretch")


def view_of(height: int, width: int, size: int, fit: str) -> View:
    """Part of a (height, width) picture that `resize_to_square` keeps, in pixels of that picture."""
    if fit == "stretch":
        return View(0.0, 0.0, float(height), float(width))
    trimmed_top, trimmed_left = max(0, height - 2 * width) // 2, max(0, width - 2 * height) // 2
    rows, columns = height - 2 * trimmed_top, width - 2 * trimmed_left
    new_height, new_width = _resized(rows, columns, size)
    down, right = rows / new_height, columns / new_width  # picture pixels per input pixel
    top, left = (new_height - size) // 2, (new_width - size) // 2
    return View(trimmed_top + top * down, trimmed_left + left * right, size * down, size * right)


def normalize(picture: Picture, out: Pixels | None = None) -> Pixels:
    """Subtract ImageNet's mean and divide by its standard deviation: float32 (3, H, W), in `out` if given."""
    pixels: Pixels = np.multiply(picture.transpose(2, 0, 1), _SCALE, out=out, order="C")  # (3, H, W)
    pixels += _SHIFT
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
    return _resize(picture, new_width, new_height)[top : top + size, left : left + size]  # (size, size, 3)


def _resized(height: int, width: int, size: int) -> tuple[int, int]:
    """Height and width of the whole picture once its shorter side is 256/224 of the input."""
    shorter = int(size * 256 / 224)
    return int(shorter * height / min(height, width)), int(shorter * width / min(height, width))


def _trim(picture: Picture) -> Picture:
    """Cut the ends off a picture longer than 2:1: however long, they would be resized to be thrown away."""
    height, width = picture.shape[:2]
    top, left = max(0, height - 2 * width) // 2, max(0, width - 2 * height) // 2
    return picture[top : height - top, left : width - left]


def _resize(picture: Picture, width: int, height: int) -> Picture:
    """Shrink by averaging areas, then grow bilinearly: antialiased on each axis, whatever the other does.

    A whole factor goes first: up to three times faster, and two boxes are nearer to a triangle than one.
    """
    factor = _whole_factor(picture, width, height)
    if factor > 1:
        picture = _area(picture, picture.shape[1] // factor, picture.shape[0] // factor)
    picture = _area(picture, min(width, picture.shape[1]), min(height, picture.shape[0]))
    if picture.shape[:2] != (height, width):
        return cast("Picture", cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR))
    return picture


def _whole_factor(picture: Picture, width: int, height: int) -> int:
    """The largest factor that divides both sides and leaves them no smaller than asked for."""
    rows, columns = picture.shape[:2]
    largest = max(1, min(rows // height, columns // width))
    return next(factor for factor in range(largest, 0, -1) if rows % factor == columns % factor == 0)


def _area(picture: Picture, width: int, height: int) -> Picture:
    return cast("Picture", cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA))
