"""Tubelets of a recording, as the encoder takes them: what exports are calibrated and measured on."""

from collections.abc import Iterator

from saccade_ros.config import Config
from saccade_ros.export.graph import ExportError
from saccade_ros.frames import Pixels
from saccade_ros.ledger import FrameLedger
from saccade_ros.replay.source import ImageMessage, open_source
from saccade_ros.vision.decode import MalformedImage, check_image, decode_image
from saccade_ros.vision.preprocess import tubelet_pixels
from saccade_ros.vision.tubelet import TubeletBuffer


def read_tubelets(recording: str, input_size: int, limit: int, config: Config) -> list[Pixels]:
    """The first `limit` tubelets of a bag or video, sampled and fitted as the node would.

    Raises:
        SourceError: the recording cannot be read.
        ExportError: it holds no whole tubelet.
    """
    tubelets = []
    for tubelet in _tubelets(recording, input_size, config):
        tubelets.append(tubelet)
        if len(tubelets) == limit:
            break
    if not tubelets:
        raise ExportError(f"{recording} holds no two good frames at {config.stream.fps} frames/s: give a longer one")
    return tubelets


def _tubelets(recording: str, input_size: int, config: Config) -> Iterator[Pixels]:
    max_pixels = round(config.vision.max_megapixels * 1e6)
    buffer: TubeletBuffer[ImageMessage] = TubeletBuffer(config.stream, FrameLedger())
    with open_source(recording) as source:
        for image in source:
            try:
                size = check_image(image.message, max_pixels)
                pair = buffer.push(image, image.stamp_ns, image.frame_id, size)
                if pair is not None:
                    older, newer = (decode_image(i.message, max_pixels) for i in (pair.older, pair.newer))
                    yield tubelet_pixels(older, newer, input_size, config.vision.fit)
            except MalformedImage:
                continue
