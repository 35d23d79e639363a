"""The thread that owns the model: it takes tubelets from the streams in turn, encodes and emits them.

The executor's thread only offers frames, in constant time. A tubelet that the worker is too slow for is replaced by the
next one, and counted. In idle time it evaluates skipped tubelets in the shadow, if that ends before the next tubelet
of any stream can come.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from saccade_ros.frames import EmbeddingResult, Frame, Tubelet
from saccade_ros.pipeline import Stream

IDLE_MARGIN = 1.5  # of the slowest recent step, kept free before the next tubelet

# Called on the worker's thread: publish one tubelet's embedding, or report an error with one.
Emit = Callable[[Stream, Tubelet, EmbeddingResult], None]
Report = Callable[[Stream, Exception], None]


class ArrivalPace:
    """Expected arrival of a stream's next tubelet, from the shortest of its recent intervals."""

    SILENT_S = 2.0  # overdue by this much, a camera has stopped, and nobody waits for it

    def __init__(self) -> None:
        self._last_s = -math.inf
        self._intervals_s: deque[float] = deque(maxlen=8)

    def arrived(self, now_s: float) -> None:
        """Note that a tubelet is complete."""
        if math.isfinite(self._last_s):
            self._intervals_s.append(now_s - self._last_s)
        self._last_s = now_s

    def next_s(self, now_s: float) -> float:
        """Earliest time of the next tubelet; `now_s` while that is not known, infinity once the camera is silent."""
        if not self._intervals_s:
            return now_s if now_s - self._last_s <= self.SILENT_S else math.inf
        due_s = self._last_s + min(self._intervals_s)
        return due_s if now_s - due_s <= self.SILENT_S else math.inf


class EncodeWorker:
    """The worker thread. Starts paused; `close` ends it."""

    def __init__(self, streams: Sequence[Stream], emit: Emit, report: Report) -> None:
        self._streams, self._emit, self._report = streams, emit, report
        self.paces = {stream.name: ArrivalPace() for stream in streams}
        self._changed = threading.Condition()
        self._active = self._busy = self._closing = False
        self._next = 0  # stream to serve next, round robin
        self._in_hand: dict[str, float] = {}  # when the tubelet that is encoded was taken, by stream
        self._steps_ms: deque[float] = deque(maxlen=16)  # durations of the latest whole steps and shadow evaluations
        for stream in streams:
            stream.intake.active = False
        self._thread = threading.Thread(target=self._run, name="saccade-encoder", daemon=True)
        self._thread.start()

    def offer(self, stream: Stream, frame: Frame) -> None:
        """Take one frame, in constant time.

        Raises:
            MalformedImage: see Stream.offer.
        """
        if stream.offer(frame):
            with self._changed:
                self.paces[stream.name].arrived(time.monotonic())
                self._changed.notify_all()

    def resume(self) -> None:
        """Take frames from now on."""
        with self._changed:
            self._active = True
            for stream in self._streams:
                stream.intake.resume()

    def pause(self) -> None:
        """Refuse frames and wait for the tubelet in hand, so that all that was taken is emitted."""
        with self._changed:
            self._active = False
            self._pause_streams()
            self._changed.wait_for(lambda: not self._busy)

    def reset(self) -> None:
        """Start every stream afresh."""
        with self._changed:
            for stream in self._streams:
                stream.reset()

    def close(self) -> None:
        """End the thread after the tubelet in hand. May be called again."""
        with self._changed:
            self._active, self._closing = False, True
            self._pause_streams()
            self._changed.notify_all()
        self._thread.join()

    @property
    def is_alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive()

    def in_hand_s(self, stream: Stream) -> float:
        """Seconds since a stream's tubelet in hand was taken to be encoded; 0 if there is none."""
        taken_s = self._in_hand.get(stream.name)
        return 0.0 if taken_s is None else time.monotonic() - taken_s

    def _pause_streams(self) -> None:
        for stream in self._streams:
            stream.intake.pause()

    def _run(self) -> None:
        while (stream := self._choose()) is not None:
            self._in_hand[stream.name] = time.monotonic()
            self._encode(stream)
            del self._in_hand[stream.name]
            self._evaluate_shadow(stream)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _choose(self) -> Stream | None:
        """The next stream with a waiting tubelet, in turn; None when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or any(stream.intake.waiting for stream in self._streams))
            if self._closing:
                return None
            count = len(self._streams)
            places = (place % count for place in range(self._next, self._next + count))
            place = next(place for place in places if self._streams[place].intake.waiting)
            self._next, self._busy = (place + 1) % count, True
            return self._streams[place]

    def _encode(self, stream: Stream) -> None:
        try:
            result = stream.encode(lambda tubelet, result: self._emit(stream, tubelet, result))
        except Exception as failed:  # a malformed image, or whatever it is: counted; the node must live
            self._report(stream, failed)
            return
        if result is not None and result.tokens_computed >= result.tokens:  # as a shadow evaluation is: a whole step
            self._steps_ms.append(result.encode_ms)

    def _evaluate_shadow(self, stream: Stream) -> None:
        """Make the shadow evaluation that is due if there is time; never at the price of a fresh tubelet."""
        if not stream.shadow_due:
            return
        if not self._has_idle_time():
            stream.shadow.refused += 1
            return
        try:
            self._steps_ms.append(stream.evaluate_shadow())
        except Exception as failed:  # the embedding is published and the stream untouched: only this figure is lost
            self._report(stream, failed)
        for other in self._streams:
            other.shadow.delays += other.intake.waiting

    def _has_idle_time(self) -> bool:
        """True if the slowest recent step, with a margin, would end before the next tubelet of any stream can come."""
        with self._changed:
            if not self._active or not self._steps_ms or any(stream.intake.waiting for stream in self._streams):
                return False
            now_s = time.monotonic()
            done_s = now_s + IDLE_MARGIN * max(self._steps_ms) / 1e3
            return all(done_s < pace.next_s(now_s) for pace in self.paces.values())
