"""sensor_msgs/CompressedImage to RGB picture: JPEG and PNG.

OpenCV and libjpeg-turbo decode. cv_bridge and rosbags-image call OpenCV too, but neither gets grey JPEGs right.
"""

from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Picture
from saccade_ros.vision.encodings import DEPTH_ENCODINGS, MOSAICS
from saccade_ros.vision.jpeg import JPEG_START, JpegFrame, jpeg_frame
from saccade_ros.vision.jpeg_decoding import decode_jpeg
from saccade_ros.vision.levels import Levels
from saccade_ros.vision.malformed import SHORT_DATA, UNDECODABLE, UNKNOWN_ENCODING, MalformedImage, check_size
from saccade_ros.vision.messages import CompressedImage, bytes_of
from saccade_ros.vision.png import PNG_START, PngHeader, critical_chunks, png_header
from saccade_ros.vision.target import Target


def check_compressed(message: CompressedImage, max_pixels: int) -> JpegFrame | PngHeader:
    """Read the picture's header and check its size.

    Raises:
        MalformedImage: the format or the header cannot be right. Whether the data is whole is not checked.
    """
    name = message.format
    _check_format(name)
    data = bytes_of(message).data
    if not data:
        raise MalformedImage(SHORT_DATA, "data is empty: the driver must send whole images")
    # The size is limited here, before anything is decoded: a few bytes can ask for gigabytes of pixels.
    start = bytes(data[:8])
    if start.startswith(JPEG_START):
        header: JpegFrame | PngHeader = jpeg_frame(data)
    elif start == PNG_START:
        header = png_header(data)
    else:
        raise _neither_jpeg_nor_png(name, start)
    check_size(header.width, header.height, max_pixels)
    if len(data) < header.least_bytes:
        raise MalformedImage(
            UNDECODABLE,
            f"the data of {len(data)} bytes is cut: {header.width} x {header.height} pixels take at least "
            f"{header.least_bytes}; the driver must send whole images",
        )
    return header


def decode_compressed(message: CompressedImage, max_pixels: int, levels: Levels, target: Target) -> Picture:
    """Decode to RGB, uint8, as `target` wants it; the orientation in EXIF data is ignored.

    Raises:
        MalformedImage: see check_compressed; or the data is cut or damaged.
    """
    header = check_compressed(message, max_pixels)
    data = bytes_of(message)
    if isinstance(header, JpegFrame):
        picture = decode_jpeg(data, header, target.reduction(header.height, header.width))
    else:
        picture = _decode_png(data, header, levels)
    if picture is None:
        raise MalformedImage(
            UNDECODABLE,
            f"OpenCV cannot decode the {header.width} x {header.height} image of {data.size} bytes: "
            "it is damaged, or a rare kind of JPEG or PNG; publish a common one",
        )
    return target.resize(picture)


def _decode_png(data: npt.NDArray[np.uint8], header: PngHeader, levels: Levels) -> Picture | None:
    is_deep = header.depth == 16
    how = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION | (cv2.IMREAD_ANYDEPTH if is_deep else 0)
    try:
        bgr: Any = cv2.imdecode(critical_chunks(data), how)
    except cv2.error:
        return None
    if bgr is None:
        return None
    return cast("Picture", cv2.cvtColor(levels.to_8_bits(bgr) if is_deep else bgr, cv2.COLOR_BGR2RGB))  # (H, W, 3)


def _check_format(name: str) -> None:
    if "compressedDepth" in name or name.startswith(DEPTH_ENCODINGS):
        raise MalformedImage(UNKNOWN_ENCODING, f"format {name!r} is a depth image: subscribe to a colour topic")
    # Unless colours were made of it, as in 'bayer_rggb8; jpeg compressed bgr8', image_transport compresses the mosaic
    # itself, which would decode to a grey picture.
    source, _, stored = name.lower().partition("compressed")
    if (stored.strip() or source).startswith(MOSAICS):
        raise MalformedImage(
            UNKNOWN_ENCODING,
            f"format {name!r} is a colour mosaic: subscribe to the raw topic or a debayered one",
        )


def _neither_jpeg_nor_png(name: str, start: bytes) -> MalformedImage:
    claims_to_be = any(known in name.lower() for known in ("jpeg", "jpg", "png"))
    return MalformedImage(
        UNDECODABLE if claims_to_be else UNKNOWN_ENCODING,
        f"data of format {name!r} starts with {start.hex(' ')}, as neither JPEG nor PNG does: publish one of the two",
    )
