"""Running estimate of each patch's noise, as the squared length of its change from one tubelet to the next."""

import numpy as np

from saccade_ros.frames import PerPatch

# The estimate stays between these relative changes: above the ceiling lies motion, which counts as novelty however
# long it lasts; the floor lets the estimate rise again after a time without any noise.
NOISE_FLOOR, NOISE_CEILING = 0.01, 0.5
NOISE_RATE = 0.05  # of the estimate, per tubelet


def first_noise(energy: PerPatch, scale: PerPatch) -> PerPatch:
    """Start of the estimate, (S,): the first change, but in no patch more than the median over patches.

    Something may be happening in the others.
    """
    return bound_noise(np.minimum(energy, np.median(energy)), scale)


def track_noise(noise: PerPatch, energy: PerPatch, scale: PerPatch) -> PerPatch:
    """Move the estimate, a running median, by NOISE_RATE towards the new value: (S,).

    However far the new value is, so that an event leaves next to no trace in the estimate.

    Args:
        noise: the estimate so far, (S,).
        energy: squared length of each patch's change since the previous tubelet, (S,).
        scale: from `patch_scale`, (S,).
    """
    moved = noise * np.exp(NOISE_RATE * np.sign(energy - noise))
    return bound_noise(moved, scale)


def bound_noise(noise: PerPatch, scale: PerPatch) -> PerPatch:
    """Clip the estimate to floor and ceiling: (S,)."""
    square = scale * scale
    bounded: PerPatch = np.clip(noise, NOISE_FLOOR**2 * square, NOISE_CEILING**2 * square).astype(np.float32)
    return bounded
