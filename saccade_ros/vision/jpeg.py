"""JPEG: its size, and whether its scans hold all that the headers promise (ITU-T T.81, annex B).

Nothing is decoded here: the markers alone tell.
"""

import re
import struct
from collections.abc import Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from saccade_ros.vision.malformed import UNDECODABLE, MalformedImage

JPEG_START = b"\xff\xd8\xff"
MAX_SCANS = 20  # decoding passes over the whole picture for each; encoders write 1 to about 14

_MAX_SEGMENTS = 1024  # keeps the walk short on hostile data
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)  # found as libjpeg does: past anything that is no marker
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15
_SEQUENTIAL, _PROGRESSIVE, _LOSSLESS, _ARITHMETIC = {0xC0, 0xC1}, {0xC2, 0xCA}, {0xC3, 0xCB}, range(0xC9, 0xD0)
_START, _END, _SCAN, _INTERVAL = 0xD8, 0xD9, 0xDA, 0xDD
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers that no length follows
_IN_SCAN = [0x00, *range(0xD0, 0xD8), 0xFF]  # bytes behind FF that do not end a scan
_ENDS_SCAN = ~np.isin(np.arange(256), _IN_SCAN)  # (256,)


class JpegFrame(NamedTuple):
    """Frame header of a JPEG.

    Attributes:
        process: how it is coded: the marker, 0xC0 to 0xCF.
        width, height: in pixels, unchecked.
        sampling: by component, its samples across and down in an MCU (minimum coded unit) of all components.
        offset: of the first byte behind the header.
    """

    process: int
    width: int
    height: int
    sampling: dict[int, tuple[int, int]]
    offset: int

    @property
    def is_sequential(self) -> bool:
        """True if each scan codes whole blocks."""
        return self.process in _SEQUENTIAL

    @property
    def is_progressive(self) -> bool:
        """True if several scans together make up a block."""
        return self.process in _PROGRESSIVE

    @property
    def is_arithmetic(self) -> bool:
        """True if it is arithmetic-coded, not Huffman-coded."""
        return self.process in _ARITHMETIC

    @property
    def least_bytes(self) -> int:
        """Bytes that the data of such a picture takes at least.

        A Huffman code is a bit or longer, and a sequential block has two. Arithmetic coding has no such bound: an
        eighth of a bit is less than any camera's noise takes.
        """
        units = sum(int(np.prod(self.units({name}))) for name in self.sampling)
        if self.is_arithmetic:
            return units // 64
        return units * (2 if self.is_sequential else 1) // 8

    @property
    def mcu_size(self) -> tuple[int, int]:
        """Height and width in pixels of an MCU of all components."""
        across, down = zip(*self.sampling.values(), strict=True)
        block = 1 if self.process in _LOSSLESS else 8
        return block * max(down), block * max(across)

    def units(self, components: set[int]) -> tuple[int, int]:
        """Rows and columns of MCUs in a scan of these components."""
        height, width = self.mcu_size
        if len(components) == 1:  # then an MCU is one block
            across, down = self.sampling[next(iter(components))]
            return -(-self.height * down // height), -(-self.width * across // width)
        return -(-self.height // height), -(-self.width // width)


class Scan(NamedTuple):
    """One scan of a JPEG.

    Attributes:
        components: those it codes.
        spectrum: first and last coefficient of each block that it codes.
        low_bit: the lowest bit of them that it codes.
        units: MCUs in it.
        interval: MCUs between two restart markers; all of them where there are none.
        ends: offsets of the markers that end its intervals, the last of which ends the scan.
    """

    components: set[int]
    spectrum: tuple[int, int]
    low_bit: int
    units: int
    interval: int
    ends: list[int]


def jpeg_frame(data: memoryview) -> JpegFrame:
    """Find the frame header of a JPEG; EXIF data, perhaps with a thumbnail of its own, is stepped over.

    Raises:
        MalformedImage: there is none.
    """
    for marker, at, length in _segments(data):
        if marker in _FRAMES:
            return _read_frame(data, marker, at, length)
        if marker in _BARE or marker == _SCAN:
            break
    raise damaged(data, "has no readable frame header")


def _read_frame(data: memoryview, process: int, at: int, length: int) -> JpegFrame:
    header = bytes(data[at + 4 : at + 2 + length])  # precision, height, width, count, then 3 bytes of each component
    if len(header) < 9 or len(header) != 6 + 3 * header[5]:
        raise damaged(data, "has no readable frame header")
    height, width = struct.unpack_from(">HH", header, 1)
    factors = zip(header[6::3], header[7::3], strict=True)
    sampling = {name: (max(1, factor >> 4), max(1, factor & 15)) for name, factor in factors}
    return JpegFrame(process, width, height, sampling, at + 2 + length)


def read_scans(data: memoryview, frame: JpegFrame) -> list[Scan]:
    """Walk the scans of a JPEG by its markers; no pixel is decoded.

    Raises:
        MalformedImage: a part is missing, another picture begins inside, or there are more than MAX_SCANS.
    """
    scans: list[Scan] = []
    interval = following = 0
    for (marker, at, length), (following, end, _) in pairwise(_segments(data)):
        if marker == _INTERVAL:
            interval = _number(data, at + 4)
        elif marker == _SCAN:
            scans.append(_read_scan(data, at, length, end, frame, interval))
        if len(scans) > MAX_SCANS:
            raise MalformedImage(
                UNDECODABLE,
                f"the JPEG of {len(data)} bytes has more than {MAX_SCANS} scans, each of which costs a pass over the "
                "whole picture: publish a baseline JPEG",
            )
        if end > frame.offset and following in _FRAMES | {_START}:
            raise damaged(data, f"runs into another picture at byte {end}")
    if following != _END:
        raise damaged(data, "is cut: it has no end")
    _check_complete(data, frame, scans)
    return scans


def damaged(data: memoryview, how: str) -> MalformedImage:
    """Make the refusal of a JPEG that is damaged in this way."""
    return MalformedImage(UNDECODABLE, f"the JPEG of {len(data)} bytes {how}: the driver must send whole images")


def _segments(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Walk the markers from the second to the end's: each with its offset, and the length of its segment, or 0."""
    at = _find_marker(data, 2)
    for _ in range(_MAX_SEGMENTS):
        if at < 0:
            return
        marker = data[at + 1]
        length = 0 if marker in _BARE else _number(data, at + 2)
        yield marker, at, length
        if marker == _END:
            return
        at = (_find_scan_end if marker == _SCAN else _find_marker)(data, at + 2 + length)


def _find_marker(data: memoryview, start: int) -> int:
    """Offset of the first marker from `start` on; -1 if there is none."""
    found = _MARKER.search(data, start)
    return found.start() if found else -1


def _find_scan_end(data: memoryview, start: int) -> int:
    """Offset of the first marker from `start` on that ends a scan; -1 if there is none.

    By NumPy, in a fifth of a regular expression's time: a scan is nearly the whole file.
    """
    view = np.frombuffer(data, np.uint8)[start:]
    marks = np.flatnonzero(view[:-1] == 0xFF)  # (bytes FF,)
    ends = marks[_ENDS_SCAN[view[marks + 1]]]  # (markers,)
    return start + int(ends[0]) if len(ends) else -1


def _number(data: memoryview, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "big")


def _read_scan(data: memoryview, at: int, length: int, end: int, frame: JpegFrame, interval: int) -> Scan:
    header = bytes(data[at + 4 : at + 2 + length])  # count, then id and tables of each, then 3 bytes
    components = set(header[1:-3:2])
    if len(header) < 6 or len(header) != 4 + 2 * header[0] or not components <= frame.sampling.keys():
        raise damaged(data, f"has an unreadable scan header at byte {at}")
    units = int(np.prod(frame.units(components)))
    ends = _ends(data, at + 2 + length, end, -(-units // interval) if interval else 1)
    return Scan(components, (header[-3], header[-2]), header[-1] & 15, units, interval or units, ends)


def _ends(data: memoryview, start: int, end: int, intervals: int) -> list[int]:
    """Offsets of the markers that end the intervals of a scan whose data is from `start` to `end`."""
    if intervals == 1:
        return [end]
    restarts = [found.start() for found in islice(_RESTART.finditer(data, start, end), intervals)]
    if len(restarts) == intervals and restarts[-1] == end - 2:
        restarts.pop()  # some cameras end the last interval as they end the others
    if [data[restart + 1] & 7 for restart in restarts] != [number % 8 for number in range(intervals - 1)]:
        raise damaged(data, f"has {len(restarts) + 1} of {intervals} restart intervals, or in another order")
    return [*restarts, end]


def _check_complete(data: memoryview, frame: JpegFrame, scans: list[Scan]) -> None:
    """Check that each component was coded, and in a progressive JPEG all its coefficients to the last bit."""
    lowest = {name: [1] * 64 for name in frame.sampling}
    for scan in scans:
        first, last, bit = (*scan.spectrum, scan.low_bit) if frame.is_progressive else (0, 63, 0)
        for name in scan.components:
            lowest[name][first : last + 1] = [bit] * (last + 1 - first)
    if any(any(bits) for bits in lowest.values()):
        raise damaged(data, f"ends after {len(scans)} scans, before the picture is complete")
