"""Illumination compensation: a gain and levels fitted to each row of patches and taken out of their change.

Patch embeddings are linear in the pixels, so a change of illumination can be told from a change of the scene: a gain
scales the reference, a shift of level adds the response to a uniform picture. Both are fitted robustly. They are
fitted for each row of patches, because a rolling shutter under mains light brightens one row and darkens another; a
step of exposure or white balance is the same in all rows. Sums of products per patch, from one pass over the
features, are all that the fit needs.

Chosen by measurement (docs/log.md) over no compensation, over subtracting the mean over patches, and over affine fits
to the whole picture or by row, with the level free per colour or common.

Shapes: S patches in `rows` rows, D the width of a patch embedding, K = 1 gain + levels (one per colour).
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Features, PerPatch

Illumination = npt.NDArray[np.float32]  # (rows, K) gain - 1, then levels

# Beyond these gains it is the scene that has changed, as in a cut to black.
LEAST_GAIN, LARGEST_GAIN = 0.5, 2.0
FIT_ROUNDS = 3
RIDGE = 1e-5  # on a featureless wall gain and level have the same effect; this keeps both small


class NormalEquations(NamedTuple):
    """Sums of products of the least-squares fit, per patch.

    Attributes:
        energy: squared length of the difference, (S,).
        products: of the difference with the reference and with the uniform responses, (S, K).
        gram: products of the reference and the uniform responses with each other, (S, K, K).
    """

    energy: PerPatch
    products: npt.NDArray[np.float32]
    gram: npt.NDArray[np.float32]


def normal_equations(
    difference: Features, reference: Features, uniform: Features, gram: npt.NDArray[np.float32]
) -> NormalEquations:
    """Sum the products that the fit needs.

    Args:
        difference: patches minus their reference, (S, D).
        reference: without the response to mid grey, so that a gain scales it, (S, D).
        uniform: responses to uniform pictures, one per level, (K - 1, D).
        gram: of reference and uniform, from `illumination_gram`.
    """
    products = np.empty((len(difference), 1 + len(uniform)), np.float32)
    np.einsum("sd,sd->s", difference, reference, out=products[:, 0])
    np.matmul(difference, uniform.T, out=products[:, 1:])
    return NormalEquations(np.einsum("sd,sd->s", difference, difference), products, gram)


def illumination_gram(reference: Features, uniform: Features) -> npt.NDArray[np.float32]:
    """Products of each patch's reference and the uniform responses with each other: (S, K, K)."""
    count = 1 + len(uniform)
    gram = np.empty((len(reference), count, count), np.float32)
    gram[:, 0, 0] = np.einsum("sd,sd->s", reference, reference)
    gram[:, 0, 1:] = gram[:, 1:, 0] = reference @ uniform.T
    gram[:, 1:, 1:] = uniform @ uniform.T
    return gram


class Compensated(NamedTuple):
    """Change of a tubelet's patches after compensation.

    Attributes:
        energy: squared length of what is left of each patch's difference, (S,).
        illumination: what was taken out, (rows, K).
    """

    energy: PerPatch
    illumination: Illumination


def compensate(equations: NormalEquations, rows: int) -> Compensated:
    """Fit the illumination of each row of patches and take it out.

    Least squares, repeated on the better explained half of the row, so that an object in less than half of it neither
    bends the fit nor is explained away.
    """
    energy = equations.energy.reshape(rows, -1)  # (rows, columns)
    products = equations.products.reshape(*energy.shape, -1)  # (rows, columns, K)
    gram = equations.gram.reshape(*energy.shape, -1)  # (rows, columns, K * K)
    keep, half = np.ones_like(energy), (energy.shape[1] - 1) // 2
    for _ in range(FIT_ROUNDS):
        fitted = _fit(keep[:, None] @ products, keep[:, None] @ gram)  # (rows, K)
        linear = (products @ fitted[:, :, None])[..., 0]  # (rows, columns)
        square = (gram @ (fitted[:, :, None] * fitted[:, None]).reshape(rows, -1, 1))[..., 0]  # (rows, columns)
        left = np.maximum(energy - 2 * linear + square, 0)  # (rows, columns)
        keep = (left <= np.partition(left, half, axis=1)[:, half, None]).astype(np.float32)
    return Compensated(np.minimum(left, energy).reshape(-1), fitted)  # (S,), (rows, K)


def _fit(products: npt.NDArray[np.float32], gram: npt.NDArray[np.float32]) -> Illumination:
    """Solve for each row's illumination, (rows, K), from sums over its kept patches: (rows, 1, K), (rows, 1, K * K)."""
    rows, _, count = products.shape
    square, target = gram.reshape(rows, count, count).astype(np.float64), products[:, 0].astype(np.float64)
    size = np.trace(square, axis1=1, axis2=2)[:, None, None]
    square += (RIDGE * size + 1e-12) * np.eye(count)
    solved = np.linalg.solve(square, target[..., None])[..., 0]  # (rows, K)
    gain = np.clip(solved[:, 0], LEAST_GAIN - 1, LARGEST_GAIN - 1)
    solved[:, 1:] = np.linalg.solve(square[:, 1:, 1:], (target - gain[:, None] * square[:, 0])[:, 1:, None])[..., 0]
    solved[:, 0] = gain
    fitted: Illumination = solved.astype(np.float32)
    return fitted
