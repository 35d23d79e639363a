"""JPEG: its size, and whether its scans hold all that the headers promise (ITU-T T.81, annex B).

libjpeg, and so OpenCV, fills what is missing with grey and reports success. Three checks find it, the cheapest first:
the markers before decoding; the colour of what was decoded last; and, for the few that remain in doubt, a second
decoding with more data, which shows where the first had run out.
"""

import re
import struct
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.vision.malformed import UNDECODABLE, MalformedImage

JPEG_START = b"\xff\xd8\xff"
MAX_SCANS = 20  # decoding passes over the whole picture for each; encoders write 1 to about 14

_MAX_SEGMENTS = 1024  # keeps the walk short on hostile data
_MARKER = re.compile(rb"\xff[^\x00\xff]", re.DOTALL)  # found as libjpeg does: past anything that is no marker
_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0..SOF15
_SEQUENTIAL, _PROGRESSIVE, _LOSSLESS, _ARITHMETIC = {0xC0, 0xC1}, {0xC2, 0xCA}, {0xC3, 0xCB}, range(0xC9, 0xD0)
_START, _END, _SCAN, _INTERVAL = 0xD8, 0xD9, 0xDA, 0xDD
_BARE = frozenset({0x01, *range(0xD0, 0xDA)})  # markers that no length follows
_MORE = bytes(range(0x35, 0x75))
_MORE_PROGRESSIVE = _MORE[:2]  # shows as much, and libjpeg complains on stderr less often than about many bytes
_MORE_ARITHMETIC = bytes(8) + _MORE  # its decoders read a little past the end of good data, and expect zeros there
_GREY = 128  # of blocks that libjpeg had no data for

Decode = Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.uint8] | None]


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
    def least_bytes(self) -> int:
        """Bytes that the data of such a picture takes at least.

        A Huffman code is a bit or longer, and a sequential block has two. Arithmetic coding has no such bound: an
        eighth of a bit is less than any camera's noise takes.
        """
        units = sum(int(np.prod(self.units({name}))) for name in self.sampling)
        if self.process in _ARITHMETIC:
            return units // 64
        return units * (2 if self.process in _SEQUENTIAL else 1) // 8

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


def decode_jpeg(data: npt.NDArray[np.uint8], frame: JpegFrame, decode: Decode) -> npt.NDArray[np.uint8] | None:
    """Decode a JPEG all of whose data is there; None if the decoder cannot.

    Args:
        frame: its header.
        decode: a decoder that fills what is missing, to (height, width, 3).

    Raises:
        MalformedImage: something is missing.
    """
    scans = read_scans(data.data, frame)
    picture = decode(data)
    if picture is not None and _in_doubt(picture, frame, scans):
        fuller = decode(_with_more_data(data, frame, scans))
        if fuller is None or not np.array_equal(picture, fuller):
            raise damaged(data.data, "lacks a part of its pixels")
    return picture


def damaged(data: memoryview, how: str) -> MalformedImage:
    """Make the refusal of a JPEG that is damaged in this way."""
    return MalformedImage(UNDECODABLE, f"the JPEG of {len(data)} bytes {how}: the driver must send whole images")


def _segments(data: memoryview) -> Iterator[tuple[int, int, int]]:
    """Walk the markers from the second to the end's: each with its offset, and the length of its segment, or 0."""
    found = _MARKER.search(data, 2)
    for _ in range(_MAX_SEGMENTS):
        if found is None:
            return
        at, marker = found.start(), data[found.start() + 1]
        length = 0 if marker in _BARE else _number(data, at + 2)
        yield marker, at, length
        if marker == _END:
            return
        found = (_SCAN_END if marker == _SCAN else _MARKER).search(data, at + 2 + length)


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
        first, last, bit = (*scan.spectrum, scan.low_bit) if frame.process in _PROGRESSIVE else (0, 63, 0)
        for name in scan.components:
            lowest[name][first : last + 1] = [bit] * (last + 1 - first)
    if any(any(bits) for bits in lowest.values()):
        raise damaged(data, f"ends after {len(scans)} scans, before the picture is complete")


def _in_doubt(picture: npt.NDArray[np.uint8], frame: JpegFrame, scans: list[Scan]) -> bool:
    """Tell whether data may have run out: blocks that it ran out for are grey in one kind of JPEG, the common one."""
    usual = frame.process in _SEQUENTIAL and len(scans) == 1 and len(frame.sampling) in (1, 3)
    return not usual or _ends_grey(picture, frame, scans[0])


def _ends_grey(picture: npt.NDArray[np.uint8], frame: JpegFrame, scan: Scan) -> bool:
    """Tell whether the last MCU of any interval is as bright as one that there was no data for.

    Its colour says less: at the edges it is mixed with the neighbours'.
    """
    height, width = frame.mcu_size if len(scan.components) > 1 else (8, 8)
    last = np.append(np.arange(scan.interval, scan.units, scan.interval), scan.units) - 1  # (intervals,)
    row, column = np.divmod(last, frame.units(scan.components)[1])
    y = row[:, None] * height + np.array([0, height // 2, height // 2, height - 1])  # (intervals, 4)
    x = column[:, None] * width + np.array([0, 0, width // 2, width - 1])  # (intervals, 4)
    pixels = picture[np.minimum(y, frame.height - 1), np.minimum(x, frame.width - 1)]  # (intervals, 4, BGR)
    luma = pixels @ np.array([0.114, 0.587, 0.299])  # (intervals, 4)
    return bool((np.abs(luma - _GREY) < 1.5).all(axis=1).any())


def _with_more_data(data: npt.NDArray[np.uint8], frame: JpegFrame, scans: list[Scan]) -> npt.NDArray[np.uint8]:
    """Copy the JPEG with more data at the end of each interval: no decoder comes to it unless some was missing."""
    cuts = [_before_fill(data, end) for scan in scans for end in scan.ends]
    pieces = np.split(data, cuts)
    more = _MORE_PROGRESSIVE if frame.process in _PROGRESSIVE else _MORE
    filler = np.frombuffer(_MORE_ARITHMETIC if frame.process in _ARITHMETIC else more, np.uint8)
    return np.concatenate([pieces[0], *(part for piece in pieces[1:] for part in (filler, piece))])  # (bytes,)


def _before_fill(data: npt.NDArray[np.uint8], marker: int) -> int:
    """Step back from a marker over the bytes FF that may come before it."""
    while data[marker - 1] == 0xFF:
        marker -= 1
    return marker
