"""Time from camera message to the encoder's input, by size and form of the picture: a part of the bench card.

It is the node's own way, Stream.offer and Stream.decode, of two pictures; nothing is encoded.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from saccade_ros.config import Config, StreamConfig
from saccade_ros.frames import Frame, Picture
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.pipeline import Pipeline, Stream

SIZES = {"720p": (720, 1280), "1080p": (1080, 1920)}
JPEG_QUALITY = 90
PERIOD_NS = 40_000_000


@dataclass(frozen=True)
class JpegMessage:
    """sensor_msgs/CompressedImage, as far as it is read."""

    data: bytes
    format: str = "jpeg"


@dataclass(frozen=True)
class RawMessage:
    """sensor_msgs/Image, as far as it is read."""

    height: int
    width: int
    step: int
    data: bytes
    encoding: str = "bgr8"
    is_bigendian: int = 0


def measure_decoding(rounds: int) -> Iterator[list[dict[str, Any]]]:
    """Time a tubelet of each size and form, in turn, for the default model's input; yield all rows, once."""
    pipeline = Pipeline(Config(stream=StreamConfig(fps=0.0)))
    calls: dict[tuple[str, str], Callable[[], object]] = {}
    for size, (height, width) in SIZES.items():
        picture = _picture(height, width)
        messages: dict[str, JpegMessage | RawMessage] = {"jpeg": _jpeg(picture), "bgr8": _raw(picture)}
        for form, message in messages.items():
            calls[size, form] = _Camera(pipeline.open_stream(), message).decode
    for call in calls.values():
        call()
    times_ms = interleave(calls, rounds)
    input_size = pipeline.backend.info.input_size
    yield [
        {"size": size, "form": form, "input_size": input_size, "tubelet_ms": spread(times)._asdict()}
        for (size, form), times in times_ms.items()
    ]


class _Camera:
    """Camera that sends the same picture for ever."""

    def __init__(self, stream: Stream, message: JpegMessage | RawMessage) -> None:
        self._stream, self._message, self._stamp_ns = stream, message, 0

    def decode(self) -> None:
        """Take two pictures and decode the tubelet that they make."""
        for _ in range(2):
            self._stamp_ns += PERIOD_NS
            self._stream.offer(Frame(self._message, self._stamp_ns))
        self._stream.decode()


def _picture(height: int, width: int) -> Picture:
    """A picture as detailed as a camera's: coarse and fine noise, whose JPEG takes about a bit and a half a pixel."""
    rng, picture = np.random.default_rng(0), np.zeros((height, width, 3), np.float32)
    for cell, strength in ((64, 60.0), (8, 20.0), (2, 8.0)):
        grid = rng.normal(0, strength, (height // cell + 1, width // cell + 1, 3)).astype(np.float32)
        picture += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 128, 0, 255).astype(np.uint8)


def _jpeg(picture: Picture) -> JpegMessage:
    return JpegMessage(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())


def _raw(picture: Picture) -> RawMessage:
    height, width, channels = picture.shape
    return RawMessage(height, width, channels * width, picture.tobytes())
