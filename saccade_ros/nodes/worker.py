"""Threads behind the executor: one per camera decodes its tubelets; one owns the model, encodes and emits them.

The executor's thread only offers frames, in constant time. A tubelet that the worker is too slow for is replaced by the
next one, and counted. Nobody waits without a limit: a step or a decoder that hangs holds up its own thread alone, and
what it gives after all, once it was given up, is counted as late. In idle time skipped tubelets are evaluated in the
shadow, if that ends before the next tubelet of any stream can come.

The cameras' turns come one after the other, or, with an encoder that computes the steps of several as one at less cost
(EncoderInfo.together), those of so many at once. A camera joins if its tubelet is complete when the others' are still
being decoded: nobody waits for one that is not, and for each one's decoding no longer than one's own has taken.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from queue import SimpleQueue

from saccade_ros.frames import Decoded, EmbeddingResult, Frame, Tubelet
from saccade_ros.pipeline import Stream
from saccade_ros.stepping import Work, run_together
from saccade_ros.vision.ledger import LateTubelet

IDLE_MARGIN = 1.5  # of the slowest recent step, kept free before the next tubelet
PATIENCE_S = 0.05  # that decoding may take before others no longer wait for it
PAUSE_LIMIT_S = 2.0  # that a pause waits for the tubelets in hand
CLOSE_LIMIT_S = 0.5  # that closing waits for the threads

# Called on a thread of the worker's: publish one tubelet's embedding, or report an error with one.
Emit = Callable[[Stream, Tubelet, EmbeddingResult], None]
Report = Callable[[Stream, BaseException], None]


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
    """The worker's threads. Starts paused; `close` ends it.

    Args:
        max_latency_s: age of a tubelet, since its newer frame was received, up to which its embedding is emitted.
    """

    def __init__(self, streams: Sequence[Stream], emit: Emit, report: Report, max_latency_s: float = math.inf) -> None:
        self._streams, self._emit, self._report, self._max_latency_s = streams, emit, report, max_latency_s
        self.paces = {stream.name: ArrivalPace() for stream in streams}
        self._changed = threading.Condition()
        self._active = self._closing = False
        self._next = 0  # stream to serve next, round robin
        self._in_hand: dict[str, float] = {}  # when the tubelet that is decoded or encoded was taken, by stream
        self._given_up_s = -math.inf  # what was taken before is not emitted
        self._together = min((stream.backend.info.together for stream in streams), default=1)
        self._decoded: list[tuple[Stream, Decoded]] = []  # in the order in which they were done
        self._partners_until_s = -math.inf  # while these wait for others that are being decoded
        self._steps_ms: deque[float] = deque(maxlen=16)  # durations of the latest whole steps and shadow evaluations
        self._requests: list[SimpleQueue[bool]] = [SimpleQueue() for _ in streams]  # to decode; False ends
        for stream in streams:
            stream.intake.active = False
        self._threads = [threading.Thread(target=self._run, name="saccade-encoder", daemon=True)]
        for place, stream in enumerate(streams):
            arguments = (stream, self._requests[place])
            self._threads.append(
                threading.Thread(target=self._decode_all, args=arguments, name=f"saccade-{stream.name}", daemon=True)
            )
        for thread in self._threads:
            thread.start()

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
        """Refuse frames and wait for the tubelets in hand, so that all that was taken is emitted; but not for ever.

        One that takes longer than PAUSE_LIMIT_S is given up: its embedding, if it ever comes, counts as late.
        """
        with self._changed:
            self._stop_intake()
            if not self._changed.wait_for(lambda: not self._held, PAUSE_LIMIT_S):
                self._given_up_s = time.monotonic()

    def reset(self) -> None:
        """Start every stream afresh."""
        for stream in self._streams:
            stream.reset()

    def close(self) -> bool:
        """End the threads. May be called again.

        Returns:
            True if they have ended. One that hangs is left behind; it is a daemon, and what it gives is not emitted.
        """
        with self._changed:
            self._stop_intake()
            self._closing = True
            limit_s = CLOSE_LIMIT_S if self._held or not self._in_hand else 0.0
            self._changed.notify_all()
        for requests in self._requests:
            requests.put(False)
        deadline_s = time.monotonic() + limit_s
        for thread in self._threads:
            thread.join(max(0.0, deadline_s - time.monotonic()))
        self._given_up_s = time.monotonic()
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def is_alive(self) -> bool:
        """True while every thread runs."""
        return all(thread.is_alive() for thread in self._threads)

    def in_hand_s(self, stream: Stream) -> float:
        """Seconds since a stream's tubelet in hand was taken to be decoded and encoded; 0 if there is none."""
        taken_s = self._in_hand.get(stream.name)
        return 0.0 if taken_s is None else time.monotonic() - taken_s

    def _stop_intake(self) -> None:
        if self._active:
            self._active = False
            for stream in self._streams:
                stream.intake.pause()

    @property
    def _held(self) -> list[str]:
        """Streams with a tubelet in hand that is not given up."""
        return [name for name, taken_s in self._in_hand.items() if taken_s > self._given_up_s]

    # On the thread of a camera

    def _decode_all(self, stream: Stream, requests: "SimpleQueue[bool]") -> None:
        while requests.get():
            self._decode(stream)

    def _decode(self, stream: Stream) -> None:
        decoded = None
        try:
            decoded = stream.decode()
        except BaseException as failed:  # a malformed image, or whatever it is: counted; the camera must live
            self._tell(stream, failed)
        with self._changed:
            if decoded is None:
                self._in_hand.pop(stream.name)
            else:
                self._add(stream, decoded)
            self._changed.notify_all()

    def _add(self, stream: Stream, decoded: Decoded) -> None:
        """Have a decoded tubelet encoded; the first one sets how long others may still join it.

        It waits for each as long as its own decoding has taken, as decoders that share a core end one after the other.
        """
        if not self._decoded:
            now_s = time.monotonic()
            partners = len(self._patience_ends_s(now_s).keys() - {stream.name})
            self._partners_until_s = now_s + min(partners * (now_s - self._in_hand[stream.name]), PATIENCE_S)
        self._decoded.append((stream, decoded))

    # On the thread that owns the model

    def _run(self) -> None:
        while jobs := self._choose():
            run_together([self._encode(*job) for job in jobs], self._streams[0].backend)
            for stream, _ in jobs:
                self._evaluate_shadow(stream)
                with self._changed:
                    self._in_hand.pop(stream.name)
                    self._changed.notify_all()

    def _choose(self) -> list[tuple[Stream, Decoded]]:
        """Decoded tubelets, in their turn, asked for now, so that they are the newest; none when closing and done."""
        with self._changed:
            while self._in_hand or not self._closing:
                now_s = time.monotonic()
                self._ask_for_next(now_s)
                wait_s = self._wait_s(now_s)
                if wait_s == 0:
                    return self._take()
                self._changed.wait(wait_s)
            return []

    def _ask_for_next(self, now_s: float) -> None:
        """Have the next streams in turn decode their waiting tubelets, as many as are encoded together.

        One whose decoding takes long does not count: a camera whose pictures are slow, or a decoder that hangs, slows
        itself alone.
        """
        count = len(self._streams)
        for place in (place % count for place in range(self._next, self._next + count)):
            stream, begun = self._streams[place], len(self._decoded) + len(self._patience_ends_s(now_s))
            if begun < self._together and self._is_ready(stream):
                self._next = (place + 1) % count
                self._in_hand[stream.name] = now_s
                self._requests[place].put(True)

    def _patience_ends_s(self, now_s: float) -> dict[str, float]:
        """Until when others may wait for each stream whose tubelet is being decoded, in their turn."""
        done = {stream.name for stream, _ in self._decoded}
        ends_s = {name: taken_s + PATIENCE_S for name, taken_s in self._in_hand.items() if name not in done}
        return {name: end_s for name, end_s in ends_s.items() if end_s > now_s}

    def _wait_s(self, now_s: float) -> float | None:
        """Seconds until something may be due, 0 if decoded tubelets are to be encoded now; None: until a change."""
        ends_s = self._patience_ends_s(now_s)
        if not self._decoded:
            return min(ends_s.values()) - now_s if ends_s else None
        if not ends_s or len(self._decoded) >= self._together:
            return 0.0
        asked = list(self._in_hand)
        first = min(asked.index(stream.name) for stream, _ in self._decoded)
        its_turn_s = max((ends_s[name] for name in asked[:first] if name in ends_s), default=0.0)
        return max(0.0, its_turn_s - now_s, min(self._partners_until_s, max(ends_s.values())) - now_s)

    def _take(self) -> list[tuple[Stream, Decoded]]:
        """Decoded tubelets that are encoded together, in the order in which they were asked for."""
        asked = list(self._in_hand)
        jobs = sorted(self._decoded, key=lambda job: asked.index(job[0].name))
        self._decoded = jobs[self._together :]
        return jobs[: self._together]

    def _is_ready(self, stream: Stream) -> bool:
        return stream.intake.waiting and stream.name not in self._in_hand

    def _encode(self, stream: Stream, decoded: Decoded) -> Work[None]:
        try:
            result = yield from stream.embedding(decoded, partial(self._emit_in_time, stream))
        except BaseException as failed:  # whatever it is: counted; the node must live
            self._tell(stream, failed)
            return
        if result.tokens_computed >= result.tokens:  # as a shadow evaluation is: a whole step
            self._steps_ms.append(result.encode_ms)

    def _emit_in_time(self, stream: Stream, tubelet: Tubelet, result: EmbeddingResult) -> None:
        age_s = time.monotonic() - tubelet.newer.received_s
        if self._in_hand[stream.name] <= self._given_up_s:
            raise LateTubelet(f"an embedding came {age_s:.1f} s after its picture, when it had been given up")
        if age_s > self._max_latency_s:
            raise LateTubelet(
                f"an embedding came {age_s:.1f} s after its picture, later than node.max_latency_s "
                f"({self._max_latency_s:g} s): make the encoder cheaper, or raise the limit"
            )
        self._emit(stream, tubelet, result)

    def _tell(self, stream: Stream, failed: BaseException) -> None:
        """Report, unless nobody listens any more; a report that fails ends no thread."""
        with suppress(BaseException):  # the tubelet is counted, and the log is what has just failed
            if not self._closing:
                self._report(stream, failed)

    def _evaluate_shadow(self, stream: Stream) -> None:
        """Make the shadow evaluation that is due if there is time; never at the price of a fresh tubelet."""
        try:
            self._evaluate_if_idle(stream)
        except BaseException as failed:  # the embedding is published and the stream untouched: only this figure is lost
            self._tell(stream, failed)

    def _evaluate_if_idle(self, stream: Stream) -> None:
        if not stream.shadow_due:
            return
        if not self._has_idle_time():
            stream.shadow.refused += 1
            return
        self._steps_ms.append(stream.evaluate_shadow())
        for other in self._streams:
            other.shadow.delays += other.intake.waiting

    def _has_idle_time(self) -> bool:
        """True if the slowest recent step, with a margin, would end before the next tubelet of any stream can come."""
        with self._changed:
            comes = self._decoded or any(stream.intake.waiting for stream in self._streams)
            if not self._active or not self._steps_ms or comes:
                return False
            now_s = time.monotonic()
            done_s = now_s + IDLE_MARGIN * max(self._steps_ms) / 1e3
            return all(done_s < pace.next_s(now_s) for pace in self.paces.values())
