"""Tubelets of one stream: frames sampled at the target rate by their stamps, and paired.

Anything stamped (decoded frames or undecoded messages) is taken in constant time per frame, so this may run in a
subscription callback: the two frames of a tubelet keep their spacing however busy the encoder is.
"""

from saccade_ros.config import StreamConfig
from saccade_ros.frames import Frame, Tubelet
from saccade_ros.vision.ledger import FrameLedger

# A frame at most this much older than the newest is a late packet or a duplicate; further back, the clock jumped.
REORDER_NS = 100_000_000


class TubeletBuffer:
    """Sampler and pairing of one stream. Counts every frame it is given, and every one it drops, in the ledger."""

    _older: Frame | None
    _newest_ns: int | None
    _source: tuple[str, tuple[int, int]] | None
    _due_ns: int | None

    def __init__(self, config: StreamConfig, ledger: FrameLedger) -> None:
        self.ledger = ledger
        self.epoch = 0
        self._period_ns = round(1e9 / config.fps) if config.fps else 0
        self._max_gap_ns = round(config.max_gap_s * 1e9)
        self._forget()

    def push(self, frame: Frame, size: tuple[int, int]) -> Tubelet | None:
        """Take one frame; return the tubelet it completes, if any.

        Args:
            size: (height, width); like frame_id, a change of it starts the stream afresh.
        """
        stamp_ns, source = frame.stamp_ns, (frame.frame_id, size)
        self.ledger.receive()
        if self._newest_ns is not None and 0 <= self._newest_ns - stamp_ns <= REORDER_NS:
            self.ledger.drop("stale_stamp", detail=self._step_of_time(stamp_ns))
            return None
        if reason := self._discontinuity(stamp_ns, source):
            self.reset(reason, self._describe(reason, stamp_ns, source))
        due = self._take_if_due(stamp_ns)
        self._newest_ns, self._source = stamp_ns, source
        if not due:
            self.ledger.drop("rate")
            return None
        if self._older is None:
            self._older = frame
            return None
        tubelet = Tubelet(self._older, frame, self.epoch, self._index, size)
        self._older = None
        self._index += 1
        return tubelet

    def reset(self, reason: str, detail: str = "") -> None:
        """Start afresh; the next tubelet carries a new epoch. `detail` tells more of the reason, in words."""
        if self._older is not None:
            self.ledger.drop("reset")
        self.ledger.reset(reason, detail)
        self.epoch += 1
        self._forget()

    def _forget(self) -> None:
        self._older = self._newest_ns = self._source = self._due_ns = None
        self._index = 0

    def _discontinuity(self, stamp_ns: int, source: tuple[str, tuple[int, int]]) -> str:
        """Reason why this frame cannot continue the stream; empty if it can."""
        if self._newest_ns is None:
            return ""
        if stamp_ns < self._newest_ns:
            return "time_jump"
        if stamp_ns - self._newest_ns > self._max_gap_ns:
            return "gap"
        return "" if source == self._source else "source_change"

    def _describe(self, reason: str, stamp_ns: int, source: tuple[str, tuple[int, int]]) -> str:
        """Values that make up the reason of a discontinuity."""
        if reason != "source_change":
            return self._step_of_time(stamp_ns)
        sources = (self._source or source, source)
        return " after ".join(f"{name!r} of {width} x {height}" for name, (height, width) in reversed(sources))

    def _step_of_time(self, stamp_ns: int) -> str:
        """Stamp of a frame and of the newest before it."""
        return f"{_seconds(stamp_ns)} s after {_seconds(self._newest_ns or 0)} s"

    def _take_if_due(self, stamp_ns: int) -> bool:
        """Tell whether this frame is the nearest to the next point of the sampling grid; if so, advance that point.

        Half the camera's own interval decides, so that jitter at a camera as fast as the target drops nothing.
        """
        if self._due_ns is None:
            self._due_ns = stamp_ns
        interval_ns = stamp_ns - self._newest_ns if self._newest_ns is not None else 0
        if stamp_ns + min(interval_ns, self._period_ns) // 2 < self._due_ns:
            return False
        missed = max(0, stamp_ns - self._due_ns) // max(1, self._period_ns)
        self._due_ns += (missed + 1) * self._period_ns
        return True


def _seconds(stamp_ns: int) -> str:
    """Format a stamp as seconds, to the nanosecond."""
    return f"{stamp_ns // 10**9}.{stamp_ns % 10**9:09}"
