"""sensor_msgs/Image to RGB picture.

The colour arithmetic is cv_bridge's on a robot and rosbags-image's elsewhere. Neither may see a message as it
came: rosbags-image ignores `step`; cv_bridge shears a picture whose row padding is no multiple of a pixel,
fails on big-endian data under numpy 2 and knows neither uyvy, yuyv nor NV12, NV21; and they round 16-bit
values differently. So every message is checked, then packed into the plain 8-bit form on which both agree.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Picture
from saccade_ros.vision.encodings import NV_TO_RGB, Layout, layout_of
from saccade_ros.vision.levels import Levels
from saccade_ros.vision.malformed import SHORT_DATA, UNDECODABLE, WRONG_STEP, MalformedImage, check_size
from saccade_ros.vision.messages import RawImage, bytes_of
from saccade_ros.vision.target import Target

Convert = Callable[[RawImage, str], Any]  # such as CvBridge().imgmsg_to_cv2: (message, encoding) -> array


@dataclass(frozen=True, slots=True)
class PackedImage:
    """Raw image as a converter receives it: 8 bits, no row padding, under a name that both converters know."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: npt.NDArray[np.uint8]


def convert_with_rosbags(message: RawImage, encoding: str) -> Any:
    """Convert with rosbags-image, which stands in for CvBridge().imgmsg_to_cv2."""
    from rosbags.image import image_to_cvimage  # here, so that a robot with cv_bridge needs no rosbags-image

    return image_to_cvimage(message, encoding)  # type: ignore[arg-type]  # reads no more than RawImage has


def check_raw(message: RawImage, max_pixels: int) -> Layout:
    """Check that the header fits together and that data is as long as it says; no pixel is read.

    Raises:
        MalformedImage: it does not, or there are more than `max_pixels`.
    """
    width, height, layout = message.width, message.height, layout_of(message.encoding)
    check_size(width, height, max_pixels)
    if height % layout.block[0] or width % layout.block[1] or min(width, height) < layout.min_side:
        raise MalformedImage(
            UNDECODABLE,
            f"the image is {width} x {height} pixels, but {message.encoding} needs a width divisible by "
            f"{layout.block[1]}, a height divisible by {layout.block[0]} and sides of at least "
            f"{layout.min_side}: let the driver crop to such a size",
        )
    row_bytes = layout.row_bytes(width)
    if message.step < row_bytes:
        raise MalformedImage(
            WRONG_STEP,
            f"step is {message.step}, but a row of {width} {message.encoding} pixels takes {row_bytes} "
            "bytes: the driver must set step to the length of a row",
        )
    needed, held = message.step * layout.stored_rows(height), bytes_of(message).size
    if held < needed:
        raise MalformedImage(
            SHORT_DATA,
            f"data holds {held} bytes, but {height} rows of {message.encoding} with step {message.step} take "
            f"{needed}: the driver must send whole images",
        )
    return layout


def decode_raw(message: RawImage, max_pixels: int, convert: Convert, levels: Levels, target: Target) -> Picture:
    """Check, pack and convert to RGB, uint8, C-contiguous, as `target` wants it, perhaps in the message's memory.

    Where each sample is a colour by itself, the fewer pixels that are left after resizing are converted: to the bit
    the same.
    """
    layout = check_raw(message, max_pixels)
    rows = _rows(message, layout, levels)
    if layout.is_mixed:
        return np.ascontiguousarray(target.resize(_to_rgb(rows, message.height, layout.plain, convert)))  # (H, W, 3)
    pixels = target.resize(rows.reshape(message.height, message.width, layout.samples))  # (H, W[, samples])
    return _to_rgb(pixels.reshape(len(pixels), -1), len(pixels), layout.plain, convert)


def _to_rgb(rows: npt.NDArray[np.uint8], height: int, encoding: str, convert: Convert) -> Picture:
    """Convert (stored rows, row bytes) of 8-bit samples to RGB, (height, width, 3)."""
    if encoding in NV_TO_RGB:  # cv_bridge knows neither of the two
        rows, encoding = cast("Picture", cv2.cvtColor(rows, NV_TO_RGB[encoding])), "rgb8"
    data = np.ascontiguousarray(rows).reshape(-1)  # (height * step,)
    step = data.size // height
    packed = PackedImage(height, step // layout_of(encoding).samples, encoding, 0, step, data)
    return np.ascontiguousarray(convert(packed, "rgb8"))  # (H, W, 3)


def _rows(message: RawImage, layout: Layout, levels: Levels) -> npt.NDArray[np.uint8]:
    """Rows of 8-bit samples without padding, (stored rows, row bytes), in the message's memory if they are so there."""
    height, step = layout.stored_rows(message.height), message.step
    rows = bytes_of(message)[: height * step].reshape(height, step)  # (stored rows, step)
    rows = rows[:, : layout.row_bytes(message.width)]  # (stored rows, row bytes)
    if layout.sample_bytes == 1:
        return rows
    samples = np.ascontiguousarray(rows).view(">u2" if message.is_bigendian else "<u2")  # (stored rows, samples)
    return levels.to_8_bits(samples.astype(np.uint16, copy=False))
