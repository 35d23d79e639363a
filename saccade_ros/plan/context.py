"""Drift of the tokens that sparse steps keep, seen in those that a step refreshes.

A token whose patch did not change would come out differently all the same, because what it attends to has changed. The
tokens that a sparse step refreshes for their age alone are a sample of such tokens: how far their outputs moved since
they were computed last says how far the others have. Two things follow.

    If the others are too far off, as when something enters a still scene, the tubelet is computed whole after all.
    Else what they are off by is an estimate of what the embedding, a mean over all tokens, lacks. It is added.

Measured on a trained encoder (docs/tokens.md), the correction is worth a tenth more tokens, and the check bounds the
worst tubelets.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Vector

FAR = 0.12  # mean drift over all tokens, relative to the spread of the outputs, from which all are computed
RATE = 0.5  # weight of the newest sample in the estimate


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
        self._pause = self._pause_left = 0

    def pauses(self) -> bool:
        """True for a tubelet that is to be computed whole, so that no second attempt follows a futile first.

        Each far sample in a row doubles the tubelets until the next attempt.
        """
        self._pause_left = max(0, self._pause_left - 1)
        return self._pause_left > 0

    def is_far(self, movement: Vector, spread: float, sample: Sample) -> bool:
        """Judge by the sample's mean movement (dim,) if the step can stand; take it into the estimate if so.

        Args:
            spread: scale of the outputs' differences (Movement.spread).
        """
        drift: Vector = movement / np.float32(max(sample.age_s, 1e-9))  # (dim,)
        far = sample.lag_s * float(np.linalg.norm(drift)) >= FAR * spread
        self._pause = min(max(1, 2 * self._pause), self._window) if far else 0
        self._pause_left = self._pause + 1 if far else 0
        before = np.zeros_like(drift) if self._drift is None else self._drift
        self._drift = None if far else before + np.float32(RATE) * (drift - before)
        return far

    def forget(self) -> None:
        """Take note that all tokens were computed: none lags."""
        self._drift = None

    def correct(self, vector: Vector, sample: Sample) -> Vector:
        """Add to a mean over all tokens (dim,) what those that were kept lack."""
        if self._drift is None:
            return vector
        corrected: Vector = vector + np.float32(sample.lag_s) * self._drift
        return corrected
