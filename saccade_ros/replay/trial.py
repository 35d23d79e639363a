"""Outcome of one trial of a replay benchmark: what was offered, how late the player was, and what became of the frames.

A trial is one playing of the recording at one rate, or one level of a step load. A benchmark is a list of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

# Classes of the frames of a trial; every frame played is in exactly one. A malformed frame's is "malformed." + cause.
LOST, REPLACED, NOT_SAMPLED, MALFORMED = "lost_in_transport", "replaced_by_newer", "not_sampled", "malformed."
GATED, DENSE, SPARSE = "gated", "encoded_dense", "encoded_sparse"
COUNTED = "counted"  # received by a subscriber that only counts, in a check of the player alone
OTHER = "other."  # + the cause that the ledger names: no picture of a tubelet, a reset, an error of the encoder


@dataclass(frozen=True)
class Lateness:
    """Delay of the player behind its own schedule, in milliseconds; late by its own fault, not the encoder's."""

    p50_ms: float
    p99_ms: float
    max_ms: float

    @classmethod
    def of(cls, late_s: npt.NDArray[np.float64]) -> "Lateness":
        """Summarize the delays, in seconds, (N,) of all images sent; zeros if there are none."""
        p50, p99, worst = np.percentile(late_s, (50, 99, 100)) * 1e3 if len(late_s) else (0.0, 0.0, 0.0)
        return cls(float(p50), float(p99), float(worst))


class Arrival(NamedTuple):
    """Way of one embedding, in seconds since the first image of the trial was sent, on the player's steady clock.

    Attributes:
        topic: of the image.
        sent_s: when its newest image was sent.
        received_s: when the embedding was received.
    """

    topic: str
    sent_s: float
    received_s: float


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        offered_hz: images per second and topic that the schedule asked for.
        played_hz: images per second and topic that the player really sent.
        held: True if the player kept its schedule; a trial that did not is no result.
        passed: True if the encoder kept up, by the criterion of the mode.
        seconds: from the first image sent to the last.
        classes: frames by class; their sum is the number of frames played, or the accounts do not balance.
        played: frames sent, as the player counted them; None takes the sum of the classes.
        latency_ms: newest image received to embedding published, one per embedding, in the order of arrival.
        end_to_end_ms: newest image sent to embedding received, on the player's steady clock, paired by topic and stamp.
        arrivals: the same embeddings, each with its topic and both times, in the order of arrival.
        cpu_cores: processor time of the encoder's process over elapsed time.
        rss_mb: samples of (seconds, resident megabytes) of the encoder's process, once a second.
        gpu_mb: the same of its GPU memory; empty where there is none.
        joules: energy of the machine during the trial, by meter ("rapl:package-0", "ina:VDD_IN"); empty without one.
    """

    offered_hz: float
    played_hz: float
    held: bool
    passed: bool
    seconds: float
    lateness: Lateness
    classes: Mapping[str, int]
    played: int | None = None
    latency_ms: tuple[float, ...] = ()
    end_to_end_ms: tuple[float, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    cpu_cores: float = 0.0
    rss_mb: tuple[tuple[float, float], ...] = ()
    gpu_mb: tuple[tuple[float, float], ...] = ()
    joules: Mapping[str, float] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames in all classes."""
        return sum(self.classes.values())

    @property
    def balanced(self) -> bool:
        """True if every frame played is in exactly one class."""
        return self.played in (None, self.frames)

    def share(self, *classes: str) -> float:
        """Share of the frames in these classes."""
        return sum(self.classes.get(name, 0) for name in classes) / self.frames if self.frames else 0.0


@dataclass(frozen=True)
class Benchmark:
    """Trials of one node, configured once, and what they say together.

    Attributes:
        mode: recorded, fixed, peak, steps or burst.
        settings: the player's options, by name.
        trials: in the order in which they were made. Of a search for the peak the last ones verify it: most pass.
        peak_hz: highest rate offered that passed, and was verified; None of another mode, or if none did.
        configure_s: seconds that the transition configure took, cold and again after a cleanup (warm); one, or none
            where the node was configured by others.
        first_embedding_s: from the first image sent to the first embedding received.
        check: the player alone into a subscriber that only counts, at three times the peak; None of another mode.
        remark: why there is no result, or what limits it; empty if nothing does.
    """

    mode: str
    settings: Mapping[str, str | float | int | bool]
    trials: tuple[Trial, ...]
    peak_hz: float | None = None
    configure_s: tuple[float, ...] = ()
    first_embedding_s: float | None = None
    check: Trial | None = None
    remark: str = ""

    @property
    def is_result(self) -> bool:
        """True if every frame is accounted for and the player held its rate; of a search, if it found the peak."""
        balanced = all(trial.balanced for trial in self.trials)
        held = self.peak_hz is not None if self.mode == "peak" else all(trial.held for trial in self.trials)
        return balanced and held
