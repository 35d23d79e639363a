"""Small videos drawn here."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from scenes import textured


def write_video(path: Path, frames: int = 40, hold: int = 10, fps: int = 25) -> Path:
    """A clip of still scenes, each held for a while, with lossy noise of its own."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 4_000_000
        for i in range(frames):
            picture = textured(seed=i // hold)
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path
