"""Attention of a block of tokens to the ring, by torch. The kernel chosen (kernels.py) lays out the ring's slots.

No kernel masks anything: a ring holds what may be attended to and nothing else, in any order, as softmax has none.
Layers that attend by area (areas.py) read slices of it.
"""

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from saccade_ros.encoder.ring import Block
from saccade_ros.encoder.rope import RotaryTables, Rotation, rotate, rotation_matrix
from saccade_ros.encoder.spec import ModelSpec


class Attention(Protocol):
    """A kernel, shared by all layers and streams.

    Attributes:
        key_slot, value_slot: shape of one tubelet of one head in the ring.
    """

    key_slot: tuple[int, ...]
    value_slot: tuple[int, ...]

    def rotations(self, block: Block) -> tuple[Tensor, ...]:
        """Look up the rotations of a step's queries and keys, to be kept in `block.rotations`."""
        ...

    def __call__(self, layer: int, qkv: Tensor, block: Block) -> Tensor:
        """Store a block's keys and values, and attend: as projected, (rows, 3, A, E) -> (rows, D)."""
        ...


class FusedAttention:
    """torch's scaled_dot_product_attention, on a scratch copy of the keys with their depth part rotated."""

    def __init__(self, spec: ModelSpec, tables: RotaryTables, device: torch.device, dtype: torch.dtype) -> None:
        self.key_slot: tuple[int, ...] = (spec.tokens, spec.head_width)
        self.value_slot: tuple[int, ...] = self.key_slot
        self._query = tables.query.to(device, dtype)
        self._key = tables.key.to(device, dtype)
        self.depth = rotation_matrix(tables.depth, spec.head_width).to(device, dtype)  # (W, E, E)
        slots = spec.heads * len(self.depth)
        self._rotated = torch.empty(slots * spec.tokens * spec.head_width, device=device, dtype=dtype)

    def rotations(self, block: Block) -> tuple[Tensor, ...]:
        """Cosine and sine of queries and of keys, (rows, E) each, and matrices of keys by slot, (fill, E, E)."""
        token_idx, position_idx = block.token_idx, block.position_idx.repeat_interleave(block.rows // block.size)
        query = [table[position_idx, token_idx] for table in self._query]  # (rows, E) each
        return *query, *(table[token_idx] for table in self._key), self.depth[block.key_position_idx]

    def __call__(self, layer: int, qkv: Tensor, block: Block) -> Tensor:
        """See Attention."""
        query_cos, query_sin, key_cos, key_sin, depth = block.rotations
        keys, values = block.ring.keys[layer], block.ring.values[layer]  # (A, W, S, E)
        q, k, v = qkv.permute(1, 2, 0, 3)  # (A, rows, E) each
        keys.flatten(1, 2).index_copy_(1, block.row_idx, rotate(k, Rotation(key_cos, key_sin)))
        values.flatten(1, 2).index_copy_(1, block.row_idx, v)
        rotated = self.rotate_depth(keys[:, : block.fill], depth)  # (A, fill, S, E)
        queries = rotate(q, Rotation(query_cos, query_sin)).unflatten(1, (block.size, -1))  # (A, m, S or M, E)
        attend = self._choose_scope(layer, block)
        out = attend(queries, rotated, values[:, : block.fill], block)  # (A, m, S or M, E)
        return out.flatten(1, 2).transpose(0, 1).flatten(1)  # (rows, D)

    def _choose_scope(self, layer: int, block: Block) -> Callable[[Tensor, Tensor, Tensor, Block], Tensor]:
        """Choose what a layer's queries (A, m, S or M, E) attend to, of keys and values (A, fill, S, E)."""
        areas = block.ring.areas
        if layer >= areas.layers:
            return self._attend_to_all
        return self._attend_in_equal_areas if areas.are_equal and not block.is_sparse else self._attend_by_area

    def _attend_to_all(self, queries: Tensor, keys: Tensor, values: Tensor, block: Block) -> Tensor:
        out = self.attend(*(part.flatten(1, 2) for part in (queries, keys, values)))  # (A, rows, E)
        return out.view(queries.shape)

    def _attend_in_equal_areas(self, queries: Tensor, keys: Tensor, values: Tensor, block: Block) -> Tensor:
        """Attend in all areas at once, as if each were a head; a third faster than one by one for small encoders."""
        areas, (heads, size, _, width) = len(block.area_rows), queries.shape
        by_area = (part.unflatten(2, (areas, -1)).transpose(1, 2) for part in (queries, keys, values))
        out = self.attend(*(part.reshape(heads * areas, -1, width) for part in by_area))  # (A*G, m*S/G, E)
        return out.view(heads, areas, size, -1, width).transpose(1, 2).flatten(2, 3)  # (A, m, S, E)

    def _attend_by_area(self, queries: Tensor, keys: Tensor, values: Tensor, block: Block) -> Tensor:
        """Attend in one area after the other, but for those without a query."""
        out = torch.empty_like(queries)
        for rows, places in zip(block.area_rows, block.ring.areas.slices(), strict=True):
            if rows.stop > rows.start:
                parts = (queries[:, :, rows], keys[:, :, places], values[:, :, places])
                out[:, :, rows] = self.attend(*(p.flatten(1, 2) for p in parts)).view(parts[0].shape)
        return out

    def rotate_depth(self, keys: Tensor, depth: Tensor) -> Tensor:
        """Bring stored keys (A, fill, S, E) to their window positions; the result is valid until the next call.

        One product by a small matrix per slot: 0.9 ms a layer in fp32, 0.25 in bf16. Rotating only the depth channels,
        element by element, took 0.8 in both: rows of 20 in 64 do not vectorise.
        """
        return torch.matmul(keys, depth, out=self._rotated[: keys.numel()].view(keys.shape))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """Softmax of the scores times the values: (A, rows, E), (A, N, E), (A, N, E) -> (A, rows, E).

        Args:
            bias: added to the scores of each key, (1, N).
        """
        return F.scaled_dot_product_attention(queries[None], keys[None], values[None], attn_mask=bias)[0]


class MatmulAttention(FusedAttention):
    """Attention as plain products around a softmax, whose rows are computed in fp32 inside."""

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None) -> Tensor:
        """See FusedAttention."""
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.transpose(1, 2)  # (A, rows, N)
        return torch.softmax(scores if bias is None else scores + bias, dim=-1) @ values
