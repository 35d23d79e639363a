"""3D rotary positions of V-JEPA 2: a head's channels are rotated by depth (time), height and width in turn.

Formula: transformers, models/vjepa2/modeling_vjepa2.py, rotate_queries_or_keys (released V-JEPA 2), and
facebookresearch/vjepa2 for the 2.1 layout. With angles a_i = position / 10000^(2i/width), i < width/2, channel
pair (x_2i, x_2i+1) turns by the angles of its two channels:

    tiled        channels carry a_0 .. a_w/2-1, a_0 .. a_w/2-1: the two of a pair turn by DIFFERENT angles, so this
                 is no rotation and scores depend on absolute positions. Every V-JEPA 2 checkpoint was trained so.
    interleaved  channels carry a_0, a_0, a_1, a_1 ..: true rotations, scores depend on differences only. V-JEPA 2.1,
                 which also stretches rows and columns to a fixed range (ModelSpec.rope_grid); time it does not.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from saccade_ros.encoder.spec import ModelSpec, RopeLayout


class Rotation(NamedTuple):
    """What to turn channels by, each (..., channels): cosines, and sines with a minus on the first of each pair."""

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Rotation":
        """The same rotation elsewhere. Angles are computed in fp32 before any rounding."""
        return Rotation(self.cos.to(device, dtype), self.sin.to(device, dtype))


def rotation(positions: Tensor, width: int, layout: RopeLayout) -> Rotation:
    """Rotation of `width` channels at each of P positions: (P, width)."""
    exponent = torch.arange(width // 2, dtype=torch.float32, device=positions.device) / (width / 2)
    angles = positions.float()[:, None] / 10000**exponent  # (P, width/2)
    channels = angles.repeat(1, 2) if layout == "tiled" else angles.repeat_interleave(2, dim=1)  # (P, width)
    sign = torch.tensor([-1.0, 1.0], device=positions.device).repeat(width // 2)  # (width,)
    return Rotation(channels.cos(), channels.sin() * sign)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn each channel pair of x (..., channels); `by` broadcasts against x."""
    swapped = torch.stack((x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)  # (..., channels); flip takes twice as long
    return torch.mul(x, by.cos).addcmul_(swapped, by.sin)


def rotation_matrix(by: Rotation, channels: int) -> Tensor:
    """A rotation of a head's first w channels, as matrices to multiply rows by: (P, w) -> (P, channels, channels)."""
    width = by.cos.shape[-1]
    matrix = torch.eye(channels, device=by.cos.device).repeat(len(by.cos), 1, 1)  # (P, channels, channels)
    matrix[:, :width, :width] = rotate(torch.eye(width, device=by.cos.device), Rotation(*(t[:, None] for t in by)))
    return matrix


class RotaryTables(NamedTuple):
    """Every rotation the cached encoder needs, for positions 0..W-1 of its window, in fp32.

    Attributes:
        query: (W, S, E), all three parts and the unrotated rest.
        key: (S, E), height and width only: how keys are stored.
        depth: (W, rope_width): how the depth part of stored keys is turned at read time.
    """

    query: Rotation
    key: Rotation
    depth: Rotation


def rotary_tables(spec: ModelSpec, window: int) -> RotaryTables:
    """Precompute the rotations of a window, on the CPU. The grid is row-major, as the patches are."""
    depth = rotation(torch.arange(window, device="cpu"), spec.rope_width, spec.rope)
    patch_idx = torch.arange(spec.tokens, device="cpu")
    rows, columns = (idx * spec.position_scale for idx in (patch_idx // spec.grid, patch_idx % spec.grid))
    height = rotation(rows, spec.rope_width, spec.rope)
    width = rotation(columns, spec.rope_width, spec.rope)
    return RotaryTables(
        query=_assemble(spec, depth, height, width), key=_assemble(spec, None, height, width), depth=depth
    )


def _assemble(spec: ModelSpec, depth: Rotation | None, height: Rotation, width: Rotation) -> Rotation:
    """Lay the parts side by side in a head: depth, height, width, rest; an absent part does not turn."""
    frames = len(depth.cos) if depth else 1
    cos = torch.ones(frames, spec.tokens, spec.head_width, device="cpu")
    sin = torch.zeros(frames, spec.tokens, spec.head_width, device="cpu")
    w = spec.rope_width
    for table, part in ((cos, 0), (sin, 1)):
        if depth:
            table[..., :w] = depth[part][:, None, :]
        table[..., w : 2 * w] = height[part]
        table[..., 2 * w : 3 * w] = width[part]
    return Rotation(cos, sin) if depth else Rotation(cos[0], sin[0])
