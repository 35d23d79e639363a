"""A bag or a video as stamped image messages.

Whatever cannot be read to its end is an error that says so. A replay of half a recording looks like a good
one, so nothing here falls back to fewer frames, to an empty stream or to made-up pictures.
"""

import heapq
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import av.error
import cv2
import numpy as np
from rosbags.interfaces import Connection
from rosbags.rosbag1 import Reader as Rosbag1Reader
from rosbags.rosbag2 import Reader as Rosbag2Reader
from rosbags.rosbag2 import Writer as Rosbag2Writer
from rosbags.typesys import Stores, get_typestore

from saccade_ros.frames import Picture

IMAGE, COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
BAG_SUFFIXES = (".bag", ".mcap", ".db3")
VIDEO_TOPIC, VIDEO_FRAME_ID = "/camera/image_raw", "camera"
FIRST_STAMP_NS = 1_000_000_000  # of a video, which has no clock; 0 means "not stamped" to many ROS nodes
JPEG_QUALITY = 95
_REORDER_FRAMES = 16  # as many as H.264 and H.265 may hold back
_LEAP_S = 1  # further back than any reordering: a spliced recording


class SourceError(ValueError):
    """A recording that cannot be read, or not to its end. The message names the value and the remedy."""


@dataclass(frozen=True, slots=True)
class RgbImage:
    """A video's frame in the shape of a sensor_msgs/Image. `data` is the picture itself, (height * step,)."""

    height: int
    width: int
    data: np.ndarray[Any, np.dtype[np.uint8]]
    step: int
    encoding: str = "rgb8"
    is_bigendian: int = 0


@dataclass(frozen=True, slots=True)
class ImageMessage:
    """One image of a recording.

    Attributes:
        stamp_ns: the header's stamp.
        time_ns: when the bag received it; of a video, the stamp.
        frame_id: the header's.
        message: has the attributes of a sensor_msgs Image or CompressedImage.
        cdr: the message as the bag stores it, to be published untouched; None from a video or a ROS 1 bag.
        msgtype: sensor_msgs/msg/Image or sensor_msgs/msg/CompressedImage.
    """

    stamp_ns: int
    time_ns: int
    frame_id: str
    message: Any
    cdr: bytes | None
    msgtype: str


class Source(ABC):
    """One stream of images. Each iteration starts at the beginning.

    Attributes:
        topic, msgtype: of the messages.
        count: frames as the recording lists them, None where it does not; decoders may lose one at the end.
        duration_s: of the recording, None where it does not say.
    """

    topic: str
    msgtype: str
    count: int | None
    duration_s: float | None

    @abstractmethod
    def __iter__(self) -> Iterator[ImageMessage]: ...

    def close(self) -> None:  # noqa: B027  # nothing to close is the common case
        """Let go of the recording."""

    def __enter__(self) -> "Source":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_source(path: str | Path, topic: str | None = None) -> Source:
    """Open a rosbag2 folder, a .mcap, .db3 or .bag (ROS 1) file, or a video file.

    `topic` chooses among a bag's image topics; it may be left out if there is one. A video takes it as name.
    """
    path = Path(path)
    if not path.exists():
        raise SourceError(f"{path} does not exist: give a rosbag2 folder, a .mcap, .db3 or .bag file, or a video file")
    if path.is_dir() or path.suffix in BAG_SUFFIXES:
        return BagSource(path, topic)
    return VideoSource(path, topic)


# Bags


