"""Positions of a cached step: the one definition of the tubelets, slots and rotary angles that it computes with.

The torch encoder, the exported graphs and their host side, and training all read it. NumPy only: an export runs where
torch is not installed. Cosines and sines are left to each runtime, whose own differ in the last bit.

StepIndices says which tubelets a step recomputes, where the ring keeps them, and where each one stands in the window.
The newest tubelet n stands at min(n, W-1), one of age a at that minus a. So positions stay in the range that the
checkpoint was trained on, however long the stream runs, and a static scene settles to a fixed point.

The rest says by which angles a head's channels are rotated: a third by depth (time), one by height (row), one by width
(column). Formula: transformers, models/vjepa2/modeling_vjepa2.py, rotate_queries_or_keys (V-JEPA 2), and
facebookresearch/vjepa2 (V-JEPA 2.1). With a_i = position / 10000^(2i/width), i < width/2, the channels of a part have

    tiled        a_0 .. a_w/2-1, a_0 .. a_w/2-1: the two of a pair have DIFFERENT angles, so this is no rotation, and
                 scores depend on absolute positions. Every V-JEPA 2 checkpoint was trained so.
    interleaved  a_0, a_0, a_1, a_1 ..: true rotations, scores depend on differences only. V-JEPA 2.1, which also
                 stretches rows and columns over a fixed range (ModelSpec.rope_grid); time it does not.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from saccade_ros.encoder.spec import ModelSpec, RopeLayout

Angles = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]
Tubelets = TypeVar("Tubelets", int, Indices)
Precision = Literal["float32", "float64"]

BASE = 10000.0  # of the angles' geometric progression


def filled_slots(count: int, window: int) -> int:
    """Valid slots of a ring after `count` tubelets: 0..W. Slots fill in order, so these are the first ones."""
    return min(count, window)


@dataclass(frozen=True)
class StepIndices:
    """Tubelets, slots and window positions of the step that encodes one tubelet of a stream.

    Attributes:
        newest: number of the tubelet that is encoded (n), counted from 0 since reset.
        window: slots of the ring (W).
        recompute: newest tubelets that each step recomputes (r).
    """

    newest: int
    window: int
    recompute: int

    @property
    def fill(self) -> int:
        """Tubelets attended to, the new one included: 1..W."""
        return filled_slots(self.newest + 1, self.window)

    @property
    def oldest(self) -> int:
        """Number of the oldest tubelet attended to."""
        return self.newest + 1 - self.fill

    @property
    def size(self) -> int:
        """Tubelets recomputed (m): r, fewer while the stream is young."""
        return min(self.recompute, self.newest + 1)

    @property
    def shift(self) -> int:
        """Window position of a tubelet minus its number: 0 until the ring is full, then below."""
        return min(self.newest, self.window - 1) - self.newest

    @property
    def block_idx(self) -> Indices:
        """Numbers of the newest r tubelets, oldest first: (r,). Negative ones do not exist in a young stream."""
        return np.arange(self.newest - self.recompute + 1, self.newest + 1)

    @property
    def block_mask(self) -> npt.NDArray[np.bool_]:
        """True for the tubelets of the block that exist, which are the newest m: (r,)."""
        return self.block_idx >= 0

    @property
    def slot_tubelet_idx(self) -> Indices:
        """Number of the tubelet in each slot once the step is done: (W,). Negative where the slot is empty."""
        return self.newest - (self.newest - np.arange(self.window)) % self.window

    def slots(self, tubelets: Tubelets) -> Tubelets:
        """Slots that tubelets of these numbers are kept in."""
        return tubelets % self.window

    def positions(self, tubelets: Tubelets) -> Tubelets:
        """Window positions of tubelets of these numbers: 0..W-1 for those in the window."""
        return tubelets + self.shift


class ChannelAngles(NamedTuple):
    """Rotation of a head's channels, before its cosine and sine are taken.

    Channels come in pairs (2i, 2i+1). A rotated channel is cos(angle) times itself plus sign * sin(angle) times the
    other one of its pair.

    Attributes:
        angle: radians, (.., channels); 0 where a channel is not rotated.
        sign: -1 for the first of a pair, +1 for the second, 0 where a channel is not rotated: (channels,).
    """

    angle: Angles
    sign: Angles


class HeadParts(NamedTuple):
    """Channels of a head that depth, height and width rotate; the channels after them are not rotated."""

    depth: slice
    height: slice
    width: slice


def head_parts(spec: ModelSpec) -> HeadParts:
    """Lay the three parts side by side from channel 0 on, each of spec.rope_width channels."""
    return HeadParts(*(slice(i * spec.rope_width, (i + 1) * spec.rope_width) for i in range(3)))


@cache
def wavelengths(width: int, dtype: Precision) -> Angles:
    """Divisors of a position that give the angles of a part of `width` channels, 10000^(2i/width): (width/2,)."""
    exponent: Angles = np.arange(width // 2, dtype=dtype) / (width // 2)
    divisors: Angles = (BASE ** exponent.astype("float64")).astype(dtype)
    divisors.flags.writeable = False  # shared by all callers
    return divisors


def channel_angles(positions: Indices | Angles, width: int, layout: RopeLayout, dtype: Precision) -> Angles:
    """Angles of the `width` channels of one part at each of P positions: (P,) -> (P, width), in radians.

    Args:
        dtype: float32 as transformers computes them; float64 for positions without bound.
    """
    angles: Angles = positions.astype(dtype)[:, None] / wavelengths(width, dtype)  # (P, width/2)
    return np.tile(angles, (1, 2)) if layout == "tiled" else np.repeat(angles, 2, axis=1)  # (P, width)


def pair_signs(width: int, dtype: Precision) -> Angles:
    """Signs of the pair partners of `width` channels: -1, 1, -1, 1 ..: (width,)."""
    signs: Angles = 2 * (np.arange(width, dtype=dtype) % 2) - 1
    return signs


def pair_partners(width: int) -> Indices:
    """Channels that are the pair partners of `width` channels: 1, 0, 3, 2 ..: (width,)."""
    return np.arange(width) ^ 1


def patch_positions(spec: ModelSpec, dtype: Precision) -> tuple[Angles, Angles]:
    """Rotary positions of each patch, row and column, (S,) each. The grid is row-major, as the patches are."""
    patch_idx = np.arange(spec.tokens)
    rows, columns = (patch_idx // spec.grid).astype(dtype), (patch_idx % spec.grid).astype(dtype)
    return rows * spec.position_scale, columns * spec.position_scale


def depth_angles(spec: ModelSpec, positions: Indices, dtype: Precision) -> ChannelAngles:
    """Rotation of the depth part at P positions in time: angles (P, rope_width)."""
    angle = channel_angles(positions, spec.rope_width, spec.rope, dtype)
    return ChannelAngles(angle, pair_signs(spec.rope_width, dtype))


def patch_angles(spec: ModelSpec, dtype: Precision) -> ChannelAngles:
    """Rotation of a head of each patch by height and width alone, as keys are stored: angles (S, E)."""
    rows, columns = patch_positions(spec, dtype)
    return plane_angles(spec, rows, columns, dtype)


def plane_angles(spec: ModelSpec, rows: Angles, columns: Angles, dtype: Precision) -> ChannelAngles:
    """Rotation of a head by height and width alone at any P places, given by rotary positions (P,): angles (P, E)."""
    angle, sign = np.zeros((len(rows), spec.head_width), dtype), np.zeros(spec.head_width, dtype)
    parts = head_parts(spec)
    for part, positions in zip((parts.height, parts.width), (rows, columns), strict=True):
        angle[:, part] = channel_angles(positions, spec.rope_width, spec.rope, dtype)  # (P, rope_width)
        sign[part] = pair_signs(spec.rope_width, dtype)
    return ChannelAngles(angle, sign)


def plane_rates(spec: ModelSpec, dtype: Precision) -> ChannelAngles:
    """Angles of a head at row 1 and at column 1: (2, E).

    Angles grow with positions in proportion. So those of a place that is known only while a step runs, a merged
    token's, are its row and column times these.
    """
    rows, columns = np.eye(2, dtype=dtype)
    return plane_angles(spec, rows, columns, dtype)
