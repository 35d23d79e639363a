"""Areas of the token grid, which attention is confined to in an encoder's first layers: the one definition of them.

There a query attends to the keys of its own area (rows x columns of the grid) in every slot of the window, and to no
others; the later layers attend to everything. The weights are the same.

A ring whose encoder has areas keeps the tokens of each slot in area order, all of the first area, then all of the
second. So the keys of an area are one run of places, and so are the queries of a step, whichever tokens it computes:
attention reads slices of what it has, without a mask and without sorting. An area that a step computes fewer tokens of
has a shorter run, and one of which it computes none is left out; nothing is padded, so nothing but a key that belongs
there enters a softmax.

NumPy only: torch and the exported graphs read it.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from saccade_ros.config import ConfigError
from saccade_ros.encoder.positions import Indices
from saccade_ros.encoder.spec import ModelSpec


@dataclass(frozen=True, eq=False)
class Areas:
    """Partition of a tubelet's S tokens in G areas, and the layers that attend by it.

    Attributes:
        layers: the first layers of the encoder that attend by area; 0 where areas are off.
        token_idx: tokens in area order, ascending within an area: (S,).
        bounds: place in area order at which each area begins, and S: (G + 1,).
        grid: rows and columns of areas.
    """

    layers: int
    token_idx: Indices
    bounds: Indices
    grid: tuple[int, int] = (1, 1)

    @classmethod
    def whole(cls, spec: ModelSpec) -> "Areas":
        """Make one area of all tokens, in their own order, that no layer attends by: areas are off."""
        return cls(0, np.arange(spec.tokens), np.array([0, spec.tokens]))

    @classmethod
    def of(cls, spec: ModelSpec, rows: int, columns: int, layers: int) -> "Areas":
        """Cut the grid in rows x columns areas, as equal as it allows; one area, or no layers, turns areas off.

        Raises:
            ConfigError: the grid has fewer rows or columns, or the encoder fewer layers.
        """
        if max(rows, columns) > spec.grid:
            raise ConfigError(
                f"encoder.area_grid is {rows}x{columns}, but a tubelet of {spec.name} has {spec.grid}x{spec.grid} "
                f"tokens: give at most {spec.grid}x{spec.grid}"
            )
        if layers > spec.depth:
            raise ConfigError(
                f"encoder.area_layers is {layers}, but {spec.name} has {spec.depth} layers: give at most {spec.depth}"
            )
        if rows * columns == 1 or not layers:
            return cls.whole(spec)
        area = _bands(spec.grid, rows)[:, None] * columns + _bands(spec.grid, columns)  # (g, g)
        sizes = np.bincount(area.ravel(), minlength=rows * columns)  # (G,)
        bounds = np.concatenate(([0], np.cumsum(sizes)))  # (G + 1,)
        return cls(layers, np.argsort(area.ravel(), kind="stable"), bounds, (rows, columns))

    @property
    def are_on(self) -> bool:
        """True if a layer attends by area."""
        return self.layers > 0

    @property
    def name(self) -> str:
        """Suffix that tells embeddings of these areas from others; empty where areas are off."""
        return f"areas-{self.grid[0]}x{self.grid[1]}-{self.layers}" if self.are_on else ""

    @property
    def number(self) -> int:
        """Number of areas (G)."""
        return len(self.bounds) - 1

    @property
    def sizes(self) -> list[int]:
        """Number of tokens of each area: G numbers."""
        sizes: list[int] = np.diff(self.bounds).tolist()
        return sizes

    @property
    def attended(self) -> float:
        """Fraction of a slot's keys that a query meets where it attends by area, in the mean over all tokens."""
        return sum(size**2 for size in self.sizes) / len(self.token_idx) ** 2

    @property
    def are_equal(self) -> bool:
        """True if all areas have the same number of tokens."""
        return len(set(self.sizes)) == 1

    @cached_property
    def place_idx(self) -> Indices:
        """Place in area order of each token, the inverse of token_idx: (S,)."""
        return np.argsort(self.token_idx)

    def slices(self) -> list[slice]:
        """List the places in a slot of each area's tokens: G slices."""
        return _slices(self.bounds)

    def arrange(self, token_idx: Indices) -> Indices:
        """Bring some of the tokens to area order: (M,) -> (M,)."""
        planned_mask = np.zeros(len(self.token_idx), bool)
        planned_mask[token_idx] = True
        arranged: Indices = self.token_idx[planned_mask[self.token_idx]]
        return arranged

    def counts(self, token_idx: Indices) -> tuple[int, ...]:
        """Count the tokens of each area among some: (M,) -> G numbers."""
        area_idx = np.searchsorted(self.bounds, self.place_idx[token_idx], side="right") - 1  # (M,)
        return tuple(np.bincount(area_idx, minlength=self.number).tolist())

    def slices_of(self, token_idx: Indices) -> list[slice]:
        """List the places of each area's tokens among some in area order: (M,) -> G slices."""
        return _slices(np.concatenate(([0], np.cumsum(self.counts(token_idx)))))


def _bands(length: int, count: int) -> Indices:
    """Number the band that each row or column belongs to, of `count` bands as equal as possible: (length,)."""
    bands: Indices = np.arange(length) * count // length
    return bands


def _slices(bounds: Indices) -> list[slice]:
    return [slice(start, stop) for start, stop in pairwise(bounds.tolist())]
