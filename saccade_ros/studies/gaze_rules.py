"""Rules that choose which patches a viewer is sent: ours, by residual energy, and two that do not look."""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from saccade_ros.frames import Pixels
from saccade_ros.plan.residual import largest, residual_energy, tokens_within

GREEDY, UNIFORM, RANDOM = "greedy", "uniform", "random"
RULES = (GREEDY, UNIFORM, RANDOM)
RATIOS = (0.10, 0.25, 0.50, 0.75, 1.00)

TokenIdx = npt.NDArray[np.int64]  # (M,)


class Setting(NamedTuple):
    """Number of a tubelet's patches to send.

    Attributes:
        ratio: of all patches, at most; exactly, if there is no PSNR to reach.
        psnr_db: of the canvas, at which no more are sent; None sends the ratio.
    """

    name: str
    ratio: float
    psnr_db: float | None = None


def gaze_settings(psnr_db: float, ratio_cap: float) -> tuple[Setting, ...]:
    """List the settings: each ratio, the PSNR, and the PSNR with no more patches than the ratio allows."""
    ratios = (Setting(f"ratio_{ratio:.2f}", ratio) for ratio in RATIOS)
    return (*ratios, Setting("error", 1.0, psnr_db), Setting("both", ratio_cap, psnr_db))


def choose_greedily(pixels: Pixels, canvas: Pixels, patch_size: int, setting: Setting) -> TokenIdx:
    """Choose the patches whose update mends the canvas most, as many as the setting asks for: (M,), ascending."""
    energy = residual_energy(pixels, canvas, patch_size)  # (S,)
    count = max(1, round(setting.ratio * len(energy)))
    if setting.psnr_db is not None:
        count = min(count, len(tokens_within(energy, setting.psnr_db, pixels.size)))
    return largest(energy, count)


class BlindRule(Protocol):
    """A rule that chooses without looking at the picture."""

    def choose(self, count: int) -> TokenIdx:
        """Choose `count` different patches of the next tubelet: (count,), ascending."""
        ...


class UniformRule:
    """Patches in turn, in an order in which any run of them is spread evenly over the picture."""

    def __init__(self, grid: int) -> None:
        self._order, self._sent = spread_order(grid), 0

    def choose(self, count: int) -> TokenIdx:
        """Take the next `count` patches of the order, from its start again after its end: (count,), ascending."""
        places = (self._sent + np.arange(count)) % len(self._order)
        self._sent += count
        return np.sort(self._order[places])


class RandomRule:
    """Patches by lot, new ones for each tubelet."""

    def __init__(self, grid: int, seed: int) -> None:
        self._tokens, self._generator = grid * grid, np.random.default_rng(seed)

    def choose(self, count: int) -> TokenIdx:
        """Draw `count` different patches: (count,), ascending."""
        return np.sort(self._generator.choice(self._tokens, count, replace=False))


def spread_order(grid: int) -> TokenIdx:
    """Order all patches of a square picture so that any run of them is spread evenly: (grid * grid,).

    It is the order of the thresholds in ordered dither (Bayer 1973): each digit of a patch's rank says in which
    quarter of a square it lies, the first digit that of the smallest squares, opposite corners in succession.
    """
    rows, columns = np.divmod(np.arange(grid * grid), grid)
    ranks = np.zeros(grid * grid, np.int64)
    for row_bit, column_bit in zip(_bits(rows, grid), _bits(columns, grid), strict=True):
        ranks = 4 * ranks + 2 * (row_bit ^ column_bit) + row_bit
    return np.argsort(ranks)


def _bits(places: TokenIdx, grid: int) -> Iterator[TokenIdx]:
    """Binary digits of places from 0 to grid - 1, the lowest first."""
    return (places >> bit & 1 for bit in range((grid - 1).bit_length()))
