"""Drift of the tokens that sparse steps keep, seen in those that a step refreshes.

A token whose patch did not change would come out differently all the same, because what it attends to has changed. The
tokens that a sparse step refreshes for their age alone are a sample of such tokens: how far their outputs moved since
they were computed last says how far the others have. Three things follow.

    If the others are too far off, as when something enters a still scene, the tubelet is computed whole after all.
    Else what they are off by is an estimate of what the embedding, a mean over all tokens, lacks. It is added.
    Where they hardly move, as with an encoder whose tokens depend little on each other, fewer need refreshing, and
    more change may be left.

Measured on a trained encoder (docs/tokens.md), the correction is worth a tenth more tokens, and the check bounds the
worst tubelets.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Vector

FAR = 0.12  # mean drift over all tokens, relative to the spread of the outputs, from which all are computed
RATE = 0.5  # weight of the newest sample in the estimate
USUAL = 0.04  # drift, as FAR counts it, from which on all of the usual refreshes are made
LEAST_PACE = 0.25  # of the usual refreshes: some samples must go on telling
MOST_SLACK = 1.5  # times the change that may be left, at the least pace; it falls to 1 at twice that pace


class Sample(NamedTuple):
    """Tokens of a sparse step that stand for those it keeps.

    Attributes:
        token_idx: tokens refreshed for their age alone, (N,).
        age_s: seconds since they were computed before, their mean.
        lag_s: seconds since each token was computed, 0 for those of this step: the mean over all tokens.
    """

    token_idx: npt.NDArray[np.int64]
    age_s: float
    lag_s: float


class Care(NamedTuple):
    """Care that the drift of the kept tokens asks of the selection.

    Attributes:
        pace: share of the usual refreshes to make, LEAST_PACE to 1.
        slack: factor of the change that may be left, 1 to MOST_SLACK.
    """

    pace: float
    slack: float


UTMOST_CARE = Care(1.0, 1.0)


class ContextDrift:
    """Estimate of how fast the outputs of one stream's kept tokens drift.

    Args:
        window: most tubelets in a row that are computed whole because the samples were far off.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self.reset()

    def reset(self) -> None:
        """Know nothing of the stream."""
        self._drift: Vector | None = None  # per second
        self._level = USUAL  # recent drift over all tokens, relative to the spread of the outputs
        self._pause = self._pause_left = 0

    @property
    def care(self) -> Care:
        """Care that the recent drift asks for: what a drift costs in fidelity goes with its square."""
        pace = min(max((self._level / USUAL) ** 2, LEAST_PACE), 1.0)
        return Care(pace, float(np.interp(pace, (LEAST_PACE, 2 * LEAST_PACE), (MOST_SLACK, 1.0))))

    @property
    def pauses(self) -> bool:
        """True for a tubelet that is to be computed whole, so that no second attempt follows a futile first."""
        return self._pause_left > 0

    def pass_pause(self) -> None:
        """Take note that a tubelet was computed whole in a pause."""
        self._pause_left -= 1

    def is_far(self, movement: Vector, spread: float, sample: Sample) -> bool:
        """Judge by the sample's mean movement (dim,) if the step can stand. Changes nothing that is remembered.

        Args:
            spread: scale of the outputs' differences (Movement.spread).
        """
        return _relative(movement, spread, sample) >= FAR

    def postpone(self) -> None:
        """Take note that a step could not stand, and was completed: none lags, and a pause follows.

        Each far sample in a row doubles the tubelets until the next attempt.
        """
        self._pause = self._pause_left = min(max(1, 2 * self._pause), self._window)
        self._drift, self._level = None, USUAL

    def learn(self, movement: Vector, spread: float, sample: Sample) -> None:
        """Take the movement of a step that stands into the estimate; arguments as of `is_far`."""
        drift = _per_second(movement, sample)
        before = np.zeros_like(drift) if self._drift is None else self._drift
        self._drift = before + np.float32(RATE) * (drift - before)
        self._level += RATE * (_relative(movement, spread, sample) - self._level)
        self._pause = 0

    def forget(self) -> None:
        """Take note that all tokens were computed: none lags."""
        self._drift = None

    def correct(self, vector: Vector, sample: Sample) -> Vector:
        """Add to a mean over all tokens (dim,) what those that were kept lack."""
        if self._drift is None:
            return vector
        corrected: Vector = vector + np.float32(sample.lag_s) * self._drift
        return corrected


def _relative(movement: Vector, spread: float, sample: Sample) -> float:
    """Mean drift over all tokens since each was computed, relative to the spread of the outputs."""
    drift = sample.lag_s * float(np.linalg.norm(_per_second(movement, sample)))
    return drift / spread if drift else 0.0


def _per_second(movement: Vector, sample: Sample) -> Vector:
    """Drift of a sample that moved so far, (dim,)."""
    drift: Vector = movement / np.float32(max(sample.age_s, 1e-9))
    return drift