class BagSource(Source):
    """An image topic of a rosbag.

    Only image types are decoded, by definitions that all ROS distributions share. So another topic's message
    definition, missing or odd, is no obstacle.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self._path = path
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

    def __iter__(self) -> Iterator[ImageMessage]:
        with _bag_errors(self._path):
            stored = self._reader.messages(connections=self._connections)
        read = 0
        while True:
            with _bag_errors(self._path):
                item = next(stored, None)
                if item is None:
                    break
                message = self._image_message(*item)
            read += 1
            yield message
        if read != self.count:
            raise SourceError(
                f"{self._path} has {read} of the {self.count} messages on {self.topic} that it lists: {_BAG_REMEDY}"
            )

    def _image_message(self, connection: Connection, time_ns: int, stored: bytes) -> ImageMessage:
        cdr = None if self._ros1 else bytes(stored)
        decode = self._types.deserialize_ros1 if self._ros1 else self._types.deserialize_cdr
        message: Any = decode(stored, connection.msgtype)
        stamp = message.header.stamp
        return ImageMessage(
            stamp_ns=stamp.sec * 10**9 + stamp.nanosec,
            time_ns=time_ns,
            frame_id=message.header.frame_id,
            message=message,
            cdr=cdr,
            msgtype=connection.msgtype,
        )


_BAG_REMEDY = "it may be cut or damaged; copy it again, or try `ros2 bag reindex` or `mcap recover` on it"


@contextmanager
def _bag_errors(path: Path) -> Iterator[None]:
    # rosbags meets damage with whatever comes first: its own errors, AssertionError, struct.error, TypeError
    # of ord(b""), those of SQLite, YAML, zstd and lz4.
    try:
        yield
    except Exception as error:  # any of those
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(f"{path} cannot be read as a bag ({reason}): {_BAG_REMEDY}") from error


def _check_pages(file: Path) -> None:
    """SQLite files end with a whole page. SQLite itself takes what a cut last page lacks for zeros: black pixels."""
    with file.open("rb") as head:
        start = head.read(18)
    if start.startswith(b"SQLite format 3\0"):
        page_size = int.from_bytes(start[16:], "big")
        if file.stat().st_size % (65536 if page_size == 1 else page_size or 1):
            raise SourceError(f"{file} ends within a page: {_BAG_REMEDY}")


def _choose(path: Path, connections: list[Connection], topic: str | None) -> list[Connection]:
    """The connections of the chosen image topic, or of the only one."""
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


# Videos


class VideoSource(Source):
    """A video file, each frame an RGB image stamped with its time in the video from FIRST_STAMP_NS on."""

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self._path = path
        self.topic, self.msgtype = topic or VIDEO_TOPIC, IMAGE
        with self._opened() as (container, stream):
            self.count = stream.frames or None
            self.duration_s = _declared_s(container, stream)

    def __iter__(self) -> Iterator[ImageMessage]:
        with self._opened() as (container, stream):
            first: int | None = None
            for frame, pts in _in_time(self._frames(container, stream), _LEAP_S / stream.time_base):
                first = pts if first is None else first
                stamp_ns = FIRST_STAMP_NS + round((pts - first) * stream.time_base * 10**9)
                yield ImageMessage(stamp_ns, stamp_ns, VIDEO_FRAME_ID, _rgb_image(frame), None, IMAGE)
            if first is None:
                raise SourceError(f"{self._path} holds no frame: give another video")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        try:
            with av.open(str(self._path), metadata_errors="ignore") as container:
                yield container, self._stream(container)
        except av.error.FFmpegError as error:
            raise SourceError(
                f"{self._path} cannot be read as a video ({error.strerror}): it is none, or cut or damaged; "
                "give one that plays to its end, or a rosbag2 folder"
            ) from error

    def _stream(self, container: Any) -> Any:
        # By its file name alone, FFmpeg takes any .txt for ANSI art and draws it.
        if container.format.name == "tty" or not container.streams.video:
            raise SourceError(f"{self._path} has no video: give a video file or a rosbag2 folder")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return stream

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        packets, end = 0, 0
        for packet in container.demux(stream):
            if packet.is_corrupt:
                raise self._cut_at(end * stream.time_base)
            if packet.size:
                packets += 1
                end = max(end, (packet.pts or 0) - (stream.start_time or 0) + (packet.duration or 0))
            yield from packet.decode()
        if _is_cut(container, stream, packets, end * stream.time_base):
            raise self._cut_at(end * stream.time_base)

    def _cut_at(self, end_s: Fraction) -> SourceError:
        declared = f" of {self.duration_s:.1f} s" if self.duration_s else ""
        return SourceError(
            f"{self._path} is cut or damaged after {float(end_s):.1f} s{declared}: copy it again, or keep "
            f"what there is with `ffmpeg -i {self._path.name} whole.mp4`"
        )


def _declared_s(container: Any, stream: Any) -> float | None:
    """Seconds that the file's header promises for the pictures."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska gives one duration for all streams, and sound may outlast the pictures.
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


