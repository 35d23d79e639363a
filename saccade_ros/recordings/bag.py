"""Image topic of a rosbag: rosbag2 (SQLite or MCAP) and ROS 1."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from rosbags.typesys import Stores, get_typestore

from saccade_ros.recordings.content import read_start
from saccade_ros.recordings.folder import FolderBag
from saccade_ros.recordings.mcap import MCAP_START, McapFile
from saccade_ros.recordings.rosbag1 import ROSBAG1_START, Rosbag1File
from saccade_ros.recordings.serialized import ros2_types, serialize_ros1
from saccade_ros.recordings.source import COMPRESSED, IMAGE, RecordedImage, Source, SourceError
from saccade_ros.recordings.sqlite import SQLITE_START, SqliteFile
from saccade_ros.recordings.stored import CDR, ROS1, BagError, BagFile, Channel, StoredMessage
from saccade_ros.recordings.zstd import ZSTD_START, decompress_zstd

_log = logging.getLogger(__name__)
_FORMATS: dict[bytes, type[McapFile] | type[SqliteFile] | type[Rosbag1File]] = {
    MCAP_START: McapFile,
    SQLITE_START: SqliteFile,
    ROSBAG1_START: Rosbag1File,
}
BAG_STARTS = tuple(_FORMATS)


class BagSource(Source):
    """Image topic of a rosbag.

    Only image types are decoded, by definitions that all ROS distributions share. So another topic's message
    definition, missing or odd, is no obstacle.

    Raises:
        SourceError: the bag is unfinished, cut or damaged, holds no messages of ROS 2 or has no such image topic; from
            iterating, too.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self._path = path
        self._file = _open(path)
        try:
            self._select(topic)
        except SourceError:
            self.close()
            raise

    def _select(self, topic: str | None) -> None:
        channels = _choose(self._path, self._file, topic)
        self.topic = self._recorded_topic = channels[0].topic
        self.msgtype = channels[0].msgtype
        self.reliability = max(channel.reliability for channel in channels)  # reliable, if any is
        self.count = sum(channel.count for channel in channels)
        self.duration_s = (self._file.last_ns - self._file.first_ns) / 1e9
        self._decode: Any = ros2_types().deserialize_cdr
        if self._file.encoding == ROS1:
            self._decode = get_typestore(Stores.ROS1_NOETIC).deserialize_ros1
        if not self.count:
            raise SourceError(f"{self.topic} in {self._path} has no messages: choose another topic or bag")
        if (publishers := max(channel.publishers for channel in channels)) > 1:
            _log.warning(
                "%s: %d publishers wrote %s, and their pictures take turns in one stream: "
                "record each camera under a topic of its own",
                self._path,
                publishers,
                self.topic,
            )

    def close(self) -> None:
        """Close the bag's files."""
        self._file.close()

    def __iter__(self) -> Iterator[RecordedImage]:
        stored = self._file.messages(self._recorded_topic)
        while True:
            with _bag_errors(self._path):
                message = next(stored, None)
                image = message and self._recorded_image(message)
            if image is None:
                return
            yield image

    def _recorded_image(self, stored: StoredMessage) -> RecordedImage:
        # rosbag2 compresses single messages, too; CDR never begins as zstd does.
        data = decompress_zstd(stored.data) if stored.data.startswith(ZSTD_START) else stored.data
        message: Any = self._decode(data, stored.msgtype)
        stamp = message.header.stamp
        return RecordedImage(
            stamp_ns=stamp.sec * 10**9 + stamp.nanosec,
            time_ns=stored.time_ns,
            frame_id=message.header.frame_id,
            image=message,
            cdr=data if self._file.encoding == CDR else serialize_ros1(message),
            msgtype=stored.msgtype,
        )


def image_topics(path: Path) -> list[str]:
    """List the topics of a bag that a BagSource can be opened for, by name.

    Raises:
        SourceError: the bag cannot be read.
    """
    with closing(_open(path)) as file:
        return sorted({channel.topic for channel in file.channels if _is_image(channel, file.encoding)})


def _open(path: Path) -> BagFile:
    with _bag_errors(path):
        return FolderBag(path, _open_file) if path.is_dir() else _open_file(path)


def _open_file(path: Path) -> BagFile:
    start = read_start(path)
    for begin, kind in _FORMATS.items():
        if start.startswith(begin):
            return kind(path)
    raise BagError("it begins like no bag: it is cut or damaged; copy it again")


@contextmanager
def _bag_errors(path: Path) -> Iterator[None]:
    # Damage shows as whatever comes first: struct.error, UnicodeDecodeError, AssertionError, TypeError of ord(b""),
    # errors of SQLite, YAML, zstd and lz4.
    try:
        yield
    except SourceError:
        raise
    except BagError as error:
        raise SourceError(f"{path} cannot be read as a bag: {error}") from error
    except Exception as error:  # any of those above, which share no base class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(
            f"{path} cannot be read as a bag ({reason}): it may be cut or damaged; copy it again"
        ) from error


def _choose(path: Path, file: BagFile, topic: str | None) -> list[Channel]:
    """Choose the channels of the image topic, or of the only one."""
    images = [channel for channel in file.channels if _is_image(channel, file.encoding)]
    topics = sorted({channel.topic for channel in images})
    if not topics:
        raise SourceError(_without_images(path, file))
    counts = {name: sum(channel.count for channel in images if channel.topic == name) for name in topics}
    listed = ", ".join(f"{name} ({count} messages)" for name, count in counts.items())
    if topic is None and len(topics) > 1:
        raise SourceError(f"{path} has {len(topics)} image topics: choose one of {listed}")
    wanted = topics[0] if topic is None else topic
    if wanted not in topics:
        kinds = {channel.msgtype for channel in file.channels if channel.topic == wanted}
        problem = f"no image topic, but {'/'.join(sorted(kinds))}" if kinds else "not there"
        raise SourceError(f"{wanted} in {path} is {problem}: choose one of {listed}")
    chosen = [channel for channel in images if channel.topic == wanted]
    if len({channel.msgtype for channel in chosen}) > 1:
        raise SourceError(f"{wanted} in {path} has raw and compressed images: keep one of the two in the bag")
    return chosen


def _is_image(channel: Channel, encoding: str) -> bool:
    return channel.msgtype in (IMAGE, COMPRESSED) and channel.encoding == encoding


def _without_images(path: Path, file: BagFile) -> str:
    """Say what a bag holds in place of images that can be played, and how to come by such a bag."""
    encodings = {channel.encoding for channel in file.channels}
    held = sorted(
        {f"{channel.topic} ({channel.msgtype or 'no type'}, {channel.encoding})" for channel in file.channels}
    )
    problem = f"{path} has no image topic, but {', '.join(held) or 'no topics at all'}"
    if ROS1 in encodings:
        return (
            f"{path} holds ROS 1 messages: convert the ROS 1 bag that it was made from with `rosbags-convert`, or give "
            "that bag itself"
        )
    if others := sorted(encodings - {CDR}):
        return (
            f"{problem}: messages in {' and '.join(others)} are none of ROS 2; record sensor_msgs images with "
            "`ros2 bag record`, or give a video"
        )
    return (
        f"{problem}: give a bag with sensor_msgs/msg/Image or CompressedImage; "
        "`ros2 run image_transport republish` makes them of the packets of a codec"
    )
