"""A recording as the encoder's input: every tubelet, sampled, paired, resized and normalised as the node does it."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saccade_ros.config import Config
from saccade_ros.frames import Pixels
from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import ImageMessage, SourceError
from saccade_ros.vision.images import check_image, decode_image
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.malformed import MalformedImage
from saccade_ros.vision.preprocess import tubelet_pixels
from saccade_ros.vision.tubelet import TubeletBuffer


def read_tubelets(path: str | Path, config: Config, input_size: int, at_most: int = 0) -> npt.NDArray[np.float32]:
    """Pixels of a clip's first tubelets, all of them if `at_most` is 0: (T, 2, 3, size, size).

    A malformed image is passed over, as the node does.

    Raises:
        SourceError: the recording cannot be read, holds no tubelet, or time breaks in it.
    """
    tubelets = list(itertools.islice(_tubelets(path, config, input_size), at_most or None))
    if not tubelets:
        raise SourceError(f"{path} holds no two good frames at stream.fps {config.stream.fps}: give a longer recording")
    return np.stack(tubelets)


def _tubelets(path: str | Path, config: Config, input_size: int) -> Iterator[Pixels]:
    max_pixels = round(config.vision.max_megapixels * 1e6)
    buffer: TubeletBuffer[ImageMessage] = TubeletBuffer(config.stream, FrameLedger())
    with open_source(path) as source:
        for image in source:
            try:
                size = check_image(image.message, max_pixels)
                tubelet = buffer.push(image, image.stamp_ns, image.frame_id, size)
                if buffer.epoch:
                    raise SourceError(
                        f"{path}: time or source breaks at {image.stamp_ns} ns: give one unbroken recording"
                    )
                if tubelet is not None:
                    older, newer = (decode_image(part.message, max_pixels) for part in (tubelet.older, tubelet.newer))
                    yield tubelet_pixels(older, newer, input_size, config.vision.fit)
            except MalformedImage:
                continue
