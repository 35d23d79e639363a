"""Any image that may come in, to RGB picture: raw and compressed messages, and pictures decoded already."""

from typing import TypeAlias

import numpy as np

from saccade_ros.frames import Picture
from saccade_ros.vision.compressed import check_compressed, decode_compressed
from saccade_ros.vision.levels import Levels
from saccade_ros.vision.malformed import UNKNOWN_ENCODING, ZERO_SIZE, MalformedImage, check_size
from saccade_ros.vision.messages import CompressedImage, RawImage
from saccade_ros.vision.raw import Convert, check_raw, convert_with_rosbags, decode_raw
from saccade_ros.vision.target import WHOLE, Target

Image: TypeAlias = Picture | RawImage | CompressedImage

_ALL_LEVELS = Levels()


def check_image(image: Image, max_pixels: int) -> tuple[int, int]:
    """Check all that the image says about itself, in constant time: no pixel is read.

    Returns:
        Height and width in pixels.

    Raises:
        MalformedImage: it holds no picture, or one of more than `max_pixels`.
    """
    if isinstance(image, np.ndarray):  # first: isinstance with a Protocol looks the attributes up, one by one
        return _check_picture(image, max_pixels)
    if isinstance(image, CompressedImage):
        header = check_compressed(image, max_pixels)
        return header.height, header.width
    check_raw(image, max_pixels)
    return image.height, image.width


def decode_image(
    image: Image,
    max_pixels: int,
    convert: Convert = convert_with_rosbags,
    levels: Levels = _ALL_LEVELS,
    target: Target = WHOLE,
) -> Picture:
    """Decode an image; of a picture that is decoded already only the size changes.

    Args:
        convert: turns checked and packed raw images into an encoding.
        levels: brings 16-bit samples to 8 bits.
        target: what the picture is wanted for; the whole of it, if not given.

    Returns:
        RGB, uint8, (height, width, 3); the whole from a message C-contiguous, perhaps in the message's own memory.

    Raises:
        MalformedImage: see check_image; or compressed data is cut or damaged.
    """
    if isinstance(image, np.ndarray):
        _check_picture(image, max_pixels)
        return target.resize(image)
    if isinstance(image, CompressedImage):
        return decode_compressed(image, max_pixels, levels, target)
    return decode_raw(image, max_pixels, convert, levels, target)


def _check_picture(picture: Picture, max_pixels: int) -> tuple[int, int]:
    shape, dtype = picture.shape, picture.dtype
    is_rgb = dtype == np.uint8 and len(shape) == 3 and shape[2] == 3
    if not is_rgb or 0 in shape:
        raise MalformedImage(
            ZERO_SIZE if is_rgb else UNKNOWN_ENCODING,
            f"picture is {dtype} {shape}: give RGB uint8 (height, width, 3); decode other encodings first",
        )
    height, width = shape[:2]
    check_size(width, height, max_pixels)
    return height, width


__all__ = ["Convert", "Image", "Levels", "MalformedImage", "check_image", "convert_with_rosbags", "decode_image"]
