"""What a tubelet's patches say about change: small pure functions on patch embeddings.

Patch embeddings are linear in the pixels, so what light does to a picture can be told from what happens in front of it:
a gain scales the reference, a shift of level adds the response to a uniform picture. Both are fitted, robustly, and
taken out before anything is called new. They are fitted for each row of patches, because a rolling shutter under
mains light brightens one row and darkens another; a step of exposure or white balance is the same in all rows.
Sums per patch, from one pass over the features, are all that the fit needs.

Chosen by measurement (docs/log.md): without, minus the mean over patches, and affine fits over the whole picture or by
row, with the level free per colour or common.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, PerPatch

Light = npt.NDArray[np.float32]  # (rows, K) gain - 1 and levels

# Between these gains light has changed; beyond, the picture has (a cut to black is news).
LEAST_GAIN, LARGEST_GAIN = 0.5, 2.0
FIT_ROUNDS = 3
RIDGE = 1e-5  # on a featureless wall gain and level are the same thing; this keeps both small
# A patch's change is relative to its reference's strength, but to no less than this share of the response to white
# noise of unit variance in normalised pixels: a dark or featureless patch has next to none, and in dark shots of a
# film small changes outweighed all others. So independent noise of sigma s (of 255) reads at most
# sqrt(2) * s / 255 / 0.225 before its estimate is taken off, 0.05 for s = 2.
SCALE_FLOOR = 1.0
# The running noise estimate stays between these relative changes: above the ceiling lies motion, which is news
# however long it lasts; the floor lets the estimate rise again after a time without any noise.
NOISE_FLOOR, NOISE_CEILING = 0.01, 0.5
NOISE_RATE = 0.05  # of the estimate, per tubelet
NOISE_MARGIN = 1.5  # energies scatter about their median
# The change that all patches have in common is much smaller than that of the most changed ones; this weighs them alike.
GLOBAL_WEIGHT = 6.0


class Evidence(NamedTuple):
    """A difference's products with the K things that light can add to each patch.

    Attributes:
        energy: squared length of each patch's difference, (S,).
        along: its products with the patch's reference and the uniform responses, (S, K).
        gram: the products of these with each other, (S, K, K).
    """

    energy: PerPatch
    along: npt.NDArray[np.float32]
    gram: npt.NDArray[np.float32]


def light_evidence(
    difference: Features, reference: Features, uniform: Features, gram: npt.NDArray[np.float32]
) -> Evidence:
    """Sums for the fit.

    Args:
        difference: patches minus their reference, (S, D).
        reference: without the response to mid grey, so that a gain scales it, (S, D).
        uniform: responses to uniform pictures, one per level, (K - 1, D).
        gram: of reference and uniform, from `light_gram`.
    """
    along = np.empty((len(difference), 1 + len(uniform)), np.float32)
    np.einsum("sd,sd->s", difference, reference, out=along[:, 0])
    np.matmul(difference, uniform.T, out=along[:, 1:])
    return Evidence(np.einsum("sd,sd->s", difference, difference), along, gram)


def light_gram(reference: Features, uniform: Features) -> npt.NDArray[np.float32]:
    """Products of each patch's reference and the uniform responses with each other: (S, K, K)."""
    count = 1 + len(uniform)
    gram = np.empty((len(reference), count, count), np.float32)
    gram[:, 0, 0] = np.einsum("sd,sd->s", reference, reference)
    gram[:, 0, 1:] = gram[:, 1:, 0] = reference @ uniform.T
    gram[:, 1:, 1:] = uniform @ uniform.T
    return gram


class Unlit(NamedTuple):
    """A difference without what light explains of it.

    Attributes:
        energy: squared length of what is left of each patch, (S,).
        light: what was taken out, by row of patches: gain - 1, then levels, (rows, K).
    """

    energy: PerPatch
    light: Light


def remove_light(evidence: Evidence, rows: int) -> Unlit:
    """Fit light to each row of patches.

    Least squares, repeated on the better explained half of the row, so that an object in less than half of it neither
    bends the fit nor is explained away.
    """
    energy = evidence.energy.reshape(rows, -1)  # (rows, columns)
    along = evidence.along.reshape(*energy.shape, -1)  # (rows, columns, K)
    gram = evidence.gram.reshape(*energy.shape, -1)  # (rows, columns, K * K)
    keep, half = np.ones_like(energy), (energy.shape[1] - 1) // 2
    for _ in range(FIT_ROUNDS):
        light = _fit_light(keep[:, None] @ along, keep[:, None] @ gram)  # (rows, K)
        pull = (along @ light[:, :, None])[..., 0]
        push = (gram @ (light[:, :, None] * light[:, None]).reshape(rows, -1, 1))[..., 0]
        left = np.maximum(energy - 2 * pull + push, 0)  # (rows, columns)
        keep = (left <= np.partition(left, half, axis=1)[:, half, None]).astype(np.float32)
    return Unlit(np.minimum(left, energy).reshape(-1), light)


