"""Video file as a source: each frame an RGB picture, stamped with its time in the video."""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from saccade_ros.recordings.appearance import Appearance, best_stream
from saccade_ros.recordings.source import IMAGE, RecordedImage, Source, SourceError

VIDEO_TOPIC, VIDEO_FRAME_ID = "/camera/image_raw", "camera"
FIRST_STAMP_NS = 1_000_000_000  # of a video, which has no clock; 0 means "not stamped" to many ROS nodes
_REORDER_FRAMES = 16  # as many as H.264 and H.265 may hold back
_LEAP_S = 1  # further back than any reordering: a spliced recording


class VideoSource(Source):
    """Video file, each frame an RGB picture stamped with its time in the video from FIRST_STAMP_NS on.

    Raises:
        SourceError: the file holds no video; from iterating, it is cut or damaged.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self._path = path
        self.topic, self.msgtype = topic or VIDEO_TOPIC, IMAGE
        with self._opened() as (container, stream):
            self.count = stream.frames or None
            self.duration_s = _declared_s(container, stream)

    def __iter__(self) -> Iterator[RecordedImage]:
        with self._opened() as (container, stream):
            first: int | None = None
            appearance = Appearance(stream, self._path.name)
            for frame, pts in sort_stamps(self._frames(container, stream), _LEAP_S / stream.time_base):
                first = pts if first is None else first
                stamp_ns = FIRST_STAMP_NS + round((pts - first) * stream.time_base * 10**9)
                yield RecordedImage(stamp_ns, stamp_ns, VIDEO_FRAME_ID, appearance.picture(frame), None, IMAGE)
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
        stream = best_stream(container)
        if container.format.name == "tty" or stream is None:
            raise SourceError(f"{self._path} has no video: give a video file or a rosbag2 folder")
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
    """Tell whether the file ends before its header says. FFmpeg itself takes most early ends for good ones."""
    declared_s = _declared_s(container, stream)
    missing_s = declared_s - float(end_s) if declared_s else 0.0
    frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    if not stream.frames:
        return missing_s > max(0.5, 1.5 * frame_s)
    # The edit list of an MP4 may hide frames that its header counts, so there the time must be short as well.
    hides = container.format.name.startswith("mov")
    return packets < stream.frames and (not hides or missing_s > 1.5 * frame_s)


def sort_stamps(frames: Iterable[Any], leap: Fraction) -> Iterator[tuple[Any, int]]:
    """Give frames, which are decoded in the order to show them in, their stamps in ascending order.

    Some writers store the decoding time as the time to show a frame; then the stamps come permuted.

    Args:
        leap: a stamp further back than this, in units of the stamps, starts a new ascending order.

    Raises:
        SourceError: a frame has no stamp.
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
