"""Message -> RGB picture, for sensor_msgs Image and CompressedImage of rclpy and of rosbags alike.

The colour arithmetic is cv_bridge's on a robot and rosbags-image's elsewhere. Neither may see a message as it
came: rosbags-image ignores `step`; cv_bridge shears a picture whose row padding is no multiple of a pixel,
fails on big-endian data under numpy 2 and knows neither uyvy, yuyv nor NV12, NV21; and they round 16-bit
values differently. So every message is checked, then packed into the plain 8-bit form on which both agree.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Picture

if TYPE_CHECKING:
    from array import array

Bytes: TypeAlias = "bytes | bytearray | memoryview | array[int] | npt.NDArray[np.uint8]"

ZERO_SIZE = "zero_size"
TOO_LARGE = "too_large"
WRONG_STEP = "wrong_step"
SHORT_DATA = "short_data"
UNKNOWN_ENCODING = "unknown_encoding"
UNDECODABLE = "undecodable"
CAUSES = (ZERO_SIZE, TOO_LARGE, WRONG_STEP, SHORT_DATA, UNKNOWN_ENCODING, UNDECODABLE)


class MalformedImage(ValueError):  # noqa: N818  # it names the message, not a fault of this program
    """A message that holds no usable picture. `cause`, one of CAUSES, is the counter it is dropped under."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class RawImage(Protocol):
    """sensor_msgs/Image, as far as it is read here."""

    @property
    def height(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def encoding(self) -> str: ...
    @property
    def is_bigendian(self) -> int: ...
    @property
    def step(self) -> int: ...
    @property
    def data(self) -> Bytes: ...


@runtime_checkable
class CompressedImage(Protocol):
    """sensor_msgs/CompressedImage, as far as it is read here."""

    @property
    def format(self) -> str: ...
    @property
    def data(self) -> Bytes: ...


Convert = Callable[[RawImage, str], Any]  # such as CvBridge().imgmsg_to_cv2: (message, encoding) -> array


@dataclass(frozen=True, slots=True)
class PackedImage:
    """A raw image as converters get it: 8 bits, no row padding, under a name that both converters know."""

    height: int
    width: int
    encoding: str
    is_bigendian: int
    step: int
    data: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Layout:
    """How an encoding lies in memory.

    Attributes:
        plain: the 8-bit encoding it is packed into.
        samples: per pixel in a row.
        sample_bytes: 2 for the 16-bit encodings.
        block: (rows, columns) of pixels that share colour samples; the picture must consist of whole blocks.
        least: shortest side that can be converted.
    """

    plain: str
    samples: int
    sample_bytes: int = 1
    block: tuple[int, int] = (1, 1)
    least: int = 1

    def row_bytes(self, width: int) -> int:
        return width * self.samples * self.sample_bytes

    def stored_rows(self, height: int) -> int:
        return height * 3 // 2 if self.plain in _NV_TO_RGB else height  # NV: half as many chroma rows follow


_NV_TO_RGB = {"nv12": cv2.COLOR_YUV2RGB_NV12, "nv21": cv2.COLOR_YUV2RGB_NV21}
_COLOURS = {"mono": 1, "rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}
_MOSAICS = ("bayer_rggb", "bayer_bggr", "bayer_gbrg", "bayer_grbg")
_UYVY, _YUYV = _Layout("yuv422", 2, block=(1, 2)), _Layout("yuv422_yuy2", 2, block=(1, 2))
_LAYOUTS = {
    **{f"{name}{8 * size}": _Layout(f"{name}8", n, size) for name, n in _COLOURS.items() for size in (1, 2)},
    # OpenCV leaves a mosaic with a side below 3 black.
    **{f"{name}{8 * size}": _Layout(f"{name}8", 1, size, least=3) for name in _MOSAICS for size in (1, 2)},
    # The deprecated names go to the converters: cv_bridge knows only those.
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    **{name: _Layout(name, 1, block=(2, 2)) for name in _NV_TO_RGB},
    # These name no colour order. 8UC3 is taken for OpenCV's own, BGR; cv_bridge would refuse to guess.
    "8UC1": _Layout("mono8", 1),
    "8UC3": _Layout("bgr8", 3),
}
ENCODINGS = tuple(_LAYOUTS)
_DEPTH_ENCODINGS = ("16UC1", "32FC1")

_JPEG_START, _JPEG_END = b"\xff\xd8\xff", b"\xff\xd9"
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15
_JPEG_BARE_MARKERS = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # no length follows; none belongs in a header
_JPEG_MAX_SEGMENTS = 1024  # before the frame header; keeps the search short on hostile data
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xae\x42\x60\x82"


def convert_with_rosbags(message: RawImage, encoding: str) -> Any:
    """rosbags-image's stand-in for CvBridge().imgmsg_to_cv2."""
    from rosbags.image import image_to_cvimage  # here, so that a robot with cv_bridge needs no rosbags-image

    return image_to_cvimage(message, encoding)  # type: ignore[arg-type]  # reads no more than RawImage has


def check_image(message: RawImage | CompressedImage, max_pixels: int) -> tuple[int, int]:
    """Height and width; raises MalformedImage if the header cannot be right. O(1): no pixel is read."""
    if isinstance(message, CompressedImage):
        width, height, *_ = _check_compressed(message, max_pixels)
        return height, width
    _check_raw(message, max_pixels)
    return message.height, message.width


def decode_image(
    message: RawImage | CompressedImage, max_pixels: int, convert: Convert = convert_with_rosbags
) -> Picture:
    """The message's picture: RGB, uint8, (height, width, 3), C-contiguous.

    It may share memory with the message. `convert` turns checked and packed raw images into an encoding.
    """
    if isinstance(message, CompressedImage):
        return _decode_compressed(message, max_pixels)
    return _decode_raw(message, max_pixels, convert)


def _bytes_of(message: RawImage | CompressedImage) -> npt.NDArray[np.uint8]:
    return np.frombuffer(message.data, np.uint8)  # no copy


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width <= 0 or height <= 0:
        raise MalformedImage(
            ZERO_SIZE, f"the image is {width} x {height} pixels: the driver must fill in width and height"
        )
    if width * height > max_pixels:
        raise MalformedImage(
            TOO_LARGE,
            f"the image is {width} x {height} = {width * height} pixels, more than {max_pixels}: "
            "publish smaller images, or raise vision.max_megapixels",
        )


# Raw images


def _check_raw(message: RawImage, max_pixels: int) -> _Layout:
    width, height, layout = message.width, message.height, _layout_of(message.encoding)
    _check_size(width, height, max_pixels)
    if height % layout.block[0] or width % layout.block[1] or min(width, height) < layout.least:
        raise MalformedImage(
            UNDECODABLE,
            f"the image is {width} x {height} pixels, but {message.encoding} needs a width divisible by "
            f"{layout.block[1]}, a height divisible by {layout.block[0]} and sides of at least "
            f"{layout.least}: let the driver crop to such a size",
        )
    row_bytes = layout.row_bytes(width)
    if message.step < row_bytes:
        raise MalformedImage(
            WRONG_STEP,
            f"step is {message.step}, but a row of {width} {message.encoding} pixels takes {row_bytes} "
            "bytes: the driver must set step to the length of a row",
        )
    needed, held = message.step * layout.stored_rows(height), _bytes_of(message).size
    if held < needed:
        raise MalformedImage(
            SHORT_DATA,
            f"data holds {held} bytes, but {height} rows of {message.encoding} with step {message.step} take "
            f"{needed}: the driver must send whole images",
        )
    return layout


def _layout_of(encoding: str) -> _Layout:
    if encoding in _DEPTH_ENCODINGS:
        raise MalformedImage(UNKNOWN_ENCODING, f"{encoding} is a depth image: subscribe to a colour topic")
    layout = _LAYOUTS.get(encoding)
    if layout is None:
        raise MalformedImage(
            UNKNOWN_ENCODING, f"encoding {encoding!r} is not supported: publish one of {', '.join(ENCODINGS)}"
        )
    return layout


def _decode_raw(message: RawImage, max_pixels: int, convert: Convert) -> Picture:
    layout = _check_raw(message, max_pixels)
    rows, encoding = _packed_rows(message, layout), layout.plain
    if encoding in _NV_TO_RGB:  # cv_bridge knows neither of the two
        rows, encoding = cast("Picture", cv2.cvtColor(rows, _NV_TO_RGB[encoding])), "rgb8"
    data = rows.reshape(-1)  # (height * step,)
    packed = PackedImage(message.height, message.width, encoding, 0, data.size // message.height, data)
    return np.ascontiguousarray(convert(packed, "rgb8"))  # (H, W, 3)


def _packed_rows(message: RawImage, layout: _Layout) -> npt.NDArray[np.uint8]:
    """The image's rows without padding, 8 bits a sample; the message's own memory if it is so already."""
    height, step = layout.stored_rows(message.height), message.step
    rows = _bytes_of(message)[: height * step].reshape(height, step)  # (stored rows, step)
    rows = np.ascontiguousarray(rows[:, : layout.row_bytes(message.width)])  # (stored rows, row bytes)
    if layout.sample_bytes == 1:
        return rows
    samples = rows.view(">u2" if message.is_bigendian else "<u2").astype(np.uint16, copy=False)
    return cast("npt.NDArray[np.uint8]", cv2.convertScaleAbs(samples, alpha=255 / 65535))


# Compressed images. cv_bridge and rosbags-image both call cv2.imdecode; neither gets grey JPEGs right.


def _check_compressed(message: CompressedImage, max_pixels: int) -> tuple[int, int, int, bytes]:
    """Return width, height, the offset of the header's end, and the mark that ends the data."""
    _check_format(message.format)
    data = _bytes_of(message).data
    if not data:
        raise MalformedImage(SHORT_DATA, "data is empty: the driver must send whole images")
    # The size is limited here, before anything is decoded: a few bytes can ask for gigabytes of pixels.
    start = bytes(data[:8])
    if start.startswith(_JPEG_START):
        (width, height, offset), mark = _jpeg_header(data), _JPEG_END
    elif start == _PNG_START:
        (width, height, offset), mark = _png_header(data), _PNG_END
    else:
        raise _neither_jpeg_nor_png(message.format, start)
    _check_size(width, height, max_pixels)
    return width, height, offset, mark


def _check_format(name: str) -> None:
    if "compressedDepth" in name or name.startswith(_DEPTH_ENCODINGS):
        raise MalformedImage(UNKNOWN_ENCODING, f"format {name!r} is a depth image: subscribe to a colour topic")
    # As PNG, image_transport stores the mosaic itself, which would decode to a grey picture.
    if name.startswith(_MOSAICS) and "png" in name:
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


def _jpeg_header(data: memoryview) -> tuple[int, int, int]:
    """Width, height and the offset behind them: walk the segments up to the frame header (ITU-T T.81, B.2).

    EXIF data, perhaps with a thumbnail that is a JPEG of its own, is a segment too and is stepped over. Bytes
    between segments, which libjpeg would skip, are refused: both must find the same frame header.
    """
    at = 2
    for _ in range(_JPEG_MAX_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _JPEG_SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height, at + 9
        if marker in _JPEG_BARE_MARKERS:
            break
        length: int = struct.unpack_from(">H", data, at + 2)[0]
        at += 1 if marker == 0xFF else 2 + length  # any number of FF may come before a marker
    raise MalformedImage(
        UNDECODABLE,
        f"the JPEG of {len(data)} bytes has no readable frame header: the driver must send whole images",
    )


def _png_header(data: memoryview) -> tuple[int, int, int]:
    if len(data) < 24 or bytes(data[12:16]) != b"IHDR":
        raise MalformedImage(
            UNDECODABLE, f"the PNG of {len(data)} bytes has no IHDR chunk: the driver must send whole images"
        )
    width, height = struct.unpack_from(">II", data, 16)
    return width, height, 24


def _decode_compressed(message: CompressedImage, max_pixels: int) -> Picture:
    width, height, offset, mark = _check_compressed(message, max_pixels)
    data = _bytes_of(message)
    # OpenCV 4 fills the missing part of a truncated JPEG with grey and reports success, so ask for the mark
    # of its end. No compressed pixels contain it; anything may follow it, as cameras pad their buffers.
    if data[offset:].tobytes().rfind(mark) < 0:
        raise MalformedImage(
            UNDECODABLE,
            f"the {width} x {height} image is cut after {data.size} bytes: the driver must send whole images",
        )
    bgr = _imdecode(data)
    if bgr is None:
        raise MalformedImage(
            UNDECODABLE,
            f"OpenCV cannot decode the {width} x {height} image of {data.size} bytes: "
            "it is damaged, or a rare kind of JPEG or PNG; publish a common one",
        )
    return cast("Picture", cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))  # (H, W, 3)


def _imdecode(data: npt.NDArray[np.uint8]) -> npt.NDArray[Any] | None:
    # The orientation in EXIF data is ignored: so a camera's raw topic, compressed topic and CameraInfo agree.
    try:
        return cv2.imdecode(data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None
