"""Centred cosine, the one measure of how alike embeddings are; linear CKA; summaries, and the uncertainty of a mean."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

ROUNDING = 1e-6  # of the reference's largest magnitude: pairs that differ by less are equal up to fp32 rounding


class Spread(NamedTuple):
    """Mean, 5th percentile and worst of some cosines."""

    mean: float
    p5: float
    worst: float


def centred_cosine(
    vectors: npt.NDArray[Any], reference: npt.NDArray[Any], centre: npt.NDArray[Any] | None = None
) -> npt.NDArray[np.float64]:
    """Compute the cosine of each pair of embeddings, less a common centre: (..., D), (..., D) -> (...), in float64.

    Most of an embedding is the same for every picture, the more so with random weights, and a plain cosine therefore
    calls any two embeddings alike. What tells pictures apart is what is left when the mean is subtracted.

    Args:
        vectors, reference: the embeddings to judge, and those that they should be.
        centre: (D,), subtracted from both; None takes the mean of the reference over its first axis.

    Returns:
        1 for pairs that agree to rounding, also where both are the centre and have no direction; 0 where one is.
    """
    ours, theirs = vectors.astype(np.float64), reference.astype(np.float64)
    middle = theirs.mean(axis=0) if centre is None else centre.astype(np.float64)  # (D,)
    same = (np.abs(ours - theirs) <= ROUNDING * np.abs(theirs).max(initial=0.0)).all(axis=-1)
    ours, theirs = ours - middle, theirs - middle
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    cosines: npt.NDArray[np.float64] = np.where(
        same, 1.0, (ours * theirs).sum(axis=-1) / np.where(lengths > 0, lengths, 1.0)
    )
    return cosines


def summarize(cosines: npt.NDArray[np.float64]) -> Spread:
    """Summarize all values of an array that is not empty."""
    return Spread(float(cosines.mean()), float(np.percentile(cosines, 5)), float(cosines.min()))


def cosine_table(
    queries: npt.NDArray[Any], gallery: npt.NDArray[Any], centre: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Compute the centred cosine of every query with every vector of a gallery: (Q, D), (G, D), (D,) -> (Q, G).

    The same as centred_cosine of each pair, but for vectors without a direction, which read 0 with everything.
    """
    ours, theirs = (_directions(vectors.astype(np.float64) - centre) for vectors in (queries, gallery))
    cosines: npt.NDArray[np.float64] = ours @ theirs.T  # (Q, G)
    return cosines


def _directions(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    directions: npt.NDArray[np.float64] = vectors / np.where(lengths > 0, lengths, 1.0)
    return directions


def linear_cka(features: npt.NDArray[Any], reference: npt.NDArray[Any]) -> float:
    """Compute the linear CKA of two representations of the same N things: (N, D), (N, E) -> 0..1, in float64.

    1 if one is the other up to a rotation and a scale. Kornblith et al. 2019, "Similarity of neural network
    representations revisited", equation for the linear kernel. A representation that is constant reads 0.
    """
    ours, theirs = (part.astype(np.float64) - part.mean(axis=0, dtype=np.float64) for part in (features, reference))
    scale = np.linalg.norm(ours.T @ ours) * np.linalg.norm(theirs.T @ theirs)
    return float(np.square(ours.T @ theirs).sum() / scale) if scale else 0.0


class Interval(NamedTuple):
    """Mean of some values, and the interval that 95 of 100 resamples of them have their mean in."""

    mean: float
    low: float
    high: float


def bootstrap(values: npt.NDArray[Any], groups: Sequence[str], resamples: int = 2000, seed: int = 0) -> Interval:
    """Estimate the uncertainty of a mean by resampling whole groups with replacement (Efron 1979).

    Args:
        values: (N,), at least one.
        groups: of each value, N names; values of a group, such as clips cut from one recording, depend on each other.
    """
    _, group_idx = np.unique(np.asarray(groups), return_inverse=True)  # (N,)
    sums, sizes = np.bincount(group_idx, values), np.bincount(group_idx)  # (groups,)
    drawn_idx = np.random.default_rng(seed).integers(len(sums), size=(resamples, len(sums)))
    means = sums[drawn_idx].sum(axis=1) / sizes[drawn_idx].sum(axis=1)  # (resamples,)
    low, high = np.percentile(means, (2.5, 97.5))
    return Interval(float(np.mean(values)), float(low), float(high))
