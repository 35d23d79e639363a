"""Between the executor's thread, which receives images, and the one thread that owns the model.

The executor's side is constant time: count the frame, pair it, leave the newest complete tubelet in the camera's slot.
The worker takes tubelets from the slots in turn. What it is too slow for is dropped oldest first, and counted.
In idle time it evaluates skipped tubelets in the shadow, if that ends before the next tubelet of any camera can come.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from saccade_ros.engine import StreamEncoder
from saccade_ros.frames import EmbeddingResult, Tubelet
from saccade_ros.vision.ledger import FrameLedger
from saccade_ros.vision.malformed import MalformedImage
from saccade_ros.vision.tubelet import TubeletBuffer


@dataclass(frozen=True, slots=True)
class Arrival:
    """An undecoded image message and when it came, in monotonic seconds."""

    message: Any
    received_s: float


class Pace:
    """When a camera's next tubelet may come, from the shortest of its recent intervals."""

    SILENT_S = 2.0  # overdue by this much, a camera has stopped, and nobody waits for it

    def __init__(self) -> None:
        self._last_s = -math.inf
        self._intervals_s: deque[float] = deque(maxlen=8)

    def arrived(self, now_s: float) -> None:
        """A tubelet is complete."""
        if math.isfinite(self._last_s):
            self._intervals_s.append(now_s - self._last_s)
        self._last_s = now_s

    def next_s(self, now_s: float) -> float:
        """Earliest time of the next tubelet; `now_s` while that is not known, infinity once the camera is silent."""
        if not self._intervals_s:
            return now_s if now_s - self._last_s <= self.SILENT_S else math.inf
        due_s = self._last_s + min(self._intervals_s)
        return due_s if now_s - due_s <= self.SILENT_S else math.inf


@dataclass
class Camera:
    """One image topic: its frames' accounts, its tubelet in the making, its slot, and its state in the encoder."""

    topic: str
    ledger: FrameLedger
    buffer: TubeletBuffer[Arrival]
    encoder: StreamEncoder[Arrival]
    waiting: Tubelet[Arrival] | None = None
    lost_in_transport: int = 0  # images that the middleware reports lost before the node received them
    tubelets: int = 0
    encoded: int = 0
    latency_ms: float = 0.0  # of the last embedding, from its newest image received to published
    pace: Pace = field(default_factory=Pace)
    shadow_refused: int = 0  # shadow_evaluations that were due and for which there was no time
    shadow_delays: int = 0  # tubelets that came before an audit was done, sooner than ever before, and waited for it


AUDIT_MARGIN = 1.5  # of the slowest recent step, kept free before the next tubelet

# Called on the worker thread: publish one tubelet's embedding, or report what went wrong with one.
Publish = Callable[[Camera, Tubelet[Arrival], EmbeddingResult, float], None]
Report = Callable[[Camera, Exception], None]


class EncodeWorker:
    """The thread that encodes and publishes. Starts paused; `close` ends it."""

    def __init__(self, cameras: Sequence[Camera], publish: Publish, report: Report) -> None:
        self._cameras, self._publish, self._report = cameras, publish, report
        self._changed = threading.Condition()
        self._active = self._busy = self._closing = False
        self._turn = 0
        self._steps_ms: deque[float] = deque(maxlen=16)  # what the latest steps and shadow_evaluations took
        self._thread = threading.Thread(target=self._run, name="saccade-encoder", daemon=True)
        self._thread.start()

    def offer(self, camera: Camera, arrival: Arrival, stamp_ns: int, frame_id: str, size: tuple[int, int]) -> None:
        """Take one image, in constant time."""
        with self._changed:
            if not self._active:
                camera.ledger.receive()
                camera.ledger.drop("inactive")
                return
            tubelet = camera.buffer.push(arrival, stamp_ns, frame_id, size)
            if tubelet is None:
                return
            camera.pace.arrived(time.monotonic())
            if camera.waiting is not None:
                camera.ledger.drop("overflow", 2)
            camera.waiting = tubelet
            self._changed.notify_all()

    def resume(self) -> None:
        """Take images from now on."""
        with self._changed:
            self._active = True

    def pause(self) -> None:
        """Take no more images and wait for the tubelet in hand, so that all that was taken is published."""
        with self._changed:
            self._active = False
            self._reset("deactivated")
            self._changed.wait_for(lambda: not self._busy)

    def reset(self) -> None:
        """Start every stream afresh."""
        with self._changed:
            self._reset("request")

    def close(self) -> None:
        """End the thread after the tubelet in hand. May be called again."""
        with self._changed:
            self._active, self._closing = False, True
            self._reset("deactivated")
            self._changed.notify_all()
        self._thread.join()

    def _reset(self, reason: str) -> None:
        for camera in self._cameras:
            if camera.waiting is not None:
                camera.ledger.drop("reset", 2)
                camera.waiting = None
            camera.buffer.reset(reason)

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            self._encode(*taken)
            self._audit(taken[0])
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def _take(self) -> tuple[Camera, Tubelet[Arrival]] | None:
        """The next waiting tubelet, camera by camera in turn; None when closing."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or any(c.waiting for c in self._cameras))
            if self._closing:
                return None
            count = len(self._cameras)
            turn = next(t for t in range(self._turn, self._turn + count) if self._cameras[t % count].waiting)
            camera, self._turn = self._cameras[turn % count], (turn + 1) % count
            tubelet, camera.waiting = camera.waiting, None
            assert tubelet is not None
            self._busy = True
            return camera, tubelet

    def _encode(self, camera: Camera, tubelet: Tubelet[Arrival]) -> None:
        queue_ms = (time.monotonic() - tubelet.newer.received_s) * 1e3
        try:
            result = camera.encoder.encode(tubelet)
            self._publish(camera, tubelet, result, queue_ms)
        except MalformedImage as malformed:
            camera.ledger.drop(malformed.cause)
            camera.ledger.drop("partner")
            self._report(camera, malformed)
        except Exception as failed:  # whatever it is, the node must live and the frames be counted
            camera.ledger.drop("encoder_error", 2)
            self._report(camera, failed)
        else:
            camera.ledger.use(2)
            camera.tubelets += 1
            camera.encoded += result.encoded
            if result.encoded:
                self._steps_ms.append(result.encode_ms)

    def _audit(self, camera: Camera) -> None:
        """Audit the tubelet in hand if it is due and there is time; never at the price of a fresh one."""
        if not camera.encoder.shadow_due:
            return
        if not self._has_time():
            camera.shadow_refused += 1
            return
        try:
            self._steps_ms.append(camera.encoder.shadow_evaluate())
        except Exception as failed:  # the embedding is published and the stream untouched: only this audit is lost
            self._report(camera, failed)
        with self._changed:
            for other in self._cameras:
                other.shadow_delays += other.waiting is not None

    def _has_time(self) -> bool:
        """Would the slowest recent step, and a margin, end before the next tubelet of any camera can come?"""
        with self._changed:
            if not self._active or not self._steps_ms or any(camera.waiting for camera in self._cameras):
                return False
            now_s = time.monotonic()
            done_s = now_s + AUDIT_MARGIN * max(self._steps_ms) / 1e3
            return all(done_s < camera.pace.next_s(now_s) for camera in self._cameras)
