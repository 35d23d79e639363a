"""Change of each patch since its token was computed last, beyond the camera's noise, for token selection.

The gate's own map will not do. It compensates for illumination, which the embedding reacts to; and it takes steady
motion for noise up to a ceiling, which a gate can afford: for token selection a patch in motion is the one to compute.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, PerPatch
from saccade_ros.plan.change import patch_scale, relative_change
from saccade_ros.plan.reference import PatchResponse

NOISE_RATE = 0.1  # weight of the newest tubelet in the mean
NOISE_CEILING = 0.15  # as a relative change; twice that of a dark camera with a noise of 4 of 255
COMPRESSION = 0.025  # relative change that blocks and key frames of a video make in a still picture; none counts


class PatchChange:
    """Patches of one stream as last computed, the two tubelets before the new one, and each patch's noise.

    Noise is told from motion by time: the difference that noise makes is the same over one tubelet and over two, the
    one that motion makes grows with its square. So the squared noise is twice the first less the second, both squared:
    of pure noise that is its own size, of motion it is negative and counts as none.
    """

    def __init__(self, response: PatchResponse) -> None:
        self._response = response
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._reference: Features | None = None

    def measure(self, features: Features) -> PerPatch | None:
        """Change of each patch, (S,), relative to its strength; None with nothing to compare with.

        Raises:
            ValueError: the patches hold NaN or infinity.
        """
        if self._reference is None:
            return None
        energy = _energy(features, self._reference)
        if not np.isfinite(energy.sum()):
            raise ValueError("change is not finite: the tubelet's pixels or the patch weights hold NaN or infinity")
        change: PerPatch = np.maximum(relative_change(energy, self._noise, self._scale) - COMPRESSION, 0)
        return change

    def commit(self, features: Features, token_idx: npt.NDArray[np.int64]) -> None:
        """Learn the noise of these patches, and measure the next ones against those that were computed, (M,)."""
        if self._reference is None:
            self._reference, self._before, self._long_before = (features.copy() for _ in range(3))
            self._noise = np.zeros(len(features), np.float32)
        self._reference[token_idx] = features[token_idx]
        strength = _energy(self._reference, self._response.grey)
        self._scale = patch_scale(strength, self._response.white)
        noise = 2 * _energy(features, self._before) - _energy(features, self._long_before)
        bounded = np.clip(noise, 0, np.square(NOISE_CEILING * self._scale))
        self._noise += NOISE_RATE * (bounded - self._noise)
        self._before, self._long_before = self._long_before, self._before
        np.copyto(self._before, features)


def _energy(features: Features, others: npt.NDArray[Any]) -> PerPatch:
    """Squared lengths of differences: (S, D), (S, D) or (D,) -> (S,)."""
    difference = features - others
    energy: PerPatch = np.einsum("sd,sd->s", difference, difference)
    return energy
