"""Images that the player sent in a trial, and their times: how late, and whether the rate asked for was held."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.replay.trial import Lateness

PUNCTUAL_MS = 10.0  # p99 lateness that any player may have; a longer period allows as much as that
RATE_SHARE = 0.02  # by which the rate played may fall short of the rate offered

Nanoseconds = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Played:
    """Images sent, in the order in which they were.

    Attributes:
        topics: played.
        topic_idx: of each image, (N,) places in `topics`.
        stamps_ns: of each image, (N,).
        due_ns, sent_ns: when it was to be sent and when it was, on the monotonic clock, (N,).
        complete: False if the player was so late that it gave up.
        offered_hz: images per second and topic that the schedule asked for.
    """

    topics: Sequence[str]
    topic_idx: Nanoseconds
    stamps_ns: Nanoseconds
    due_ns: Nanoseconds
    sent_ns: Nanoseconds
    complete: bool
    offered_hz: float

    @classmethod
    def read(cls, report: Mapping[str, Any]) -> "Played":
        """Read the report that a player makes: `topics`, `images` as rows of the four numbers, and the rest."""
        topic_idx, stamps_ns, due_ns, sent_ns = np.array(report["images"], np.int64).reshape(-1, 4).T  # (4, N)
        return cls(report["topics"], topic_idx, stamps_ns, due_ns, sent_ns, report["complete"], report["offered_hz"])

    @property
    def count(self) -> int:
        """Images sent."""
        return len(self.sent_ns)

    @property
    def seconds(self) -> float:
        """From the first image sent to the last."""
        return _span_s(self.sent_ns)

    @property
    def played_hz(self) -> float:
        """Images per second and topic that were sent."""
        due_s, sent_s = _span_s(self.due_ns), self.seconds
        return self.offered_hz * due_s / sent_s if due_s and sent_s else self.offered_hz

    @property
    def lateness(self) -> Lateness:
        """Delays of the images behind the schedule."""
        return Lateness.of((self.sent_ns - self.due_ns) / 1e9)

    @property
    def held(self) -> bool:
        """True if the player kept its schedule: complete, in time but for one image of a hundred, and at that rate."""
        longest_ms = max(PUNCTUAL_MS, 1e3 / self.offered_hz if self.offered_hz else 0.0)
        slower_s = self.seconds - _span_s(self.due_ns)
        in_time = slower_s <= RATE_SHARE * _span_s(self.due_ns) + PUNCTUAL_MS / 1e3
        return self.complete and in_time and self.lateness.p99_ms <= longest_ms

    def sent_by_name(self) -> dict[tuple[str, int], int]:
        """Map topic and stamp to when the first image of that name was sent; a later one is no new image."""
        names = [
            (self.topics[topic], stamp) for topic, stamp in zip(self.topic_idx, self.stamps_ns.tolist(), strict=True)
        ]
        return dict(zip(reversed(names), reversed(self.sent_ns.tolist()), strict=True))


def _span_s(times_ns: Nanoseconds) -> float:
    return float(times_ns[-1] - times_ns[0]) / 1e9 if len(times_ns) else 0.0
