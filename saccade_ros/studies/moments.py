"""Measures of what the embeddings of unlabelled clips are good for, without any training: what is like what.

Cosines are taken after the mean of all clips, each counting once, is subtracted. A clip's own tubelets that are less
than a gap away are never compared with it: neighbours in time are alike for every encoder.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from saccade_ros.measure.metrics import cosine_table
from saccade_ros.measure.retrieval import Mask, Table, auc, rank, recall_at
from saccade_ros.recordings.source import SourceError
from saccade_ros.studies.columns import EmbeddedClip, evenly
from saccade_ros.studies.streamed import Vectors

GAP_S = 2.0  # between tubelets of a clip that count as different moments of it
SAME_MOMENT_S = 0.5  # at most, between tubelets that count as the same moment
PAIRED_TUBELETS = 64  # of a clip, evenly spread, that take part in the AUC


@dataclass(frozen=True)
class Measured:
    """A measure of one column.

    Attributes:
        value: 0..1, better if larger.
        chance: what a random ranking reads.
        parts: the value of each clip, or of each label, by name.
        left_out: clips that are too short to tell.
    """

    value: float
    chance: float
    parts: Mapping[str, float]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Moments:
    """All tubelets of some clips in one column.

    Attributes:
        names: of the clips.
        clip_idx: clip of each tubelet, (N,).
        stamps_s: (N,).
        vectors: (N, dim).
        jittered: the same tubelets in other light, (N, dim) or empty.
        centre: (dim,).
    """

    names: tuple[str, ...]
    clip_idx: npt.NDArray[np.int64]
    stamps_s: npt.NDArray[np.float64]
    vectors: Vectors
    jittered: Vectors
    centre: npt.NDArray[np.float64]

    @classmethod
    def of(cls, clips: Sequence[EmbeddedClip], column: str) -> "Moments":
        """Gather the tubelets of all clips."""
        vectors = [clip.vectors[column] for clip in clips]
        return cls(
            names=tuple(clip.name for clip in clips),
            clip_idx=np.repeat(np.arange(len(clips)), [len(one) for one in vectors]),
            stamps_s=np.concatenate([clip.stamps_s for clip in clips]),
            vectors=np.concatenate(vectors),
            jittered=np.concatenate(
                [clip.jittered.get(column, one[:0]) for clip, one in zip(clips, vectors, strict=True)]
            ),
            centre=np.mean([one.mean(axis=0, dtype=np.float64) for one in vectors], axis=0),
        )

    def by_clip(self) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
        """Yield the number of each clip, and where its tubelets are."""
        for clip in range(len(self.names)):
            yield clip, np.flatnonzero(self.clip_idx == clip)

    def is_far(self, rows: npt.NDArray[np.int64]) -> Mask:
        """Tell which tubelets (N) are of another moment than each of these: at least the gap away, (Q, N)."""
        far: Mask = np.abs(self.stamps_s[rows, None] - self.stamps_s) >= GAP_S
        return far

    def compare(self, queries: Vectors) -> Table:
        """Compute the cosines of queries (Q, dim) with all tubelets, (Q, N)."""
        return cosine_table(queries, self.vectors, self.centre)


def same_clip_auc(moments: Moments) -> Measured:
    """Compute how well a cosine tells two moments of a clip from moments of two clips: AUC.

    Each clip's pairs count as one positive in sum, and each two clips' pairs as one negative. Of long clips, tubelets
    that are evenly spread take part. A part is the AUC of one clip, against all others.

    Raises:
        SourceError: no clip is long enough.
    """
    rows = [rows[evenly(len(rows), PAIRED_TUBELETS)] for _, rows in moments.by_clip()]
    positives = {i: _positive_pairs(moments, rows[i]) for i in range(len(rows))}
    left_out = tuple(moments.names[i] for i, pairs in positives.items() if not len(pairs))
    positives = {i: pairs for i, pairs in positives.items() if len(pairs)}
    negatives = {(i, j): _negative_pairs(moments, rows[i], rows[j]) for j in range(len(rows)) for i in range(j)}
    parts = {moments.names[i]: _auc([positives[i]], [n for ij, n in negatives.items() if i in ij]) for i in positives}
    if not parts:
        raise _too_short()
    return Measured(_auc(list(positives.values()), list(negatives.values())), 0.5, parts, left_out)


def _positive_pairs(moments: Moments, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Cosines of a clip's tubelets that are the gap apart, each pair once."""
    far = np.triu(moments.is_far(rows)[:, rows])  # (T, T)
    pairs: npt.NDArray[np.float64] = _cosines(moments, rows, rows)[far]
    return pairs


