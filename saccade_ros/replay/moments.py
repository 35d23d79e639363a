"""Moments that a replay remembers: embeddings of encoded tubelets, and which of them resemble an earlier one."""

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from saccade_ros.frames import Vector
from saccade_ros.measure.metrics import centred_cosine

MAX_MOMENTS = 1024
MATCHES = 3  # earlier moments shown of each
GAP_NS = 2_000_000_000  # a match is at least this much earlier: just before, everything looks the same
APART_NS = 1_000_000_000  # between two matches, which would otherwise be neighbours of one moment


class Moment(NamedTuple):
    """Tubelet, by its topic and stamp: several cameras may share a stamp."""

    topic: str
    stamp_ns: int


class Match(NamedTuple):
    """Earlier moment, and its centred cosine to the later one."""

    moment: Moment
    similarity: float


class Moments:
    """Embeddings by their moment, thinned evenly: beyond MAX_MOMENTS every second one is forgotten."""

    def __init__(self) -> None:
        self._vectors: dict[Moment, Vector] = {}
        self._offered, self._every = 0, 1

    def __contains__(self, moment: object) -> bool:
        return moment in self._vectors

    def add(self, moment: Moment, vector: Vector) -> None:
        """Remember a copy of an embedding, if it is its turn."""
        if self._offered % self._every == 0:
            self._vectors[moment] = np.array(vector, np.float32)
        self._offered += 1
        if len(self._vectors) > MAX_MOMENTS:
            self._vectors = dict(list(self._vectors.items())[::2])
            self._every *= 2

    def most_similar_earlier(self, moments: Collection[Moment]) -> dict[Moment, list[Match]]:
        """Find the earlier moments that each of these resembles most, best first; those without one are left out.

        The centre is the mean of all moments that are remembered.
        """
        known = sorted((moment for moment in moments if moment in self), key=lambda moment: moment.stamp_ns)
        if not known:
            return {}
        vectors, centre = self._stacked(known), self._stacked(list(self._vectors)).mean(axis=0)  # (N, D), (D,)
        found = {}
        for newest, vector in zip(known, vectors, strict=True):
            earlier = [i for i, moment in enumerate(known) if newest.stamp_ns - moment.stamp_ns >= GAP_NS]
            cosines = centred_cosine(vectors[earlier], vector, centre)  # (earlier,)
            found[newest] = _spaced([Match(known[i], float(c)) for i, c in zip(earlier, cosines, strict=True)])
        return {moment: matches for moment, matches in found.items() if matches}

    def _stacked(self, moments: list[Moment]) -> Vector:
        return np.stack([self._vectors[moment] for moment in moments])


def _spaced(candidates: list[Match]) -> list[Match]:
    """Choose the best few that are not neighbours of a better one."""
    chosen: list[Match] = []
    for match in sorted(candidates, key=lambda match: -match.similarity):
        apart_ns = (abs(match.moment.stamp_ns - other.moment.stamp_ns) for other in chosen)
        if len(chosen) < MATCHES and all(apart >= APART_NS for apart in apart_ns):
            chosen.append(match)
    return chosen
