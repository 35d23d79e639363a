"""Noise of each patch, told from motion by time."""

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, PerPatch

RATE = 0.1  # weight of the newest tubelet in the mean
CEILING = 0.15  # as a relative change; twice that of a dark camera with a noise of 4 of 255


class PatchNoise:
    """Estimate of the squared length of each patch's change from one tubelet to the next that is noise.

    The difference that noise makes is the same over one tubelet and over two, the one that motion makes grows with its
    square. So the squared noise is twice the first less the second, both squared: of pure noise that is its own size,
    of motion it is negative and counts as none.

    Args:
        features: of the stream's first tubelet, (S, D).

    Attributes:
        energy: the estimate, (S,).
        previous: patches of the tubelet learnt last, (S, D).
    """

    def __init__(self, features: Features) -> None:
        self.previous, self._long_before = features.copy(), features.copy()
        self.energy: PerPatch = np.zeros(len(features), np.float32)

    def learn(self, features: Features, scale: PerPatch) -> None:
        """Take the next tubelet's patches, (S, D), and the length that their changes are relative to, (S,)."""
        noise = 2 * squared_distance(features, self.previous) - squared_distance(features, self._long_before)
        self.energy += RATE * (np.clip(noise, 0, np.square(CEILING * scale)) - self.energy)
        self.previous, self._long_before = self._long_before, self.previous
        np.copyto(self.previous, features)


def squared_distance(features: Features, others: npt.NDArray[np.float32]) -> PerPatch:
    """Square the lengths of differences: (S, D), (S, D) or (D,) -> (S,)."""
    difference = features - others
    energy: PerPatch = np.einsum("sd,sd->s", difference, difference)
    return energy
