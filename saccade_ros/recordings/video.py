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
from saccade_ros.recordings.extent import declared_bytes
from saccade_ros.recordings.source import IMAGE, RecordedImage, Source, SourceError

VIDEO_TOPIC, VIDEO_FRAME_ID = "/camera/image_raw", "camera"
FIRST_STAMP_NS = 1_000_000_000  # of a video, which has no clock; 0 means "not stamped" to many ROS nodes
_REORDER_FRAMES = 16  # as many as H.264 and H.265 may hold back
_LEAP_S = 1  # further back than any reordering: a spliced recording
JOINT = None  # between the frames of two recordings that were joined
_JOINT_PACKETS = 2  # by so many FFmpeg's mark may come before the joint of two recordings
_NO_TIMESTAMPS, _TS_DISCONT = 0x80, 0x200  # flags of FFmpeg's formats: raw streams; MPEG-TS and its kin


class VideoSource(Source):
    """Video file, each frame an RGB picture stamped with its time in the video from FIRST_STAMP_NS on.

    Raises:
        SourceError: the file holds no video; from iterating, it is cut or damaged.
    """

    def __init__(self, path: Path, topic: str | None = None) -> None:
        self._path = path
        self.topic, self.msgtype = topic or VIDEO_TOPIC, IMAGE
        declared, size = declared_bytes(path), path.stat().st_size
        if declared is not None and size < declared:
            raise self._cut(f"it has {size:,} of the {declared:,} bytes that it declares")
        self._is_whole = declared is not None
        with self._opened() as (container, stream):
            self.count = stream.frames or None
            self.duration_s = _declared_s(container, stream)

    def __iter__(self) -> Iterator[RecordedImage]:
        with self._opened() as (container, stream):
            first: int | None = None
            appearance = Appearance(stream, self._path.name)
            for frame, pts in sort_stamps(self._timed(container, stream), _LEAP_S / stream.time_base):
                first = pts if first is None else first
                stamp_ns = FIRST_STAMP_NS + round((pts - first) * stream.time_base * 10**9)
                yield RecordedImage(stamp_ns, stamp_ns, VIDEO_FRAME_ID, appearance.picture(frame), None, IMAGE)
            if first is None:
                raise SourceError(f"{self._path} holds no frame: give another video")

    @contextmanager
    def _opened(self) -> Iterator[tuple[Any, Any]]:
        try:
            with _open_container(self._path) as container:
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
        if container.format.name.endswith("_pipe") or container.format.name == "image2":
            raise SourceError(
                f"{self._path} is a picture: give a video; `ffmpeg -framerate FPS -i %04d.jpg video.mp4` makes one of "
                "many pictures, FPS being the rate that they were taken at"
            )
        if int(container.format.flags) & _NO_TIMESTAMPS:
            raise self._without_times(f"is a raw {container.format.name} stream, without times")
        stream.thread_type = "AUTO"
        return stream

    def _timed(self, container: Any, stream: Any) -> Iterator[Any]:
        for frame in self._frames(container, stream):
            if frame is not JOINT and frame.pts is None:
                raise self._without_times("has frames without times")
            yield frame

    def _frames(self, container: Any, stream: Any) -> Iterator[Any]:
        packets, end, losses = 0, 0, _Losses(_LEAP_S / stream.time_base)
        for packet in container.demux(stream):
            if losses.after(packet):
                raise self._cut(f"packets are missing near {float(end * stream.time_base):.1f} s")
            if losses.starts_again:
                yield from stream.decode(None)  # the last frames of the recording before
                stream.codec_context.flush_buffers()
                yield JOINT
            if packet.size:
                packets += 1
                end = max(end, (packet.pts or 0) - (stream.start_time or 0) + (packet.duration or 0))
            yield from packet.decode()
        if not self._is_whole and _is_short(container, stream, packets, end * stream.time_base):
            raise self._cut(f"it ends after {float(end * stream.time_base):.1f} s of {self.duration_s:.1f} s")

    def _cut(self, reason: str) -> SourceError:
        return SourceError(
            f"{self._path} is cut or damaged ({reason}): copy it again, or keep what there is with "
            f"`ffmpeg -i {self._path.name} whole.mp4`"
        )

    def _without_times(self, problem: str) -> SourceError:
        return SourceError(
            f"{self._path} {problem}: give it those of the camera, with its true rate in place of FPS: "
            f"`ffmpeg -r FPS -i {self._path.name} {self._path.stem}.mp4`"
        )


