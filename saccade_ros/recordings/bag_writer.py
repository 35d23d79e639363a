"""Writing of a video file as a rosbag2: JPEG images with the stamps of the video."""

import math
from pathlib import Path
from typing import cast

import cv2
import numpy as np
import numpy.typing as npt
from rosbags.rosbag2 import StoragePlugin
from rosbags.rosbag2 import Writer as Rosbag2Writer

from saccade_ros.frames import Picture
from saccade_ros.measure.progress import Progress, silent
from saccade_ros.recordings import open_source
from saccade_ros.recordings.serialized import compressed_message, ros2_types, serialize
from saccade_ros.recordings.source import COMPRESSED, Source, SourceError
from saccade_ros.recordings.video import VideoSource
from saccade_ros.storage import whole_path

JPEG_QUALITY = 95


def write_bag(
    video_path: str | Path,
    bag_path: str | Path,
    topic: str = "/camera/image_raw/compressed",
    progress: Progress = silent,
) -> int:
    """Write a video as a rosbag2 of JPEG images. The bag appears at `bag_path` when it is complete and not before.

    Args:
        progress: told after each image; NaN where the video does not say how many it has.

    Returns:
        Number of images.

    Raises:
        SourceError: `video_path` is no whole video, or `bag_path` exists.
    """
    bag_path = Path(bag_path)
    if bag_path.exists():
        raise SourceError(f"{bag_path} exists: remove it or write to another folder")
    with open_source(video_path) as source:
        if not isinstance(source, VideoSource):
            raise SourceError(f"{video_path} is no video, and can be played as it is")
        with whole_path(bag_path) as path:  # named like the bag, as the files inside then are
            return _write_jpegs(source, path, topic, progress)


def _write_jpegs(source: Source, bag_path: Path, topic: str, progress: Progress) -> int:
    written, count = 0, source.count or math.nan
    # MCAP: the writer of SQLite takes # ? and % in a path for parts of an address.
    with Rosbag2Writer(bag_path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        connection = writer.add_connection(topic, COMPRESSED, typestore=ros2_types())
        for recorded in source:
            picture = cast("Picture", recorded.image)  # a video has no others
            message = compressed_message(recorded.stamp_ns, recorded.frame_id, "jpeg", _jpeg(picture))
            writer.write(connection, recorded.time_ns, serialize(message))
            written += 1
            progress(f"writing {bag_path.name}", written / count)
    return written


def _jpeg(picture: Picture) -> npt.NDArray[np.uint8]:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(data, np.uint8)
