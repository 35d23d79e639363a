"""Change of a tubelet's patches, and the novelty of the tubelet that it makes up."""

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, PerPatch
from saccade_ros.plan.illumination import Illumination

# A patch's change is relative to its reference's strength, but to no less than this multiple of the response to white
# noise of unit variance in normalised pixels: a dark or featureless patch has next to none, and in dark shots of a
# film small changes outweighed all others. So independent noise of sigma s (of 255) reads at most
# sqrt(2) * s / 255 / 0.225 before its estimate is taken off, 0.05 for s = 2.
SCALE_FLOOR = 1.0
NOISE_MARGIN = 1.5  # energies scatter about their median, which the noise estimate is
# The change that all patches have in common is much smaller than that of the most changed ones; this weighs them alike.
COMMON_WEIGHT = 6.0


def patch_scale(reference_energy: PerPatch, white_response: float) -> PerPatch:
    """Length that each patch's change is relative to: its reference's, at least the picture's mean and the floor.

    Args:
        reference_energy: squared lengths, (S,).
        white_response: norm of a patch embedding's response to white noise of unit variance.
    """
    size = np.sqrt(reference_energy)
    least = max(float(size.mean()), SCALE_FLOOR * white_response)
    scale: PerPatch = np.maximum(size, least).astype(np.float32)
    return scale


def relative_change(energy: PerPatch, noise: PerPatch, scale: PerPatch) -> PerPatch:
    """Change of each patch beyond its noise, relative to its scale: (S,); 0 = identical or no more than noise.

    Args:
        energy: squared length of each patch's difference, (S,).
        noise: its estimate, a squared length, (S,).
    """
    change: PerPatch = (np.sqrt(np.maximum(energy - NOISE_MARGIN * noise, 0)) / scale).astype(np.float32)
    return change


def top_mean(change: PerPatch, top_fraction: float) -> float:
    """Mean change of the most changed fraction of the patches, of at least one.

    A mean over the picture is blind to small movers: on real clips the most changed patch moves 11 to 34 times it.
    """
    top = max(1, round(top_fraction * len(change)))
    return float(np.partition(change, -top)[-top:].mean())


def common_change(
    mean: npt.NDArray[np.float32], reference: Features, uniform: Features, illumination: Illumination
) -> float:
    """Length of the mean difference over all patches, compensated for illumination.

    The pooled embedding is a mean over tokens: what all patches have in common reaches it, what they have against
    each other cancels. It is also next to free of noise, which falls with the root of the number of patches.

    Args:
        mean: of the differences, (D,).
        reference, uniform: as for `normal_equations`.
        illumination: what `compensate` fitted.
    """
    count, rows = len(reference), len(illumination)
    gains = np.repeat(illumination[:, 0] / count, count // rows)  # (S,)
    return float(np.linalg.norm(mean - gains @ reference - illumination[:, 1:].mean(axis=0) @ uniform))


def combine(top: float, common: float) -> float:
    """Novelty of a tubelet: half of it is the change of its most changed patches, half the change in common."""
    return 0.5 * (top + COMMON_WEIGHT * common)
