"""Decoding of JPEGs, whole or at a smaller scale, of which no part may be missing.

libjpeg fills what is missing with grey and reports success, but warns of data that does not fit. simplejpeg passes its
warnings on. OpenCV does not: where simplejpeg is not installed, and for what it cannot judge, the colour of what was
decoded last tells; and, for the few that remain in doubt, a second decoding with more data, which shows where the
first had run out.
"""

import re
from typing import Any, cast

import cv2
import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Picture
from saccade_ros.vision.jpeg import JpegFrame, Scan, damaged, read_scans

try:
    import simplejpeg
except (ImportError, ValueError):  # not there, or made for another NumPy: pictures are the same, more damage passes
    simplejpeg = None

_DAMAGE = re.compile("premature end of data segment|bad Huffman code|bad arithmetic code|instead of RST")
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker 0x(..)")
_STRAY = 12  # bytes before a marker that say nothing of the picture; some cameras leave a few there

# By factor. With the orientation ignored, a camera's raw topic, compressed topic and CameraInfo agree.
_FLAGS = {
    1: cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION,
    2: cv2.IMREAD_REDUCED_COLOR_2 | cv2.IMREAD_IGNORE_ORIENTATION,
    4: cv2.IMREAD_REDUCED_COLOR_4 | cv2.IMREAD_IGNORE_ORIENTATION,
    8: cv2.IMREAD_REDUCED_COLOR_8 | cv2.IMREAD_IGNORE_ORIENTATION,
}
_GREY = 128  # of blocks that libjpeg had no data for
_MORE = bytes(range(0x35, 0x75))
_MORE_PROGRESSIVE = _MORE[:2]  # shows as much, and libjpeg complains on stderr less often than about many bytes
_MORE_ARITHMETIC = bytes(8) + _MORE  # its decoders read a little past the end of good data, and expect zeros there


def decoder_name() -> str:
    """Name of what decodes JPEGs here, and its version."""
    return f"OpenCV {cv2.__version__}" if simplejpeg is None else f"simplejpeg {simplejpeg.__version__}"


def decode_jpeg(data: npt.NDArray[np.uint8], frame: JpegFrame, factor: int) -> Picture | None:
    """Decode a JPEG all of whose data is there; None if no decoder can.

    Args:
        frame: its header.
        factor: by which the picture may be shrunk: 1, 2, 4 or 8, and a divisor of both sides.

    Returns:
        RGB, (height, width, 3), divided by `factor`, or by 1 where the checks need every pixel.

    Raises:
        MalformedImage: something is missing, or damaged.
    """
    scans = read_scans(data.data, frame)
    picture = _decode_strictly(data, frame, scans, factor)
    return _decode_and_compare(data, frame, scans, factor) if picture is None else picture


def _decode_strictly(data: npt.NDArray[np.uint8], frame: JpegFrame, scans: list[Scan], factor: int) -> Picture | None:
    """Decode what libjpeg has no warning about; None if it cannot tell, or warns of what may be harmless."""
    if simplejpeg is None:
        return None
    try:
        picture = simplejpeg.decode_jpeg(
            data, "RGB", min_height=frame.height // factor, min_width=frame.width // factor, min_factor=factor
        )
    except ValueError as refused:
        warning = str(refused)
        if _DAMAGE.search(warning) or _leaves_data(warning, data, scans):
            raise damaged(data.data, f"does not hold the picture that it announces ({warning})") from None
        return None
    return None if frame.is_arithmetic else cast("Picture", picture)  # those end without a warning


def _leaves_data(warning: str, data: npt.NDArray[np.uint8], scans: list[Scan]) -> bool:
    """Tell whether libjpeg was left with data when the picture, or an interval, was complete: its codes are others.

    A few stray bytes pass, and so does padding: one value again and again before the end.
    """
    found = _LEFT_OVER.search(warning)
    if found is None or int(found[1]) <= _STRAY:
        return False
    end = scans[-1].ends[-1]
    is_padding = found[2] == "d9" and (data[end - int(found[1]) : end] == data[end - 1]).all()
    return not is_padding


def _decode_and_compare(
    data: npt.NDArray[np.uint8], frame: JpegFrame, scans: list[Scan], factor: int
) -> Picture | None:
    """Decode, and once more with more data if data may have run out."""
    usual = _is_usual(frame, scans)
    factor = factor if usual else 1  # of other kinds, what is missing may show in fine detail only
    picture = _decode_freely(data, factor)
    if picture is not None and (not usual or _ends_grey(picture, frame, scans[0], factor)):
        fuller = _decode_freely(_with_more_data(data, frame, scans), factor)
        if fuller is None or not np.array_equal(picture, fuller):
            raise damaged(data.data, "lacks a part of its pixels")
    return picture


def _decode_freely(data: npt.NDArray[np.uint8], factor: int) -> Picture | None:
    """Decode, whatever is missing."""
    try:
        bgr: Any = cv2.imdecode(data, _FLAGS[factor])
    except cv2.error:
        return None
    return None if bgr is None else cast("Picture", cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))


def _is_usual(frame: JpegFrame, scans: list[Scan]) -> bool:
    """Tell whether this is the common kind of JPEG, in which blocks that data ran out for are grey."""
    return frame.is_sequential and len(scans) == 1 and len(frame.sampling) in (1, 3)


def _ends_grey(picture: Picture, frame: JpegFrame, scan: Scan, factor: int) -> bool:
    """Tell whether the last MCU of any interval is as bright as one that there was no data for.

    Its colour says less: at the edges it is mixed with the neighbours'.
    """
    height, width = frame.mcu_size if len(scan.components) > 1 else (8, 8)
    last = np.append(np.arange(scan.interval, scan.units, scan.interval), scan.units) - 1  # (intervals,)
    row, column = np.divmod(last, frame.units(scan.components)[1])
    y = row[:, None] * height + np.array([0, height // 2, height // 2, height - 1])  # (intervals, 4)
    x = column[:, None] * width + np.array([0, 0, width // 2, width - 1])  # (intervals, 4)
    y, x = np.minimum(y, frame.height - 1) // factor, np.minimum(x, frame.width - 1) // factor  # (intervals, 4)
    luma = picture[y, x] @ np.array([0.299, 0.587, 0.114])  # (intervals, 4)
    return bool((np.abs(luma - _GREY) < 1.5).all(axis=1).any())


def _with_more_data(data: npt.NDArray[np.uint8], frame: JpegFrame, scans: list[Scan]) -> npt.NDArray[np.uint8]:
    """Copy the JPEG with more data at the end of each interval: no decoder comes to it unless some was missing."""
    cuts = [_before_fill(data, end) for scan in scans for end in scan.ends]
    pieces = np.split(data, cuts)
    more = _MORE_PROGRESSIVE if frame.is_progressive else _MORE
    filler = np.frombuffer(_MORE_ARITHMETIC if frame.is_arithmetic else more, np.uint8)
    return np.concatenate([pieces[0], *(part for piece in pieces[1:] for part in (filler, piece))])  # (bytes,)


def _before_fill(data: npt.NDArray[np.uint8], marker: int) -> int:
    """Step back from a marker over the bytes FF that may come before it."""
    while data[marker - 1] == 0xFF:
        marker -= 1
    return marker
