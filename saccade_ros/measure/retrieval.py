"""Measures of rankings: area under the ROC curve, recall at k and average precision, each exact.

Queries (Q) are ranked against a gallery (G) by similarity. Where a wrong entry is as similar as a right one, the wrong
one comes first: an encoder that gives the same vector to everything finds nothing.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

Table = npt.NDArray[np.float64]  # (Q, G) similarities
Mask = npt.NDArray[np.bool_]  # (Q, G); ranked: by entry, best first


def auc(
    positives: npt.NDArray[Any],
    negatives: npt.NDArray[Any],
    positive_weights: npt.NDArray[Any] | None = None,
    negative_weights: npt.NDArray[Any] | None = None,
) -> float:
    """Compute the probability that a positive scores above a negative, ties counting half (Mann and Whitney 1947).

    This is the area under the ROC curve (Hanley and McNeil 1982).

    Args:
        positives, negatives: scores, (P,) and (N,).
        positive_weights, negative_weights: of each score, above 0; None weighs all alike.

    Raises:
        ValueError: there are no positives or no negatives.
    """
    if not len(positives) or not len(negatives):
        raise ValueError(f"{len(positives)} positives and {len(negatives)} negatives: an AUC needs one of each")
    above = np.ones(len(positives)) if positive_weights is None else positive_weights
    below = np.ones(len(negatives)) if negative_weights is None else negative_weights
    order = np.argsort(negatives)
    cumulated = np.concatenate(([0.0], np.cumsum(below[order])))  # (N + 1,)
    less, not_more = (np.searchsorted(negatives[order], positives, side) for side in ("left", "right"))  # (P,)
    beaten = (cumulated[less] + cumulated[not_more]) / 2  # (P,) weight of the negatives below, half of the equal
    return float((above * beaten).sum() / (above.sum() * cumulated[-1]))


def rank(similarity: Table, right: Mask, candidates: Mask | None = None) -> Mask:
    """Tell whether the entries at ranks 1, 2, .. of each query are right, (Q, G).

    Args:
        right: entries that answer the query.
        candidates: entries that may be found at all, None for every one; the others come last and are wrong.
    """
    if candidates is not None:
        similarity, right = np.where(candidates, similarity, -np.inf), right & candidates
    ranked_idx = np.lexsort((right, -similarity), axis=-1)
    ranked: Mask = np.take_along_axis(right, ranked_idx, axis=1)  # (Q, G)
    return ranked


def recall_at(k: int, ranked: Mask) -> npt.NDArray[np.bool_]:
    """Tell of each query whether one of its first k entries is right, (Q,)."""
    found: npt.NDArray[np.bool_] = np.any(ranked[:, :k], axis=1)
    return found


def average_precision(ranked: Mask) -> npt.NDArray[np.float64]:
    """Compute the mean precision at the ranks of each query's right entries, (Q,); their mean over queries is mAP.

    Raises:
        ValueError: a query has no right entry.
    """
    if not ranked.any(axis=1).all():
        raise ValueError(f"query {int(ranked.any(axis=1).argmin())} has no right entry: leave it out")
    precision = np.cumsum(ranked, axis=1) / np.arange(1, ranked.shape[1] + 1)  # (Q, G)
    averages: npt.NDArray[np.float64] = (precision * ranked).sum(axis=1) / ranked.sum(axis=1)
    return averages
