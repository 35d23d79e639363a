"""Small videos drawn here."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scenes import textured

from saccade_ros.frames import Picture


def write_video(path: Path, frames: int = 40, hold: int = 10, fps: int = 25) -> Path:
    """A clip of still scenes, each held for a while, with lossy noise of its own."""
    return write_pictures(path, (textured(seed=i // hold) for i in range(frames)), fps)


def write_pictures(path: Path, pictures: Iterable[Picture], fps: int = 25, size: tuple[int, int] = (320, 240)) -> Path:
    """Pictures of this width and height as a video; the folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 4_000_000
        for picture in pictures:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def write_pan(path: Path, place: int, frames: int = 24, step: tuple[int, int] = (0, 4), start: int = 0) -> Path:
    """A camera that pans over a textured place at 4 frames a second, `step` pixels down and right in each."""
    (down, right), margin = step, 96
    world = textured(120 + 2 * margin, 160 + 2 * margin, seed=place)
    tops, lefts = ((margin + (start + np.arange(frames)) * by) % (2 * margin) for by in (down, right))
    views = (world[top : top + 120, left : left + 160] for top, left in zip(tops, lefts, strict=True))
    return write_pictures(path, views, fps=4, size=(160, 120))
