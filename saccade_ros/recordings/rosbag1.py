"""Bag of ROS 1, read by rosbags."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rosbags.rosbag1 import Reader

from saccade_ros.recordings.stored import ROS1, BagError, BagFile, Channel, StoredMessage

ROSBAG1_START = b"#ROSBAG V"


class Rosbag1File(BagFile):
    """Bag of ROS 1, format 2.0.

    Raises:
        BagError: it has no index.
        Exception: of any kind, from rosbags: it is cut or damaged; from reading, too.
    """

    encoding = ROS1

    def __init__(self, path: Path) -> None:
        self._reader = Reader(path)
        try:
            self._reader.open()
        except Exception as error:  # passed on, but for the one that has a remedy of its own
            if "not indexed" in str(error):
                raise BagError(
                    "it has no index: its recorder runs still or was interrupted; "
                    f"`rosbag reindex {path.name}` makes one"
                ) from error
            raise
        connections = self._reader.connections
        topics = Counter(c.topic for c in connections)
        self.channels = [Channel(c.topic, c.msgtype, ROS1, c.msgcount, topics[c.topic]) for c in connections]
        has_messages = any(c.msgcount for c in connections)
        self.first_ns = self._reader.start_time if has_messages else 0
        self.last_ns = self._reader.end_time - 1 if has_messages else 0

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def messages(self, topic: str) -> Iterator[StoredMessage]:
        """Read a topic's messages in the order of their times."""
        wanted = [connection for connection in self._reader.connections if connection.topic == topic]
        for connection, time_ns, data in self._reader.messages(wanted):
            yield StoredMessage(time_ns, connection.msgtype, bytes(data))
