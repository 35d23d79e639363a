"""Clips: a recording as frames of a stream, and as the encoder's input, sampled and paired as the node does it."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.config import Config
from saccade_ros.frames import Frame, Picture
from saccade_ros.intake import Intake
from saccade_ros.recordings import open_source
from saccade_ros.recordings.source import RecordedImage, SourceError
from saccade_ros.verdict import judge_recording
from saccade_ros.vision.images import MalformedImage
from saccade_ros.vision.preprocess import normalize_all
from saccade_ros.vision.target import WHOLE, Square, Target


@dataclass(frozen=True, eq=False)
class Clip:
    """T tubelets of a recording.

    Attributes:
        pictures: RGB as the encoder sees it, before normalisation, uint8 (T, 2, size, size, 3).
        stamps_ns: of the newer frame of each, int64 (T,).
    """

    pictures: npt.NDArray[np.uint8]
    stamps_ns: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.stamps_ns)

    @property
    def pixels(self) -> npt.NDArray[np.float32]:
        """The encoder's input, (T, 2, 3, size, size)."""
        return normalize_all(self.pictures)


def frames_of(source: Iterable[RecordedImage]) -> Iterator[Frame]:
    """Each image of a recording as a frame, undecoded."""
    for recorded in source:
        yield Frame(recorded.image, recorded.stamp_ns, recorded.frame_id)


class DecodedTubelet(NamedTuple):
    """Two pictures of a tubelet, (H, W, 3) each, and their stamps."""

    older: Picture
    newer: Picture
    older_ns: int
    newer_ns: int


def read_tubelets(path: str | Path, config: Config, input_size: int, at_most: int = 0) -> npt.NDArray[np.float32]:
    """Read the pixels of a clip's first tubelets, (T, 2, 3, size, size), as read_clip does; raise what it raises."""
    return read_clip(path, config, input_size, at_most).pixels


def read_clip(path: str | Path, config: Config, input_size: int, at_most: int = 0) -> Clip:
    """Read a clip's first tubelets, all of them if `at_most` is 0, sampled at stream.fps and cut by vision.fit.

    A malformed image is passed over, as the node does.

    Raises:
        SourceError: the recording cannot be read, holds no tubelet, or time breaks in it.
    """
    decoded = decode_tubelets(path, config, Square(input_size, config.vision.fit))
    tubelets = [((t.older, t.newer), t.newer_ns) for t in itertools.islice(decoded, at_most or None)]
    pictures, stamps_ns = zip(*tubelets, strict=True)
    return Clip(np.array(pictures), np.array(stamps_ns, np.int64))


def decode_tubelets(path: str | Path, config: Config, target: Target = WHOLE) -> Iterator[DecodedTubelet]:
    """Read a clip's tubelets one by one, as `target` wants them; those with a malformed image are passed over.

    Raises:
        SourceError: the recording cannot be read, holds no tubelet, or time breaks in it.
    """
    intake, good = Intake(config), 0
    with open_source(path) as source:
        for tubelet in intake.tubelets(frames_of(source)):
            if tubelet.epoch:
                raise SourceError(
                    f"{path}: time or source breaks at {tubelet.stamp_ns} ns: give one unbroken recording"
                )
            try:
                pictures = intake.decode(tubelet.older, target), intake.decode(tubelet.newer, target)
            except MalformedImage as malformed:
                intake.ledger.drop(malformed.cause, detail=str(malformed))
                continue
            good += 1
            yield DecodedTubelet(*pictures, tubelet.older.stamp_ns, tubelet.newer.stamp_ns)
        if not good:
            raise SourceError(judge_recording(str(path), source.topic, intake.ledger.accounts(), good).sentence)
