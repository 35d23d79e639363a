"""Encodings of sensor_msgs/Image that are colour or grey pictures, and how each lies in memory."""

from dataclasses import dataclass

import cv2

from saccade_ros.knobs import shown
from saccade_ros.vision.malformed import UNKNOWN_ENCODING, MalformedImage


@dataclass(frozen=True, slots=True)
class Layout:
    """Memory layout of an encoding.

    Attributes:
        plain: the 8-bit encoding it is packed into.
        samples: per pixel in a row.
        sample_bytes: 2 for the 16-bit encodings.
        block: (rows, columns) of pixels that share colour samples; the picture must consist of whole blocks.
        min_side: shortest side that can be converted, in pixels.
    """

    plain: str
    samples: int
    sample_bytes: int = 1
    block: tuple[int, int] = (1, 1)
    min_side: int = 1

    @property
    def is_mixed(self) -> bool:
        """True if a pixel's colour is made of samples that other pixels share."""
        return self.block != (1, 1) or self.min_side > 1

    def row_bytes(self, width: int) -> int:
        """Bytes that the pixels of a row take, without padding."""
        return width * self.samples * self.sample_bytes

    def stored_rows(self, height: int) -> int:
        """Rows in memory; after NV12's and NV21's rows of luma follow half as many of chroma."""
        return height * 3 // 2 if self.plain in NV_TO_RGB else height


NV_TO_RGB = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
MOSAICS = ("bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")
DEPTH_ENCODINGS = ("16UC1", "32FC1")

_COLOURS = {"mono": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
_UYVY, _YUYV = Layout("yuv422", 2, block=(1, 2)), Layout("yuv422_yuy2", 2, block=(1, 2))
_LAYOUTS = {
    **{f"{name}{8 * size}": Layout(f"{name}8", n, size) for name, n in _COLOURS.items() for size in (1, 2)},
    # OpenCV leaves a mosaic with a side below 3 black.
    **{f"{name}{8 * size}": Layout(f"{name}8", 1, size, min_side=3) for name in MOSAICS for size in (1, 2)},
    # The deprecated names go to the converters: cv_bridge knows only those.
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    **{name: Layout(name, 1, block=(2, 2)) for name in NV_TO_RGB},
    # These name no colour order. 8UC3 is taken for OpenCV's own, BGR; cv_bridge would refuse to guess.
    "8UC1": Layout("mono8", 1),
    "8UC3": Layout("bgr8", 3),
}
ENCODINGS = tuple(_LAYOUTS)


def layout_of(encoding: str) -> Layout:
    """Look up an encoding's layout; raise MalformedImage if it is none of ENCODINGS."""
    if encoding in DEPTH_ENCODINGS:
        raise MalformedImage(UNKNOWN_ENCODING, f"{encoding} is a depth image: subscribe to a colour topic")
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise MalformedImage(
            UNKNOWN_ENCODING, f"encoding {shown(encoding)} is not supported: publish one of {', '.join(ENCODINGS)}"
        )
    return layout
