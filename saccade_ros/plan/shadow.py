"""Shadow evaluation: encode some skipped tubelets after all, without a trace, to measure what reuse costs.

Fidelity is the centred cosine of the reused and the fresh embedding. The centre is the mean embedding of the
calibration's recordings, or the running mean of the stream where there is none, over what its steps computed: the gate
learns from losses, and evaluations, which are made when there is time, must not change them. In a scene in which
nothing ever happens the running mean leaves only noise to compare; a calibrated one does not.
"""

import math
from collections import deque

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Figures, Vector
from saccade_ros.measure.metrics import centred_cosine, summarize

RECENT = 256  # evaluations and ages that the figures are taken over
LEAST_FRESH = 8  # fresh embeddings from which on their running mean is used
_GOLDEN = 0.6180339887498949


def is_shadowed(skipped: int, rate: float) -> bool:
    """Choose which skipped tubelets to evaluate: True for a fraction `rate` of their numbers, counted from 1.

    The chosen ones are spread evenly but in step with nothing periodic (multiples of the golden ratio).
    """
    return (skipped * _GOLDEN) % 1.0 < rate


class FidelityMonitor:
    """Running figures of one stream's reuse. Survives resets: it judges the gate, not the scene.

    Args:
        centre: to take off the embeddings, (D,); None for their running mean.

    Attributes:
        evaluations: shadow evaluations done.
        refused: those that were due and for which there was no idle time.
        delays: tubelets that came before an evaluation was done and waited for it.
    """

    def __init__(self, centre: Vector | None) -> None:
        self.evaluations = self.refused = self.delays = 0
        self._centre = centre
        self._sum: npt.NDArray[np.float64] | None = None
        self._fresh = 0
        self._pairs: deque[tuple[Vector, Vector]] = deque(maxlen=RECENT)
        self._ages_s: deque[float] = deque(maxlen=RECENT)

    def record_fresh(self, vector: Vector) -> None:
        """Add a computed embedding to the running mean."""
        self._sum = vector.astype(np.float64) if self._sum is None else self._sum + vector
        self._fresh += 1

    @property
    def centre(self) -> Vector | None:
        """Mean embedding that is taken off, (D,); None while too few of them were seen."""
        if self._centre is None and self._sum is not None and self._fresh >= LEAST_FRESH:
            return (self._sum / self._fresh).astype(np.float32)
        return self._centre

    def loss(self, reused: Vector, fresh: Vector) -> float:
        """Compute what reuse costs, 1 - centred cosine; NaN while there is no centre."""
        centre = self.centre
        return math.nan if centre is None else 1.0 - float(centred_cosine(reused, fresh, centre))

    def record_age(self, age_s: float) -> None:
        """Note how old a published embedding is, in header time; 0 if fresh."""
        self._ages_s.append(age_s)

    def record_shadow(self, reused: Vector, fresh: Vector) -> None:
        """Note the outcome of a shadow evaluation: the embedding that was published and the one withheld."""
        self.evaluations += 1
        self._pairs.append((reused, fresh))

    def state(self) -> Figures:
        """Report the figures, from any thread. Fidelity only where there is enough to tell."""
        pairs, ages_s = tuple(self._pairs), tuple(self._ages_s)  # snapshots: the encoding thread appends meanwhile
        state: Figures = {
            "shadow_evaluations": self.evaluations,
            "shadow_refused": self.refused,
            "shadow_delays": self.delays,
        }
        if ages_s:
            state |= {"staleness_s_mean": float(np.mean(ages_s)), "staleness_s_max": max(ages_s)}
        centre = self.centre
        if centre is None or not pairs:
            return state
        reused, fresh = (np.stack(side) for side in zip(*pairs, strict=True))
        fidelity = summarize(centred_cosine(reused, fresh, centre))
        return state | {
            "fidelity_mean": fidelity.mean,
            "fidelity_p5": fidelity.p5,
            "fidelity_worst": fidelity.worst,
            "fidelity_centre": "running mean" if self._centre is None else "calibrated",
        }
