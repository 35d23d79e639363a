"""Bags and videos as stamped images, and video files written as bags.

Whatever cannot be read to its end is an error that says so. A replay of half a recording looks like a good
one, so nothing here falls back to fewer frames, to an empty stream or to made-up pictures.
"""

from pathlib import Path

from saccade_ros.recordings.bag import BAG_STARTS, BagSource
from saccade_ros.recordings.content import read_start
from saccade_ros.recordings.source import Source, SourceError
from saccade_ros.recordings.video import VideoSource
from saccade_ros.storage import home_path

_BAG_SUFFIXES = (".bag", ".mcap", ".db3")  # of files that begin like no bag: they are damaged bags, not videos


def open_source(path: str | Path, topic: str | None = None) -> Source:
    """Open a rosbag2 folder, an MCAP, SQLite or ROS 1 bag file, or a video file, whatever its name.

    Args:
        topic: chooses among a bag's image topics; may be left out if there is one. A video takes it as name.

    Raises:
        SourceError: there is no such path or topic, or it can be read neither as a bag nor as a video.
    """
    path = home_path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist: give a rosbag2 folder, a .mcap, .db3 or .bag file, or a video file")
    if path.is_dir() or read_start(path).startswith(BAG_STARTS) or path.suffix.lower() in _BAG_SUFFIXES:
        return BagSource(path, topic)
    return VideoSource(path, topic)
