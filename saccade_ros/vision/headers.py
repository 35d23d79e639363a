"""Size of a JPEG or PNG picture, read from its header: nothing is decoded."""

import struct
from typing import NamedTuple

from saccade_ros.vision.malformed import UNDECODABLE, MalformedImage

JPEG_START, PNG_START = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_JPEG_END, _PNG_END = b"\xff\xd9", b"IEND\xae\x42\x60\x82"
_JPEG_SIZE_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15
_JPEG_BARE_MARKERS = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # no length follows; none belongs in a header
_JPEG_MAX_SEGMENTS = 1024  # before the frame header; keeps the search short on hostile data


class Header(NamedTuple):
    """Size of a compressed picture, and how to tell that its data is whole.

    Attributes:
        width, height: in pixels, unchecked.
        offset: of the first byte behind these two.
        end_mark: bytes that end a whole picture. No compressed pixels contain them.
    """

    width: int
    height: int
    offset: int
    end_mark: bytes


def jpeg_header(data: memoryview) -> Header:
    """Find the size of a JPEG: walk its segments up to the frame header (ITU-T T.81, B.2).

    EXIF data, perhaps with a thumbnail that is a JPEG of its own, is a segment too and is stepped over. Bytes
    between segments, which libjpeg would skip, are refused: both must find the same frame header.

    Raises:
        MalformedImage: there is no frame header.
    """
    at = 2
    for _ in range(_JPEG_MAX_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker in _JPEG_SIZE_MARKERS:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return Header(width, height, at + 9, _JPEG_END)
        if marker in _JPEG_BARE_MARKERS:
            break
        length: int = struct.unpack_from(">H", data, at + 2)[0]
        at += 1 if marker == 0xFF else 2 + length  # any number of FF may come before a marker
    raise MalformedImage(
        UNDECODABLE,
        f"the JPEG of {len(data)} bytes has no readable frame header: the driver must send whole images",
    )


def png_header(data: memoryview) -> Header:
    """Find the size of a PNG in its first chunk, IHDR (ISO/IEC 15948, 11.2.2).

    Raises:
        MalformedImage: there is no IHDR chunk.
    """
    if len(data) < 24 or bytes(data[12:16]) != b"IHDR":
        raise MalformedImage(
            UNDECODABLE, f"the PNG of {len(data)} bytes has no IHDR chunk: the driver must send whole images"
        )
    width, height = struct.unpack_from(">II", data, 16)
    return Header(width, height, 24, _PNG_END)
