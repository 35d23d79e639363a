"""Account of every frame: frames received = frames used + frames dropped, by cause, + frames pending."""

import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

DROP_CAUSES: Mapping[str, str] = {
    "rate": "not sampled: the camera is faster than stream.fps",
    "overflow": "a newer tubelet was complete before the encoder took this one",
    "stale_stamp": "stamped no later than the frame before it; does the driver stamp its images?",
    "reset": "half a tubelet or waiting when the stream was reset or the node deactivated",
    "inactive": "arrived while the node was not active",
    "partner": "the other frame of its tubelet was malformed",
    "encoder_error": "the encoder failed on its tubelet; see the log",
    "late": "its embedding came later than node.max_latency_s, or after the node was deactivated",
    "zero_size": "malformed: no width or no height",
    "too_large": "malformed: more pixels than vision.max_megapixels",
    "wrong_step": "malformed: a row shorter than its pixels",
    "short_data": "malformed: less data than its rows",
    "unknown_encoding": "malformed: an encoding that is no picture",
    "undecodable": "malformed: corrupt or truncated compressed data",
}


DETAIL_LENGTH = 300  # of a message kept as an example: some name a value that a sender chose


class LateTubelet(RuntimeError):  # noqa: N818  # it names the tubelet, not a fault of this program
    """A tubelet whose embedding came too late to be published. The message says how late, and the remedy."""


@dataclass(frozen=True)
class Accounts:
    """Copy of a ledger's counts at one moment; received = used + sum(dropped) + pending.

    Attributes:
        pending: received and neither used nor dropped yet: half a tubelet, or one waiting or in the encoder's hands.
        lost: images that left the camera and were never received; not among the received.
        details: newest example of a cause or a reason of `dropped` and `resets`, in words.
    """

    received: int = 0
    used: int = 0
    pending: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    resets: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    details: Mapping[str, str] = field(default_factory=dict)

    def since(self, earlier: "Accounts") -> "Accounts":
        """Count what came after an earlier moment; `pending` and `details` are as they are now."""
        return replace(
            self,
            received=self.received - earlier.received,
            used=self.used - earlier.used,
            dropped=_since(self.dropped, earlier.dropped),
            resets=_since(self.resets, earlier.resets),
            lost=self.lost - earlier.lost,
        )


def _since(now: Mapping[str, int], earlier: Mapping[str, int]) -> dict[str, int]:
    return {cause: count - earlier.get(cause, 0) for cause, count in now.items() if count > earlier.get(cause, 0)}


class FrameLedger:
    """Frame counts of one stream. Safe to use from the thread that receives and the one that encodes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.received = 0
        self.used = 0
        self.dropped: Counter[str] = Counter()
        self.resets: Counter[str] = Counter()
        self.lost_in_transport = 0  # images that never came in
        self.details: dict[str, str] = {}

    def receive(self) -> None:
        """Count a frame that came in."""
        with self._lock:
            self.received += 1

    def use(self, frames: int) -> None:
        """Count frames that went into a published embedding."""
        with self._lock:
            self.used += frames

    def refuse(self, cause: str, detail: str = "") -> None:
        """Count a frame that came in and will not be used; as `drop`."""
        self.receive()
        self.drop(cause, detail=detail)

    def drop(self, cause: str, frames: int = 1, detail: str = "") -> None:
        """Count frames that will never be in an embedding.

        Args:
            cause: a key of DROP_CAUSES; any other raises KeyError.
            detail: what was wrong with these, in words, as an example of the cause.
        """
        if cause not in DROP_CAUSES:
            raise KeyError(f"{cause!r} is no drop cause: add it to DROP_CAUSES with its meaning")
        with self._lock:
            self.dropped[cause] += frames
            self._keep(cause, detail)

    def reset(self, reason: str, detail: str = "") -> None:
        """Count a new start of the stream; `detail` is an example of the reason, in words."""
        with self._lock:
            self.resets[reason] += 1
            self._keep(reason, detail)

    def _keep(self, cause: str, detail: str) -> None:
        if detail:
            rest = " ..." if len(detail) > DETAIL_LENGTH else ""
            self.details[cause] = " ".join(detail[:DETAIL_LENGTH].split()) + rest  # one line

    @property
    def dropped_total(self) -> int:
        """Frames dropped, all causes."""
        with self._lock:
            return self.dropped.total()

    @property
    def pending(self) -> int:
        """Frames received and neither used nor dropped yet."""
        return self.accounts().pending

    def accounts(self) -> Accounts:
        """Copy all counts, consistent with each other whatever the other thread does."""
        with self._lock:
            pending = self.received - self.used - self.dropped.total()
            counts = dict(self.dropped), dict(self.resets), self.lost_in_transport, dict(self.details)
            return Accounts(self.received, self.used, pending, *counts)
