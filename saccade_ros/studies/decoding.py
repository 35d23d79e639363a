"""Time from a camera's message to the encoder's input, beside the plain way: `saccade bench decode`.

The plain way decodes the whole picture, resizes it and normalises it; the product makes no pixel that the input does
not need. Both, and the product's stages, take turns in one run. Pictures differ where a JPEG is decoded at a smaller
scale: the record says by how many grey levels. `measure(input_size, fit, rounds)` gives the rows alone.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np

from saccade_ros.frames import Picture, Pixels
from saccade_ros.knobs import Settings, knob
from saccade_ros.measure.progress import Progress, silent
from saccade_ros.measure.records import record_head
from saccade_ros.measure.timing import interleave, spread
from saccade_ros.vision.images import decode_image
from saccade_ros.vision.jpeg_decoding import decoder_name
from saccade_ros.vision.preprocess import pair_pixels, tubelet_pixels
from saccade_ros.vision.target import Square

SIZES = {"720p": (720, 1280), "1080p": (1080, 1920)}
FORMS = ("jpeg", "bgr8", "rgb8", "yuv422")
INPUT_SIZE = 256  # pixels, of the large encoders
JPEG_QUALITY = 90
MAX_PIXELS = 16_000_000


@dataclass(frozen=True)
class Options(Settings):
    """Pictures to decode, and what for."""

    input_size: int = knob(
        INPUT_SIZE, "Side of the encoder's input in pixels; the default model's is 128.", at_least=16
    )
    rounds: int = knob(50, "Tubelets to time, of each size and form.", at_least=1)
    fit: str = knob("crop", "Way to make a picture square, as vision.fit.", choices=("crop", "stretch"))


@dataclass(frozen=True)
class Jpeg:
    """sensor_msgs/CompressedImage, as far as it is read."""

    data: bytes
    format: str = "jpeg"


@dataclass(frozen=True)
class Raw:
    """sensor_msgs/Image, as far as it is read."""

    height: int
    width: int
    encoding: str
    step: int
    data: bytes
    is_bigendian: int = 0


def run(options: Options, progress: Progress) -> dict[str, Any]:
    """Time every size and form; return the record."""
    return {
        "bench": "decode",
        **record_head("none", ""),
        "input_size": options.input_size,
        "fit": options.fit,
        "opencv": cv2.__version__,
        "opencv_threads": cv2.getNumThreads(),
        "jpeg_decoder": decoder_name(),
        "rows": measure(options.input_size, options.fit, options.rounds, progress),
    }


def measure(input_size: int, fit: str, rounds: int, progress: Progress = silent) -> list[dict[str, Any]]:
    """Time a tubelet of each size and form, in turn; a row for each."""
    square = Square(input_size, fit)
    cases = {(size, form): _Case(form, *SIZES[size], square) for size, form in itertools.product(SIZES, FORMS)}
    calls: dict[tuple[str, str, str], Callable[[], object]] = {
        (*name, way): call for name, case in cases.items() for way, call in case.ways().items()
    }
    for call in calls.values():
        call()
    medians_ms = {name: spread(times).median for name, times in interleave(calls, rounds, progress=progress).items()}
    return [
        {
            "size": size,
            "form": form,
            "bytes": case.bytes,
            **{f"{way}_ms": medians_ms[size, form, way] for way in case.ways()},
            **case.levels_apart(),
        }
        for (size, form), case in cases.items()
    ]


class _Case:
    """A camera of one size and form that sends two pictures for ever."""

    def __init__(self, form: str, height: int, width: int, square: Square) -> None:
        self._messages = [_message(form, _picture(height, width, seed)) for seed in range(2)]
        self._square = square
        self.bytes = len(self._messages[0].data)

    def ways(self) -> dict[str, Callable[[], object]]:
        """Ways that are timed: the whole one and the product's, and of this decoding and normalising alone."""
        older, newer = self._squares()
        return {
            "whole": self._whole,
            "decode": self._squares,
            "normalize": partial(pair_pixels, older, newer),
            "tubelet": self._tubelet,
        }

    def levels_apart(self) -> dict[str, float]:
        """Mean and largest difference between both ways' squares, in grey levels."""
        wholes = [self._square.resize(decode_image(message, MAX_PIXELS)).astype(int) for message in self._messages]
        apart = np.abs(np.stack(self._squares()) - np.stack(wholes))
        return {"levels_apart_mean": float(apart.mean()), "levels_apart_max": float(apart.max())}

    def _whole(self) -> Pixels:
        older, newer = (decode_image(message, MAX_PIXELS) for message in self._messages)
        return tubelet_pixels(older, newer, self._square.size, self._square.fit)

    def _squares(self) -> tuple[Picture, Picture]:
        older, newer = (decode_image(message, MAX_PIXELS, target=self._square) for message in self._messages)
        return older, newer

    def _tubelet(self) -> Pixels:
        return pair_pixels(*self._squares())


def _picture(height: int, width: int, seed: int) -> Picture:
    """A picture as detailed as a camera's: its JPEG takes about a bit and a half a pixel."""
    rng, picture = np.random.default_rng(seed), np.full((height, width, 3), 128, np.float32)
    for cell, strength in ((64, 60.0), (8, 20.0), (4, 6.0)):
        coarse = rng.normal(0, strength, (height // cell + 1, width // cell + 1, 3)).astype(np.float32)
        picture += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture, 0, 255).astype(np.uint8)


def _message(form: str, picture: Picture) -> Jpeg | Raw:
    height, width = picture.shape[:2]
    if form == "jpeg":
        return Jpeg(cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())
    if form == "yuv422":
        luma, chroma = picture[..., 0], picture[:, ::2, 1:].reshape(height, width)
        return Raw(height, width, form, 2 * width, np.stack([chroma, luma], -1).tobytes())  # U Y V Y
    return Raw(height, width, form, 3 * width, picture.tobytes())


def table(record: dict[str, Any]) -> str:
    """Write a line for each size and form."""
    lines = [
        f"From message to input, ms a tubelet; input {record['input_size']} px, {record['jpeg_decoder']}, OpenCV "
        f"{record['opencv']}",
        f"  {'':16}{'kB':>7}{'whole':>9}{'product':>9}{'decode':>9}{'normalise':>11}   grey levels apart",
    ]
    for row in record["rows"]:
        lines.append(
            f"  {row['size']} {row['form']:10}{row['bytes'] / 1e3:7.0f}{row['whole_ms']:9.2f}{row['tubelet_ms']:9.2f}"
            f"{row['decode_ms']:9.2f}{row['normalize_ms']:11.2f}   mean {row['levels_apart_mean']:.2f}, largest "
            f"{row['levels_apart_max']:.0f}"
        )
    return "\n".join([*lines, f"  medians; decode includes resizing; {record['machine']}"])
