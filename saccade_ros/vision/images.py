"""Any image message, raw or compressed, to RGB picture."""

from typing import TypeAlias

from saccade_ros.frames import Picture
from saccade_ros.vision.compressed import check_compressed, decode_compressed
from saccade_ros.vision.messages import CompressedImage, RawImage
from saccade_ros.vision.raw import Convert, check_raw, convert_with_rosbags, decode_raw

Image: TypeAlias = RawImage | CompressedImage


def check_image(image: Image, max_pixels: int) -> tuple[int, int]:
    """Check all that the image says about itself, in constant time: no pixel is read.

    Returns:
        Height and width in pixels.

    Raises:
        MalformedImage: it holds no picture, or one of more than `max_pixels`.
    """
    if isinstance(image, CompressedImage):
        header = check_compressed(image, max_pixels)
        return header.height, header.width
    check_raw(image, max_pixels)
    return image.height, image.width


def decode_image(image: Image, max_pixels: int, convert: Convert = convert_with_rosbags) -> Picture:
    """Decode an image message.

    Args:
        convert: turns checked and packed raw images into an encoding.

    Returns:
        RGB, uint8, (height, width, 3); C-contiguous, and perhaps in the message's own memory.

    Raises:
        MalformedImage: see check_image; or compressed data is cut or damaged.
    """
    if isinstance(image, CompressedImage):
        return decode_compressed(image, max_pixels)
    return decode_raw(image, max_pixels, convert)
