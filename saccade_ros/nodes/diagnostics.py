"""/diagnostics: one status per stream, whose message answers "is it working?" in a line."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from saccade_ros.config import Config
from saccade_ros.nodes.image_topic import ImageTopic
from saccade_ros.nodes.worker import EncodeWorker
from saccade_ros.pipeline import Stream
from saccade_ros.verdict import Evidence, Level, Verdict, judge

WINDOW_S = 10.0  # that rates and shares are measured over
MANY = 4  # images, of which a tubelet should have come
NONSENSE_MS = 86_400_000.0  # a delay of more than a day is that of a recording, or of a clock that is not set


class StreamMonitor:
    """Judgement of one active stream, by its counts of the last ten seconds.

    Args:
        tell: called with the verdict when the kind of the trouble has changed.
    """

    def __init__(
        self, stream: Stream, topic: ImageTopic, worker: EncodeWorker, config: Config, tell: Callable[[str], object]
    ) -> None:
        self._stream, self._topic, self._worker, self._node, self._tell = stream, topic, worker, config.node, tell
        self._tubelet_s = 2.0 / config.stream.fps if config.stream.fps else 0.0
        now = _Counts(stream, topic)
        self._began_s, self._kind = now.time_s, ""
        self._history = deque([now])
        self._at_image = self._at_tubelet = now

    def status(self, node: str, hardware_id: str, active: bool, clock_ns: int) -> DiagnosticStatus:
        """Present state of the stream.

        Args:
            node: fully qualified name of the node, which with the topic's makes the status's.
            clock_ns: present time of the node's clock, which images are stamped by.
        """
        now = self._count(active)
        verdict = self._judge(now) if active else Verdict(Level.OK, "", "inactive")
        if verdict.kind != self._kind:
            self._kind = verdict.kind
            if verdict.kind:
                self._tell(f"{self._stream.name}: {verdict.sentence}")
        message = verdict.sentence or self._describe_work(now)
        status = DiagnosticStatus(level=bytes([verdict.level]), message=message, hardware_id=hardware_id)
        status.name = f"{node}: {self._stream.name}"
        values = {"finding": verdict.kind, **dict(self._rates(now, clock_ns)), **dict(_values(self._stream, now))}
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        return status

    def _count(self, active: bool) -> "_Counts":
        """Add the present counts to the history, and forget what is older than the window."""
        now, history = _Counts(self._stream, self._topic), self._history
        history.append(now)
        while len(history) > 2 and now.time_s - history[1].time_s >= WINDOW_S:
            history.popleft()
        if now.frames.received > self._at_image.frames.received or not active:
            self._at_image = now
        if now.tubelets > self._at_tubelet.tubelets or not active:
            self._at_tubelet = now
        return now

    def _judge(self, now: "_Counts") -> Verdict:
        silence, since = self._find_silence(now)
        return judge(
            Evidence(
                topic=self._stream.name,
                frames=now.frames.since(since.frames),
                tubelets=now.tubelets - since.tubelets,
                silence=silence,
                type=self._topic.type,
                senders=self._topic.senders,
                busy_s=self._worker.in_hand_s(self._stream),
                max_busy_s=self._node.max_latency_s or math.inf,
                dead="" if self._worker.is_alive else "its thread has ended",
                loss_share=self._node.loss_share,
                underestimated=self._stream.underestimates_loss,
            )
        )

    def _find_silence(self, now: "_Counts") -> tuple[str, "_Counts"]:
        """Say what has not come for too long; and the moment that the counts which explain it begin at."""
        image_s = now.time_s - max(self._began_s, self._topic.received_s)
        if image_s > self._node.silence_s:
            return f"no image for {image_s:.0f} s", self._at_image
        tubelet_s = now.time_s - self._at_tubelet.time_s
        waits = now.frames.received - self._at_tubelet.frames.received >= MANY
        if tubelet_s > self._node.silence_s + self._tubelet_s and waits:
            return f"images come, and no embedding for {tubelet_s:.0f} s", self._at_tubelet
        return "", self._history[0]

    def _describe_work(self, now: "_Counts") -> str:
        since = self._history[0]
        tubelets = now.tubelets - since.tubelets
        encoded = (now.encoded - since.encoded) / max(1, tubelets)
        computed = (now.tokens_computed - since.tokens_computed) / max(1, now.tokens - since.tokens)
        rate = tubelets / max(1e-9, now.time_s - since.time_s)
        return (
            f"{rate:.1f} tubelets/s, {encoded:.0%} encoded, {computed:.0%} of the tokens, "
            f"{self._stream.latency_ms:.0f} ms"
        )

    def _rates(self, now: "_Counts", clock_ns: int) -> Iterator[tuple[str, object]]:
        """Rates and ages; the first three have the names that greenwave_monitor reads."""
        since = self._history[0]
        images, seen_s = now.frames.received - since.frames.received, now.time_s - since.time_s
        stamped_s = (now.stamp_ns - since.stamp_ns) / 1e9 if since.stamp_ns else 0.0
        yield "frame_rate_node", f"{images / max(1e-9, seen_s):.3f}"
        yield "frame_rate_msg", f"{images / stamped_s:.3f}" if stamped_s > 0 else "N/A"
        waited_ns = (now.time_s - self._topic.received_s) * 1e9
        delay_ms = (clock_ns - waited_ns - now.stamp_ns) / 1e6
        known = self._topic.received_s > 0 and abs(delay_ms) < NONSENSE_MS
        yield "current_delay_from_realtime_ms", f"{delay_ms:.3f}" if known else "N/A"
        yield "image_age_s", f"{now.time_s - self._topic.received_s:.2f}" if self._topic.received_s else "N/A"
        yield "embedding_age_s", f"{now.time_s - self._at_tubelet.time_s:.2f}" if now.tubelets else "N/A"
        yield "publishers", ", ".join(sender.name for sender in self._topic.senders)
        yield "type", self._topic.type


class _Counts:
    """Counts of a stream at a moment."""

    def __init__(self, stream: Stream, topic: ImageTopic) -> None:
        self.time_s = time.monotonic()
        self.frames, self.stamp_ns = stream.ledger.accounts(), topic.stamp_ns
        self.tubelets, self.encoded = stream.published, stream.encoded
        self.tokens, self.tokens_computed = stream.tokens, stream.tokens_computed


def _values(stream: Stream, now: _Counts) -> Iterator[tuple[str, object]]:
    frames = now.frames
    yield "frames_received", frames.received
    yield "frames_used", frames.used
    yield "frames_pending", frames.pending
    yield "frames_dropped", sum(frames.dropped.values())
    for cause, count in sorted(frames.dropped.items()):
        yield f"frames_dropped.{cause}", count
    for reason, count in sorted(frames.resets.items()):
        yield f"resets.{reason}", count
    for cause, detail in sorted(frames.details.items()):
        yield f"details.{cause}", detail
    yield "frames_lost_in_transport", frames.lost
    yield "tubelets_published", now.tubelets
    yield "tubelets_encoded", now.encoded
    yield "tubelets_skipped", now.tubelets - now.encoded
    yield "tokens_computed_share", f"{stream.computed_share:.4f}"
    yield "latency_ms", f"{stream.latency_ms:.2f}"
    for name, value in stream.report().items():
        yield f"gate.{name}", f"{value:.4f}" if isinstance(value, float) else value
