"""Centred cosine, the one measure of how alike two sets of embeddings are, and its summary."""

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
