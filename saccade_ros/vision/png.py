"""PNG: its size, and the chunks of it that make the picture (ISO/IEC 15948)."""

import struct
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.vision.malformed import UNDECODABLE, MalformedImage

PNG_START = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_LARGEST_RATIO = 1032  # of DEFLATE: bytes that one compressed byte can stand for
_MAX_ANCILLARY = 256  # chunks; a camera's picture has a few at most
_MAX_CHUNKS = 1024  # and as many more as there are kilobytes; encoders fill chunks of several


class PngHeader(NamedTuple):
    """IHDR chunk of a PNG.

    Attributes:
        width, height: in pixels, unchecked.
        depth: bits of a sample.
        channels: samples of a pixel; 1 of a palette.
    """

    width: int
    height: int
    depth: int
    channels: int

    @property
    def least_bytes(self) -> int:
        """Bytes without which no such picture can be, however well it is compressed."""
        row_bytes = 1 + (self.width * self.depth * self.channels + 7) // 8
        return self.height * row_bytes // _LARGEST_RATIO


def png_header(data: memoryview) -> PngHeader:
    """Read a PNG's first chunk, IHDR.

    Raises:
        MalformedImage: there is none.
    """
    if len(data) < 26 or bytes(data[12:16]) != b"IHDR":
        raise _malformed(data, "has no IHDR chunk")
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    return PngHeader(width, height, depth, _CHANNELS.get(colour, 1))


def critical_chunks(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Copy a PNG without its ancillary chunks, which can cost more time to read than the pixels; OpenCV uses none.

    Raises:
        MalformedImage: it is cut, or has a great many chunks.
    """
    kept, dropped = [data[:8]], 0
    for count, (name, chunk) in enumerate(_chunks(data)):
        if name[:1].isupper():
            kept.append(chunk)
        else:
            dropped += 1
        if dropped > _MAX_ANCILLARY or count > _MAX_CHUNKS + data.size // 1024:
            raise MalformedImage(
                UNDECODABLE,
                f"the PNG of {data.size} bytes has too many chunks, {dropped} of the first {count + 1} ancillary: "
                "publish plain PNGs",
            )
    return np.concatenate(kept) if dropped else data  # (bytes,)


def _chunks(data: npt.NDArray[np.uint8]) -> Iterator[tuple[bytes, npt.NDArray[np.uint8]]]:
    """Walk the chunks to IEND: each with its name; length, name and checksum included."""
    at, name = 8, b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", data.data, at) if at + 8 <= data.size else (0, b"")
        end = at + 12 + length
        if end > data.size or not name:
            raise _malformed(data.data, f"is cut after {data.size} bytes")
        yield name, data[at:end]
        at = end


def _malformed(data: memoryview, how: str) -> MalformedImage:
    return MalformedImage(UNDECODABLE, f"the PNG of {len(data)} bytes {how}: the driver must send whole images")
