"""A recording as the encoder's input: what benchmarks and offline jobs read instead of running the engine."""

from collections.abc import Iterator
from pathlib import Path

from saccade_ros.config import StreamConfig, VisionConfig
from saccade_ros.frames import Pixels
from saccade_ros.ledger import FrameLedger
from saccade_ros.replay.source import ImageMessage, open_source
from saccade_ros.vision.decode import decode_image
from saccade_ros.vision.preprocess import tubelet_pixels
from saccade_ros.vision.tubelet import TubeletBuffer


def read_tubelets(
    path: Path,
    size: int,
    stream: StreamConfig = StreamConfig(),  # noqa: B008  # frozen
    vision: VisionConfig = VisionConfig(),  # noqa: B008
) -> Iterator[Pixels]:
    """Sampled, paired, decoded and normalised as the engine does it: (2, 3, size, size) each.

    Raises:
        SourceError: the recording cannot be read; MalformedImage: one of its images.
    """
    max_pixels = round(vision.max_megapixels * 1e6)
    buffer: TubeletBuffer[ImageMessage] = TubeletBuffer(stream, FrameLedger())
    with open_source(path) as source:
        for image in source:
            tubelet = buffer.push(image, image.stamp_ns, image.frame_id, (0, 0))
            if tubelet is not None:
                older, newer = (decode_image(part.message, max_pixels) for part in (tubelet.older, tubelet.newer))
                yield tubelet_pixels(older, newer, size, vision.fit)
