"""Schedule of a trial: which image the player sends when, and under which stamp."""

import heapq
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from saccade_ros.replay.tracks import Tracks

RECORDED, FIXED, BURST = "recorded", "fixed", "burst"


class Slot(NamedTuple):
    """One image to send.

    Attributes:
        due_s: seconds after the start of the trial.
        track: place of its track.
        stamp_ns: its stamp in this pass.
        turn: number of its pass; in pass 0 the stamp is its own, and its message goes out untouched.
    """

    due_s: float
    track: int
    stamp_ns: int
    turn: int


@dataclass(frozen=True)
class Schedule:
    """Times at which the images of a trial are sent.

    Attributes:
        kind: recorded, as far apart as they were recorded, divided by `rate`; fixed, `rate` images a second and topic;
            burst, `burst` images of each topic at once, `rate` times a second.
        seconds: length of the trial, in which the recording is repeated as often as it takes; 0 plays it once.
    """

    kind: str = RECORDED
    rate: float = 1.0
    burst: int = 1
    seconds: float = 0.0

    def slots(self, tracks: Tracks, passes_before: int = 0) -> Iterator[Slot]:
        """Yield the slots in the order of time.

        Args:
            passes_before: passes that earlier trials took; stamps go on from there.
        """
        return heapq.merge(*(self._of_track(tracks, track, passes_before) for track in range(len(tracks.tracks))))

    def offered_hz(self, tracks: Tracks) -> float:
        """Images per second and topic, over the topics on average."""
        if self.kind == RECORDED:
            images = sum(len(track.times_ns) for track in tracks.tracks) / len(tracks.tracks)
            return self.rate * images / (tracks.pass_ns / 1e9)
        return self.rate * self.burst

    def _of_track(self, tracks: Tracks, index: int, passes_before: int) -> Iterator[Slot]:
        track = tracks.tracks[index]
        for place in itertools.count():
            turn, at = divmod(place, len(track.times_ns))
            due_s = self._due_s(place, int(track.times_ns[at]) + turn * tracks.pass_ns)
            if (turn and not self.seconds) or (self.seconds and due_s >= self.seconds):
                return
            turn += passes_before
            yield Slot(due_s, index, int(track.stamps_ns[at]) + turn * tracks.pass_stamp_ns, turn)

    def _due_s(self, place: int, recorded_ns: int) -> float:
        if self.kind == RECORDED:
            return recorded_ns / 1e9 / self.rate
        return place // self.burst / self.rate