def _negative_pairs(
    moments: Moments, ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    return _cosines(moments, ours, theirs).ravel()


def _cosines(moments: Moments, ours: npt.NDArray[np.int64], theirs: npt.NDArray[np.int64]) -> Table:
    return cosine_table(moments.vectors[ours], moments.vectors[theirs], moments.centre)


def _auc(positives: Sequence[npt.NDArray[np.float64]], negatives: Sequence[npt.NDArray[np.float64]]) -> float:
    """AUC in which every array has the same weight."""
    weights = [np.concatenate([np.full(len(s), 1 / len(s)) for s in scores]) for scores in (positives, negatives)]
    return auc(np.concatenate(positives), np.concatenate(negatives), *weights)


def nearest_place(moments: Moments, places: Sequence[str]) -> Measured:
    """Compute how often the nearest neighbour of a tubelet is of the same place; each clip counts the same.

    Where other clips show the same place too, a clip's own tubelets are no candidates at all; else those are that are
    at least the gap away.

    Args:
        places: of each clip.

    Raises:
        SourceError: no clip is long enough.
    """
    place_idx = np.unique(np.asarray(places), return_inverse=True)[1][moments.clip_idx]  # (N,)
    found: dict[str, tuple[float, float]] = {}
    for clip, rows in moments.by_clip():
        own = moments.clip_idx == clip  # (N,)
        shared = places.count(places[clip]) > 1
        candidates = np.broadcast_to(~own, (len(rows), len(own))) if shared else ~own | moments.is_far(rows)  # (Q, N)
        right = np.broadcast_to(place_idx == place_idx[rows[0]], candidates.shape) & candidates
        if right.any():
            found[moments.names[clip]] = _nearest(moments.compare(moments.vectors[rows]), right, candidates)
    return _mean(found, moments.names)


def nearest_other_moment(moments: Moments) -> Measured:
    """Compute how often the nearest neighbour is of the same clip, of those that are at least the gap away."""
    return nearest_place(moments, moments.names)


def right_moment(moments: Moments) -> Measured:
    """Compute how often a tubelet in other light has the same moment of its clip as nearest of all that were seen."""
    found: dict[str, tuple[float, float]] = {}
    for clip, rows in moments.by_clip():
        near = np.abs(moments.stamps_s[rows, None] - moments.stamps_s) <= SAME_MOMENT_S + 1e-6  # (Q, N)
        right = near & (moments.clip_idx == clip)
        found[moments.names[clip]] = _nearest(moments.compare(moments.jittered[rows]), right, np.ones_like(right))
    return _mean(found, moments.names)


def _nearest(similarity: Table, right: Mask, candidates: Mask) -> tuple[float, float]:
    """Fraction of the queries with a right candidate whose nearest is right, and the fraction by chance."""
    judged = right.any(axis=1)  # (Q,)
    similarity, right, candidates = similarity[judged], right[judged], candidates[judged]
    by_chance = right.sum(axis=1) / candidates.sum(axis=1)
    return float(recall_at(1, rank(similarity, right, candidates)).mean()), float(by_chance.mean())


def _mean(found: Mapping[str, tuple[float, float]], names: Sequence[str]) -> Measured:
    """Average over the clips that could be judged."""
    parts = {name: value for name, (value, _) in found.items()}
    left_out = tuple(name for name in names if name not in found)
    if not found:
        raise _too_short()
    value, chance = np.mean(list(found.values()), axis=0)
    return Measured(float(value), float(chance), parts, left_out)


def _too_short() -> SourceError:
    return SourceError(f"no clip has two tubelets {GAP_S:g} s apart: give longer clips, or more at a time (--tubelets)")
