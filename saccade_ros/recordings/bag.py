"""Image topic of a rosbag: rosbag2 (SQLite or MCAP) and ROS 1."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag2 import Reader as Rosbag2Reader
from rosbags.typesys import Stores, get_typestore

from saccade_ros.recordings.source import COMPRESSED, IMAGE, RecordedImage, Source, SourceError

BAG_SUFFIXES = (".bag", ".mcap", ".db3")
_BAG_REMEDY = "it may be cut or damaged; copy it again, or try `ros2 bag reindex` or `mcap recover` on it"


class BagSource(Source):
    """Image topic of a rosbag.

    Only image types are decoded, by definitions that all ROS distributions share. So another topic's message
    definition, missing or odd, is no obstacle.

    Raises:
        SourceError: the bag is unfinished, cut or damaged, or has no such image topic; from iterating, it has
            fewer messages than it lists.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self._path = path
        _check_files(path)
        self._ros1 = path.suffix == ".bag" and path.is_file()
        self._types = get_typestore(Stores.ROS1_NOETIC if self._ros1 else Stores.ROS2_JAZZY)
        with ExitStack() as opened:
            with _bag_errors(path):
                self._reader = Rosbag1Reader(path) if self._ros1 else Rosbag2Reader(path)
                opened.enter_context(self._reader)
            self._select(topic)
            self._opened = opened.pop_all()

    def _select(self, topic: str | None) -> None:
        self._connections = _choose(self._path, self._reader.connections, topic)
        self.topic, self.msgtype = self._connections[0].topic, self._connections[0].msgtype
        self.count = sum(connection.msgcount for connection in self._connections)
        self.duration_s = self._reader.duration / 1e9
        if not self.count:
            raise SourceError(f"{self.topic} in {self._path} has no messages: choose another topic or bag")

    def close(self) -> None:
        """Close the bag's files."""
        self._opened.close()

    def __iter__(self) -> Iterator[RecordedImage]:
        with _bag_errors(self._path):
            stored = self._reader.messages(connections=self._connections)
        read = 0
        while True:
            with _bag_errors(self._path):
                item = next(stored, None)
                if item is None:
                    break
                image = self._recorded_image(*item)
            read += 1
            yield image
        if read != self.count:
            raise SourceError(
                f"{self._path} has {read} of the {self.count} messages on {self.topic} that it lists: {_BAG_REMEDY}"
            )

    def _recorded_image(self, connection: Connection, time_ns: int, stored: bytes) -> RecordedImage:
        cdr = None if self._ros1 else bytes(stored)
        decode = self._types.deserialize_ros1 if self._ros1 else self._types.deserialize_cdr
        message: Any = decode(stored, connection.msgtype)
        stamp = message.header.stamp
        return RecordedImage(
            stamp_ns=stamp.sec * 10**9 + stamp.nanosec,
            time_ns=time_ns,
            frame_id=message.header.frame_id,
            image=message,
            cdr=cdr,
            msgtype=connection.msgtype,
        )


@contextmanager
def _bag_errors(path: Path) -> Iterator[None]:
    # rosbags meets damage with whatever comes first: its own errors, AssertionError, struct.error, TypeError
    # of ord(b""), those of SQLite, YAML, zstd and lz4.
    try:
        yield
    except Exception as error:  # any of those
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path} cannot be read as a bag ({reason}): {_BAG_REMEDY}") from error


def _check_files(path: Path) -> None:
    """Refuse a recording that was interrupted or cut, as far as its files show it."""
    if path.is_dir() and not (path / "metadata.yaml").exists():
        raise SourceError(
            f"{path} has no metadata.yaml, so it is no finished rosbag2: give the bag's own folder, "
            f"or let `ros2 bag reindex {path}` finish a recording that was interrupted"
        )
    if Path(f"{path}-wal").exists():
        raise SourceError(
            f"{path} has its newest messages in {path.name}-wal still: stop the recorder, or let "
            f"`ros2 bag reindex {path.parent}` finish a recording that was interrupted"
        )
    for file in path.glob("*.db3") if path.is_dir() else [path]:
        _check_pages(file)


def _check_pages(file: Path) -> None:
    """Refuse a SQLite file that ends within a page.

    SQLite itself takes what a cut last page lacks for zeros: black pixels.
    """
    with file.open("rb") as head:
        start = head.read(18)
    if start.startswith(b"SQLite format 3\0"):
        page_size = int.from_bytes(start[16:], "big")
        if file.stat().st_size % (65536 if page_size == 1 else page_size or 1):
            raise SourceError(f"{file} ends within a page: {_BAG_REMEDY}")


def _choose(path: Path, connections: list[Connection], topic: str | None) -> list[Connection]:
    """Choose the connections of the image topic, or of the only one."""
    images = [connection for connection in connections if connection.msgtype in (IMAGE, COMPRESSED)]
    topics = sorted({connection.topic for connection in images})
    if not topics:
        held = ", ".join(sorted({f"{c.topic} ({c.msgtype})" for c in connections})) or "no topics at all"
        raise SourceError(f"{path} has no image topic, but {held}: give a bag with camera images")
    listed = ", ".join(f"{name} ({sum(c.msgcount for c in images if c.topic == name)} messages)" for name in topics)
    if topic is None and len(topics) > 1:
        raise SourceError(f"{path} has {len(topics)} image topics: choose one of {listed}")
    wanted = topics[0] if topic is None else topic
    if wanted not in topics:
        kinds = {connection.msgtype for connection in connections if connection.topic == wanted}
        problem = f"no image topic, but {'/'.join(sorted(kinds))}" if kinds else "not there"
        raise SourceError(f"{wanted} in {path} is {problem}: choose one of {listed}")
    return [connection for connection in images if connection.topic == wanted]