def _is_cut(container: Any, stream: Any, packets: int, end_s: Fraction) -> bool:
    """Did the file end before its header says? FFmpeg itself takes most early ends for good ones."""
    declared_s = _declared_s(container, stream)
    missing_s = declared_s - float(end_s) if declared_s else 0.0
    frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    if not stream.frames:
        return missing_s > max(0.5, 1.5 * frame_s)
    # The edit list of an MP4 may hide frames that its header counts, so there the time must be short as well.
    hides = container.format.name.startswith("mov")
    return packets < stream.frames and (not hides or missing_s > 1.5 * frame_s)


def _in_time(frames: Iterable[Any], leap: Fraction) -> Iterator[tuple[Any, int]]:
    """Frames as decoded, which is the order to show them in, with their stamps in ascending order.

    Some writers store the decoding time as the time to show a frame; then the stamps come permuted.
    """
    waiting: deque[Any] = deque()
    stamps: list[int] = []
    for frame in frames:
        if frame.pts is None:
            raise SourceError("the video's frames have no times: convert it with `ffmpeg -i IN -r 30 OUT.mp4`")
        while stamps and frame.pts < max(stamps) - leap:
            yield waiting.popleft(), heapq.heappop(stamps)
        waiting.append(frame)
        heapq.heappush(stamps, frame.pts)
        if len(waiting) > _REORDER_FRAMES:
            yield waiting.popleft(), heapq.heappop(stamps)
    while waiting:
        yield waiting.popleft(), heapq.heappop(stamps)


def _rgb_image(frame: Any) -> RgbImage:
    # Phones store pictures sideways and note it; every player turns them.
    turns = getattr(frame, "rotation", 0) // 90  # counter-clockwise; PyAV 12 does not tell
    picture: Picture = np.rot90(frame.to_ndarray(format="rgb24"), turns)  # (H, W, 3)
    height, width, _ = picture.shape
    return RgbImage(height, width, np.ascontiguousarray(picture).reshape(-1), 3 * width)


# Video to bag


def write_bag(
    video_path: str | Path,
    bag_path: str | Path,
    topic: str = "/camera/image_raw/compressed",
    progress: Callable[[int, int | None], None] | None = None,
) -> int:
    """Write a video as a rosbag2 of JPEG images; return how many.

    `progress` is called after each image with the number done and, where known, of all. The bag appears at
    `bag_path` when it is complete and not before.
    """
    bag_path = Path(bag_path)
    if bag_path.exists():
        raise SourceError(f"{bag_path} exists: remove it or write to another folder")
    with open_source(video_path) as source:
        if not isinstance(source, VideoSource):
            raise SourceError(f"{video_path} is a bag already: give a video file")
        bag_path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target: a rename stays on one file system. Named like it: so are the files inside.
        with TemporaryDirectory(prefix=".writing_", dir=bag_path.parent) as scratch:
            written = _write_jpegs(source, Path(scratch) / bag_path.name, topic, progress)
            (Path(scratch) / bag_path.name).rename(bag_path)
    return written


def _write_jpegs(source: Source, bag_path: Path, topic: str, progress: Callable[[int, int | None], None] | None) -> int:
    types: Any = get_typestore(Stores.ROS2_JAZZY)
    written = 0
    with Rosbag2Writer(bag_path, version=9) as writer:
        connection = writer.add_connection(topic, COMPRESSED, typestore=types)
        for image in source:
            cdr = types.serialize_cdr(_compressed(types, image), COMPRESSED)
            writer.write(connection, image.time_ns, cdr)
            written += 1
            if progress:
                progress(written, source.count)
    return written


def _compressed(types: Any, image: ImageMessage) -> Any:
    sec, nanosec = divmod(image.stamp_ns, 10**9)
    stamp = types.types["builtin_interfaces/msg/Time"](sec=sec, nanosec=nanosec)
    header = types.types["std_msgs/msg/Header"](stamp=stamp, frame_id=image.frame_id)
    return types.types[COMPRESSED](header=header, format="jpeg", data=_jpeg(image.message))


def _jpeg(image: RgbImage) -> np.ndarray[Any, np.dtype[np.uint8]]:
    picture = image.data.reshape(image.height, image.width, 3)
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return np.asarray(data, np.uint8)