def _open_container(path: Path) -> Any:
    address = f"file:{path}"  # else a colon in a name would end a protocol
    try:
        return av.open(address, metadata_errors="ignore")
    except TypeError:  # from PyAV 19 on, which takes any metadata
        return av.open(address)


def _declared_s(container: Any, stream: Any) -> float | None:
    """Seconds that the file's header promises for the pictures."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    # Matroska gives one duration for all streams, and sound may outlast the pictures.
    if container.duration and len(container.streams) == 1:
        return float(container.duration / av.time_base)
    return None


class _Losses:
    """Packets that FFmpeg calls corrupt: where two recordings join its check errs, elsewhere some are lost.

    Args:
        leap: decoding times further apart than this are of two recordings.

    Attributes:
        starts_again: the packet is the first of another recording.
    """

    starts_again = False

    def __init__(self, leap: Fraction) -> None:
        self._leap = leap
        self._dts: int | None = None
        self._suspected_for: int | None = None  # packets since the corrupt one

    def after(self, packet: Any) -> bool:
        """Tell, packet by packet, whether some were lost before; the last one, empty, ends the file."""
        before, self._dts = self._dts, packet.dts
        if packet.is_corrupt:
            self._suspected_for = 0
        elif self._suspected_for is not None:
            self._suspected_for += 1
        step = packet.dts - before if before is not None and packet.dts is not None else 0
        leaps = step < 0 or step > self._leap
        self.starts_again = leaps and packet.is_keyframe
        if leaps:
            self._suspected_for = None
        return self._suspected_for is not None and (self._suspected_for > _JOINT_PACKETS or not packet.size)


def _is_short(container: Any, stream: Any, packets: int, end_s: Fraction) -> bool:
    """Tell whether a file whose structure does not tell ends before its header says.

    FFmpeg itself takes most early ends for good ones. Frames alone do not tell: edit lists hide some, writers leave
    out those that were dropped.
    """
    declared_s = _declared_s(container, stream)
    if declared_s is None or int(container.format.flags) & _TS_DISCONT:
        return False
    missing_s = declared_s - float(end_s)
    frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    if not stream.frames:
        return missing_s > max(0.5, 1.5 * frame_s)
    return packets < stream.frames and missing_s > 1.5 * frame_s


def sort_stamps(frames: Iterable[Any], leap: Fraction) -> Iterator[tuple[Any, int]]:
    """Give frames, which are decoded in the order to show them in, their stamps in ascending order.

    Some writers store the decoding time as the time to show a frame; then the stamps come permuted.

    Args:
        frames: with JOINT between two recordings, where a new ascending order starts.
        leap: a stamp further back than this, in units of the stamps, starts one, too.
    """
    waiting: deque[Any] = deque()
    stamps: list[int] = []
    for frame in frames:
        while stamps and frame is JOINT:
            yield waiting.popleft(), heapq.heappop(stamps)
        if frame is JOINT:
            continue
        while stamps and frame.pts < max(stamps) - leap:
            yield waiting.popleft(), heapq.heappop(stamps)
        waiting.append(frame)
        heapq.heappush(stamps, frame.pts)
        if len(waiting) > _REORDER_FRAMES:
            yield waiting.popleft(), heapq.heappop(stamps)
    while waiting:
        yield waiting.popleft(), heapq.heappop(stamps)
