"""Bags, videos and folders of pictures as stamped images, and video files written as bags.

Whatever cannot be read to its end is an error that says so. A replay of half a recording looks like a good
one, so nothing here falls back to fewer frames, to an empty stream or to made-up pictures.
"""

from pathlib import Path

from saccade_ros.recordings.bag import BAG_STARTS, BagSource
from saccade_ros.recordings.bag import image_topics as image_topics
from saccade_ros.recordings.content import read_start
from saccade_ros.recordings.pictures import PictureFolder, holds_pictures
from saccade_ros.recordings.source import Source, SourceError
from saccade_ros.recordings.video import VideoSource
from saccade_ros.storage import home_path

_BAG_SUFFIXES = (".bag", ".mcap", ".db3")  # of files that begin like no bag: they are damaged bags, not videos


def open_source(path: str | Path, topic: str | None = None, picture_hz: float = 0.0) -> Source:
    """Open a rosbag2 folder, an MCAP, SQLite or ROS 1 bag file, a video or a folder of pictures, whatever its name.

    Args:
        topic: chooses among a bag's image topics; may be left out if there is one. Others take it as name.
        picture_hz: rate of a folder of pictures; 0 takes the times from their names.

    Raises:
        SourceError: there is no such path or topic, or it can be read neither as a bag nor as a video nor as pictures.
    """
    path = home_path(path)
    if is_video(path):
        return VideoSource(path, topic)
    if path.is_dir() and holds_pictures(path):
        return PictureFolder(path, topic, picture_hz)
    return BagSource(path, topic)


def is_video(path: Path) -> bool:
    """Tell whether a recording is taken for a video, as what is neither a folder nor begins or is named like a bag.

    Raises:
        SourceError: there is no such path, or it is no recording.
    """
    if not path.exists():
        raise SourceError(f"{path} does not exist: give a rosbag2 folder, a .mcap, .db3 or .bag file, or a video file")
    return not (path.is_dir() or read_start(path).startswith(BAG_STARTS) or path.suffix.lower() in _BAG_SUFFIXES)
