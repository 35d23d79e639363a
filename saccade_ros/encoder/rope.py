"""3D rotary embedding in torch: cosines and sines of the angles that positions.py defines, and their use.

Angles are computed in fp32, once; they are rounded to the model's precision only as cosines and sines.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from saccade_ros.encoder.positions import ChannelAngles, depth_angles, head_parts, patch_angles
from saccade_ros.encoder.spec import ModelSpec


class Rotation(NamedTuple):
    """Factors that rotate channels: (.., channels) each.

    Attributes:
        cos: of a channel itself.
        sin: of the other channel of its pair, with its sign.
    """

    cos: Tensor
    sin: Tensor

    def to(self, device: torch.device, dtype: torch.dtype) -> "Rotation":
        """Copy to a device, rounded to a precision."""
        return Rotation(self.cos.to(device, dtype), self.sin.to(device, dtype))


def rotation(channels: ChannelAngles) -> Rotation:
    """Take cosines and signed sines of angles, in their precision, on the CPU."""
    angle, sign = torch.from_numpy(channels.angle), torch.from_numpy(channels.sign)
    return Rotation(angle.cos(), angle.sin() * sign)


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Rotate each channel pair of x (.., channels); `by` broadcasts against x."""
    swapped = torch.stack((x[..., 1::2], x[..., ::2]), dim=-1).flatten(-2)  # (.., channels); flip takes twice as long
    return torch.mul(x, by.cos).addcmul_(swapped, by.sin)


def rotation_matrix(by: Rotation, channels: int) -> Tensor:
    """Matrices that rotate the first w channels of row vectors: (P, w) -> (P, channels, channels)."""
    width = by.cos.shape[-1]
    matrix = torch.eye(channels, device=by.cos.device).repeat(len(by.cos), 1, 1)  # (P, channels, channels)
    matrix[:, :width, :width] = rotate(torch.eye(width, device=by.cos.device), Rotation(*(t[:, None] for t in by)))
    return matrix


class RotaryTables(NamedTuple):
    """Rotations of a window, for positions 0..W-1, in fp32.

    Attributes:
        query: (W, S, E), by depth, height and width.
        key: (S, E), by height and width only: how keys are stored.
        depth: (W, rope_width), of the depth part alone: how stored keys are rotated at read time.
    """

    query: Rotation
    key: Rotation
    depth: Rotation


def rotary_tables(spec: ModelSpec, window: int) -> RotaryTables:
    """Precompute the rotations of a window, on the CPU."""
    depth = rotation(depth_angles(spec, np.arange(window), "float32"))
    key = rotation(patch_angles(spec, "float32"))
    query = Rotation(*(table.repeat(window, 1, 1) for table in key))  # (W, S, E)
    for table, part in zip(query, depth, strict=True):
        table[..., head_parts(spec).depth] = part[:, None]  # (W, 1, rope_width)
    return RotaryTables(query, key, depth)
