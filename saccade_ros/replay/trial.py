"""Outcome of one trial of a replay benchmark: what was offered, how late the player was, and what became of the frames.

A trial is one playing of the recording at one rate, or one level of a step load. A benchmark is a list of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Classes of the frames of a trial; every frame played is in exactly one. A malformed frame's is "malformed." + cause.
LOST, REPLACED, NOT_SAMPLED, MALFORMED = "lost_in_transport", "replaced_by_newer", "not_sampled", "malformed."
GATED, DENSE, SPARSE = "gated", "encoded_dense", "encoded_sparse"
OTHER = "other."  # + the cause that the ledger names: no picture of a tubelet, a reset, an error of the encoder


@dataclass(frozen=True)
class Lateness:
    """Delay of the player behind its own schedule, in milliseconds; late by its own fault, not the encoder's."""

    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        offered_hz: images per second and topic that the schedule asked for.
        played_hz: images per second and topic that the player really sent.
        held: True if the player kept its schedule; a trial that did not is no result.
        passed: True if the encoder kept up, by the criterion of the mode.
        seconds: from the first image sent to the last.
        classes: frames by class; their sum is the number of frames played.
        latency_ms: newest image received to embedding published, one per embedding, in the order of arrival.
        end_to_end_ms: newest image sent to embedding received, on the player's steady clock, paired by topic and stamp.
        age_s: mean age of the information: of the newest embedding's image, averaged over time.
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
    latency_ms: tuple[float, ...] = ()
    end_to_end_ms: tuple[float, ...] = ()
    age_s: float | None = None
    cpu_cores: float = 0.0
    rss_mb: tuple[tuple[float, float], ...] = ()
    gpu_mb: tuple[tuple[float, float], ...] = ()
    joules: Mapping[str, float] = field(default_factory=dict)

    @property
    def frames(self) -> int:
        """Frames played."""
        return sum(self.classes.values())

    def share(self, *classes: str) -> float:
        """Share of the frames in these classes."""
        return sum(self.classes.get(name, 0) for name in classes) / self.frames if self.frames else 0.0
