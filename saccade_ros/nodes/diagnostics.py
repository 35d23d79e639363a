"""/diagnostics: one status per stream, whose message answers "is it working?" in a line."""

import time
from collections.abc import Iterator

from diagnostic_msgs.msg import DiagnosticStatus, KeyValue

from saccade_ros.pipeline import Stream
from saccade_ros.vision.malformed import CAUSES as MALFORMED_CAUSES

TROUBLE = ("stale_stamp", "partner", *MALFORMED_CAUSES)


class StreamMonitor:
    """Counts of one stream from one diagnostics message to the next."""

    def __init__(self, stream: Stream, silence_s: float) -> None:
        self._stream, self._silence_s = stream, silence_s
        self._last = _Counts(stream)
        self._last_image_s = time.monotonic()

    def status(self, hardware_id: str, active: bool) -> DiagnosticStatus:
        """Present state of the stream."""
        before, now = self._last, _Counts(self._stream)
        self._last = now
        if now.frames.received > before.frames.received or not active:
            self._last_image_s = now.time_s
        level, message = self._judge(before, now, active)
        status = DiagnosticStatus(level=level, message=message, hardware_id=hardware_id)
        status.name = f"saccade_encoder: {self._stream.name}"
        status.values = [KeyValue(key=key, value=str(value)) for key, value in _values(self._stream, now)]
        return status

    def _judge(self, before: "_Counts", now: "_Counts", active: bool) -> tuple[bytes, str]:
        if not active:
            return DiagnosticStatus.OK, "inactive"
        if now.errors > before.errors:
            return DiagnosticStatus.ERROR, "the encoder failed; see the log"
        silence_s = now.time_s - self._last_image_s
        if silence_s > self._silence_s:
            return DiagnosticStatus.WARN, f"no image for {silence_s:.0f} s: is the camera running, the topic right?"
        if now.trouble > before.trouble:
            return DiagnosticStatus.WARN, f"{now.trouble - before.trouble} unusable images; see frames_dropped"
        elapsed_s, tubelets = now.time_s - before.time_s, now.tubelets - before.tubelets
        encoded = (now.encoded - before.encoded) / max(1, tubelets)
        computed = (now.tokens_computed - before.tokens_computed) / max(1, now.tokens - before.tokens)
        return DiagnosticStatus.OK, (
            f"{tubelets / max(1e-9, elapsed_s):.1f} tubelets/s, {encoded:.0%} encoded, {computed:.0%} of the tokens, "
            f"{self._stream.latency_ms:.0f} ms"
        )


class _Counts:
    """Counts of a stream at a moment."""

    def __init__(self, stream: Stream) -> None:
        self.time_s = time.monotonic()
        self.frames = stream.ledger.accounts()
        self.errors = self.frames.dropped.get("encoder_error", 0)
        self.trouble = sum(self.frames.dropped.get(cause, 0) for cause in TROUBLE)
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
    yield "frames_lost_in_transport", stream.ledger.lost_in_transport
    yield "tubelets_published", now.tubelets
    yield "tubelets_encoded", now.encoded
    yield "tubelets_skipped", now.tubelets - now.encoded
    yield "tokens_computed_share", f"{stream.computed_share:.4f}"
    yield "latency_ms", f"{stream.latency_ms:.2f}"
    for name, value in stream.report().items():
        yield f"gate.{name}", f"{value:.4f}" if isinstance(value, float) else value