def common_change(mean: npt.NDArray[np.float32], reference: Features, uniform: Features, light: Light) -> float:
    """Length of the mean difference over all patches without its light.

    The pooled embedding is a mean over tokens: what all patches have in common reaches it, what they have against
    each other cancels. It is also next to free of noise, which falls with the root of the number of patches.

    Args:
        mean: of the differences, (D,).
        reference, uniform: as for `light_evidence`.
        light: what `remove_light` found.
    """
    count, rows = len(reference), len(light)
    gains = np.repeat(light[:, 0] / count, count // rows)  # (S,)
    return float(np.linalg.norm(mean - gains @ reference - light[:, 1:].mean(axis=0) @ uniform))


def _fit_light(along: npt.NDArray[np.float32], gram: npt.NDArray[np.float32]) -> Light:
    """Gain - 1 and levels of each row, (rows, K), from sums over the patches that count: (rows, 1, K) and K * K."""
    rows, _, count = along.shape
    square, target = gram.reshape(rows, count, count).astype(np.float64), along[:, 0].astype(np.float64)
    size = np.trace(square, axis1=1, axis2=2)[:, None, None]
    square += (RIDGE * size + 1e-12) * np.eye(count)
    light = np.linalg.solve(square, target[..., None])[..., 0]  # (rows, K)
    gain = np.clip(light[:, 0], LEAST_GAIN - 1, LARGEST_GAIN - 1)
    light[:, 1:] = np.linalg.solve(square[:, 1:, 1:], (target - gain[:, None] * square[:, 0])[:, 1:, None])[..., 0]
    light[:, 0] = gain
    fitted: Light = light.astype(np.float32)
    return fitted


def patch_scale(reference_energy: PerPatch, white_response: float) -> PerPatch:
    """What each patch's change is relative to: its reference's length, at least the picture's mean and the floor.

    Args:
        reference_energy: squared lengths, (S,).
        white_response: norm of a patch embedding's response to white noise of unit variance.
    """
    size = np.sqrt(reference_energy)
    least = max(float(size.mean()), SCALE_FLOOR * white_response)
    scale: PerPatch = np.maximum(size, least).astype(np.float32)
    return scale


def relative_change(energy: PerPatch, noise: PerPatch, scale: PerPatch) -> PerPatch:
    """Change of each patch beyond its noise, relative to its scale: (S,); 0 = identical or no more than noise."""
    change: PerPatch = (np.sqrt(np.maximum(energy - NOISE_MARGIN * noise, 0)) / scale).astype(np.float32)
    return change


def track_noise(noise: PerPatch, energy: PerPatch, scale: PerPatch) -> PerPatch:
    """A running median of what a patch changes from one tubelet to the next when nothing happens: (S,).

    Each step moves the estimate by NOISE_RATE towards the new value, however far it is, so that an event leaves
    next to no trace in it.

    Args:
        noise: the estimate so far, a squared length.
        energy: squared length of the change since the previous tubelet.
    """
    moved = noise * np.exp(NOISE_RATE * np.sign(energy - noise))
    return bound_noise(moved, scale)


def first_noise(energy: PerPatch, scale: PerPatch) -> PerPatch:
    """Where the running median starts: the first change seen, but in no patch more than in half of them, as something
    may be happening in the others: (S,)."""
    return bound_noise(np.minimum(energy, np.median(energy)), scale)


def bound_noise(noise: PerPatch, scale: PerPatch) -> PerPatch:
    """Between floor and ceiling: (S,)."""
    square = scale * scale
    bounded: PerPatch = np.clip(noise, NOISE_FLOOR**2 * square, NOISE_CEILING**2 * square).astype(np.float32)
    return bounded


def top_mean(change: PerPatch, top_fraction: float) -> float:
    """Mean of the most changed share of the patches, at least one.

    A mean over the picture is blind to small movers: on real clips the most changed patch moves 11 to 34 times it.
    """
    top = max(1, round(top_fraction * len(change)))
    return float(np.partition(change, -top)[-top:].mean())


def combine(top: float, common: float) -> float:
    """Novelty of a tubelet from its top-k and its global term, which matter alike."""
    return 0.5 * (top + GLOBAL_WEIGHT * common)
