"""Appearance of a video's pictures: what its container and its frames say about how they are to be shown.

Stream, orientation, shape of the pixels, and matrix and range of the colours are honoured. What is not, and changes the
picture, is warned of: docs/inputs.md lists it property by property.
"""

import logging
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any

import numpy as np

from saccade_ros.frames import Picture

# Numbers and names are FFmpeg's: AVColorSpace, AVColorTransferCharacteristic, AVColorRange, AVFrameSideDataType.
_BT709, _BT601, _FULL_RANGE = 1, 5, 2
_MATRICES = frozenset({1, 4, 5, 6, 7, 9})  # those of swscale; it takes any other for BT.601
_TRANSFERS = {
    8: "linear light",
    9: "logarithmic",
    10: "logarithmic",
    16: "HDR (PQ)",
    17: "cinema (SMPTE 428)",
    18: "HDR (HLG)",
}
_LAYOUTS = {"STEREO3D": "holds both views of a stereo pair", "SPHERICAL": "is a projection of a sphere"}
_WIDEST = 16  # times as wide as high, or the other way round, that a pixel may be

_log = logging.getLogger(__name__)


def best_stream(container: Any) -> Any | None:
    """Choose the video stream that players show: neither a preview nor the cover of a song; None if there is none."""
    videos = [stream for stream in container.streams.video if not _is_cover(stream)]
    best = container.streams.best("video")
    return best if best in videos else next(iter(videos), None)


class Appearance:
    """Conversion of a stream's frames to pictures as they are to be shown.

    Args:
        name: of the file, for warnings.
        warn: told each thing once.
    """

    def __init__(self, stream: Any, name: str, warn: Callable[[str], object] = _log.warning) -> None:
        self._stream, self._name, self._warn = stream, name, warn
        self._told: set[str] = set()

    def picture(self, frame: Any) -> Picture:
        """Convert a frame to RGB, uint8, (height, width, 3), upright, with square pixels."""
        for remark in self._remarks(frame):
            if remark not in self._told:
                self._told.add(remark)
                self._warn(f"{self._name} {remark}")
        matrix = int(frame.colorspace) if int(frame.colorspace) in _MATRICES else _BT601
        rgb = frame.reformat(
            width=max(1, round(frame.width * self._pixel_ratio())),
            format="rgb24",
            src_colorspace=matrix,
            dst_colorspace=_BT709 if matrix == _BT601 else _BT601,  # no matter of RGB; PyAV 16 ignores an equal pair
            src_color_range=int(frame.color_range),
            dst_color_range=_FULL_RANGE,
        ).to_ndarray()  # (H, W, 3)
        return np.ascontiguousarray(_oriented(rgb, _display_matrix(frame)))  # (H, W, 3)

    def _pixel_ratio(self) -> Fraction:
        """Width of a pixel over its height."""
        ratio = self._stream.sample_aspect_ratio or Fraction(1)
        return Fraction(ratio) if _is_sensible(ratio) else Fraction(1)

    def _remarks(self, frame: Any) -> Iterator[str]:
        """Warnings of all that changes the picture and is not honoured, each with its remedy."""
        transfer = int(self._stream.codec_context.color_trc)
        if transfer in _TRANSFERS:
            yield (
                f"is {_TRANSFERS[transfer]} video, which is not tone-mapped: its pictures are paler or darker than "
                f"those of a camera; convert it first, with `ffmpeg -i {self._name} -vf zscale=t=linear:npl=100,"
                "tonemap=hable,zscale=t=bt709:m=bt709:r=tv,format=yuv420p sdr.mp4`"
            )
        if frame.interlaced_frame:
            yield (
                "is interlaced: edges that move are combs; convert it first, with "
                f"`ffmpeg -i {self._name} -vf bwdif OUT.mp4`"
            )
        if frame.format.name.startswith("gray") and (bits := frame.format.components[0].bits) > 8:
            yield (
                f"holds grey of {bits} bits, of which 8 are kept: record mono16 images in a bag, "
                "for which there is vision.mono16_range"
            )
        if not _is_sensible(self._stream.sample_aspect_ratio or 1):
            yield f"declares pixels of {self._stream.sample_aspect_ratio}, which is ignored"
        if not _is_right_angled(_display_matrix(frame)):
            yield "is to be shown at an angle that is none of 0, 90, 180 and 270 degrees: it is shown as stored"
        for name, layout in _LAYOUTS.items():
            data = frame.side_data.get(name)  # not by iterating: PyAV 19 gives keys, those before it values
            if data and any(bytes(data)[:4]):  # the kind of layout; 0 is an ordinary picture
                yield (f"{layout}, and is shown as stored: cut out one view first, with stereo3d or v360 of ffmpeg")


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & type(stream.disposition).attached_pic)


def _is_sensible(ratio: Any) -> bool:
    return bool(1 / _WIDEST <= ratio <= _WIDEST)


def _display_matrix(frame: Any) -> tuple[int, int, int, int]:
    """Signs of (a, b, c, d): a pixel at (x, y), from the middle, is shown at (ax + cy, bx + dy)."""
    if data := frame.side_data.get("DISPLAYMATRIX"):
        a, b, _, c, d, *_ = np.sign(np.frombuffer(data, np.int32)).tolist()
        return a, b, c, d
    return 1, 0, 0, 1


def _is_right_angled(matrix: tuple[int, int, int, int]) -> bool:
    a, b, c, d = matrix
    return (not b and not c and bool(a and d)) or (not a and not d and bool(b and c))


def _oriented(picture: Picture, matrix: tuple[int, int, int, int]) -> Picture:
    """Turn and mirror a picture (H, W, 3) as the matrix says, if it says so in right angles."""
    a, b, c, d = matrix
    if not _is_right_angled(matrix):
        return picture
    if b:  # rows become columns
        picture, a, d = picture.transpose(1, 0, 2), c, b  # (W, H, 3)
    return picture[::d, ::a]
