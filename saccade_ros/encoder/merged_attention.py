"""Attention of merged tokens to a ring of merged tokens, with their sizes, from wherever they are in the picture."""

import torch
from torch import Tensor

from saccade_ros.encoder.attention import FusedAttention
from saccade_ros.encoder.positions import plane_rates
from saccade_ros.encoder.ring import Block
from saccade_ros.encoder.rope import Rotation, rotate
from saccade_ros.encoder.spec import ModelSpec


class MergedAttention:
    """One of torch's kernels, with log(size) added to the scores of each key, so that it counts as all its patches.

    Rotations by row and column cannot be tables, as centroids lie between patches: they are computed in each layer.
    """

    def __init__(self, kernel: FusedAttention, spec: ModelSpec, device: torch.device) -> None:
        self.key_slot, self.value_slot = kernel.key_slot, kernel.value_slot
        rates = plane_rates(spec, "float32")
        self._rates, self._signs = (torch.from_numpy(part).to(device) for part in rates)  # (2, E), (E,)
        self._kernel = kernel

    def rotations(self, block: Block) -> tuple[Tensor, ...]:
        """Matrices of the depth part, of the queries, (E, E), and of keys by slot, (fill, E, E)."""
        return self._kernel.depth[block.position_idx[0]], self._kernel.depth[block.key_position_idx]

    def __call__(self, layer: int, qkv: Tensor, block: Block) -> Tensor:
        """See Attention: (n, 3, A, E) -> (n, D)."""
        ring, (query_depth, key_depth) = block.ring, block.rotations
        keys, values, biases = ring.keys[layer], ring.values[layer], ring.log_sizes[layer]  # (A, W, n, E) twice, (W, n)
        q, k, v = qkv.permute(1, 2, 0, 3)  # (A, n, E) each
        by = self._rotation(block.places, qkv.dtype)
        keys.index_copy_(1, block.slot_idx, rotate(k, by)[:, None])
        values.index_copy_(1, block.slot_idx, v[:, None])
        biases.index_copy_(0, block.slot_idx, block.sizes.log().to(biases.dtype)[None])
        rotated = self._kernel.rotate_depth(keys[:, : block.fill], key_depth).flatten(1, 2)  # (A, fill*n, E)
        queries = rotate(q, by) @ query_depth  # (A, n, E)
        bias = biases[: block.fill].view(1, -1)  # (1, fill*n)
        out = self._kernel.attend(queries, rotated, values[:, : block.fill].flatten(1, 2), bias)  # (A, n, E)
        return out.transpose(0, 1).flatten(1)  # (n, D)

    def _rotation(self, places: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotate by row and column (n, 2): (n, E) each; angles in fp32."""
        angles = places[:, :1] * self._rates[0] + places[:, 1:] * self._rates[1]  # (n, E)
        return Rotation(angles.cos().to(dtype), (angles.sin() * self._signs).to(dtype))
