"""Tracks of a recording for the player: the serialized images of each topic, in memory or read ahead by a thread."""

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from saccade_ros.recordings.source import Source, SourceError

Nanoseconds = npt.NDArray[np.int64]
Messages = Generator[bytes, None, None]

_AHEAD_BYTES = 64 << 20  # that a thread reads ahead of the player
_WAIT_S = 0.1  # after which the thread sees that it is no longer needed


@dataclass(frozen=True)
class Track:
    """Images of one topic.

    Attributes:
        topic, msgtype, reliability: as the source has them.
        times_ns: when each was recorded, (N,), ascending, from the first of all tracks on.
        stamps_ns: its stamp, (N,).
        cycle: yields the serialized messages over and over again, from the first one on; close it to end it.
    """

    topic: str
    msgtype: str
    reliability: str
    times_ns: Nanoseconds
    stamps_ns: Nanoseconds
    cycle: Callable[[], Messages]


@dataclass(frozen=True)
class Tracks:
    """Tracks of a recording, and the length of a pass: its own span, and one period to the next pass.

    Attributes:
        pass_ns: from the first image of a pass to that of the next, by the time of recording.
        pass_stamp_ns: the same by stamps, so that stamps increase from pass to pass as they do within one.
        in_memory: True if all messages are.
    """

    tracks: tuple[Track, ...]
    pass_ns: int
    pass_stamp_ns: int
    in_memory: bool


def load_tracks(sources: Sequence[Source], memory_bytes: int) -> Tracks:
    """Read each source, one for each topic, whole, so that no damage shows during a trial.

    Args:
        memory_bytes: messages of more than this, all together, are read again in each pass, ahead of time.

    Raises:
        SourceError: a source cannot be read to its end.
    """
    readings, left = [_Reading(source) for source in sources], memory_bytes
    for reading in readings:
        left -= reading.read(left)
    first_ns = min(min(reading.times_ns) for reading in readings)
    tracks = tuple(reading.track(first_ns, in_memory=left >= 0) for reading in readings)
    return Tracks(
        tracks, pass_of([t.times_ns for t in tracks]), pass_of([t.stamps_ns for t in tracks]), in_memory=left >= 0
    )


@dataclass
class _Reading:
    """One reading of a source: its times, and its messages if they fit."""

    source: Source
    times_ns: list[int] = field(default_factory=list)
    stamps_ns: list[int] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    total: int = 0  # bytes

    def read(self, at_most: int) -> int:
        """Read everything, and keep the messages if they have no more bytes than this; return how many they have."""
        for image in self.source:
            assert image.cdr is not None  # a video is played as the bag that is made of it
            self.times_ns.append(image.time_ns)
            self.stamps_ns.append(image.stamp_ns)
            self.total += len(image.cdr)
            if self.total > at_most:
                self.messages.clear()
            else:
                self.messages.append(image.cdr)
        return self.total

    def track(self, first_ns: int, in_memory: bool) -> Track:
        """Make the track."""
        source, messages = self.source, self.messages
        ahead = max(2, _AHEAD_BYTES * len(self.times_ns) // max(1, self.total))
        return Track(
            source.topic,
            source.msgtype,
            source.reliability,
            np.maximum.accumulate(np.array(self.times_ns, np.int64) - first_ns),
            np.array(self.stamps_ns, np.int64),
            (lambda: _repeat(messages)) if in_memory else (lambda: _read_ahead(source, ahead)),
        )


def pass_of(times_ns: Sequence[Nanoseconds]) -> int:
    """Length of a pass: from the first to the last of all, and the median step of the slowest track."""
    first, last = min(int(t.min()) for t in times_ns), max(int(t.max()) for t in times_ns)
    steps = [np.diff(np.unique(t)) for t in times_ns]
    return last - first + max((int(np.median(step)) for step in steps if len(step)), default=1)


def _repeat(messages: Sequence[bytes]) -> Messages:
    while True:
        yield from messages


def _read_ahead(source: Source, ahead: int) -> Messages:
    """Yield a source's messages over and over again, which a thread reads up to so many ahead."""
    waiting: queue.Queue[bytes | SourceError | OSError] = queue.Queue(ahead)
    ended = threading.Event()

    def put(item: bytes | SourceError | OSError) -> None:
        while not ended.is_set():
            try:
                waiting.put(item, timeout=_WAIT_S)
            except queue.Full:
                continue
            return

    def read() -> None:
        try:
            while not ended.is_set():
                for image in itertools.takewhile(lambda _: not ended.is_set(), source):
                    put(image.cdr or b"")
        except (SourceError, OSError) as error:  # raised where the message is wanted
            put(error)

    thread = threading.Thread(target=read, name="saccade-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, SourceError | OSError):
                raise item
            yield item
    finally:
        ended.set()
        thread.join()
