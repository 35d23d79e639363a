"""The ring KV cache: the last W tubelets of one stream, preallocated, written by slot, never moved.

Attention sums over keys in any order, so slot order need not be time order. What a key's depth rotation needs is
its *window position*: the newest tubelet n sits at min(n, W-1), one of age a at that minus a. Positions stay in the
range the checkpoint was trained on however long the stream runs, and a static scene settles to a fixed point.
Keys are therefore stored with the depth part un-rotated as well, and that part is turned again at each read.
"""

import torch
from torch import Tensor

from saccade_ros.encoder.rope import RotaryTables, Rotation, rotate
from saccade_ros.encoder.spec import ModelSpec


class RingCache:
    """State of one stream. `count` tubelets have been encoded since reset; nothing else is counted.

    A step opens a Block, writes and reads its slots layer by layer, and commits it once. A step that fails before
    the commit leaves no trace: the next one overwrites exactly the slots it wrote, before reading them.
    """

    def __init__(self, spec: ModelSpec, window: int, lookback: int, device: torch.device, dtype: torch.dtype) -> None:
        slots = (spec.depth, spec.heads, window, spec.tokens)
        self.window, self.lookback = window, lookback
        self.keys = torch.zeros(*slots, spec.head_width, device=device, dtype=dtype)  # (L, A, W, S, E)
        self.depth_keys = torch.zeros(*slots, spec.rope_width, device=device, dtype=dtype)  # un-rotated
        self.values = torch.zeros(*slots, spec.head_width, device=device, dtype=dtype)
        self.patches = torch.zeros(lookback, spec.tokens, spec.width, device=device, dtype=dtype)
        self.means = torch.zeros(window, spec.width, device=device, dtype=dtype)  # pooled outputs
        self.count = 0

    @staticmethod
    def bytes_needed(spec: ModelSpec, window: int, lookback: int, bytes_per_value: int) -> int:
        """Memory of one stream's cache: L*W*S*A*(2E + rope width) + r*S*D + W*D values."""
        per_token = spec.heads * (2 * spec.head_width + spec.rope_width)
        kv = spec.depth * window * spec.tokens * per_token
        return (kv + lookback * spec.tokens * spec.width + window * spec.width) * bytes_per_value

    @property
    def nbytes(self) -> int:
        """Memory this cache holds, in bytes."""
        return sum(t.nbytes for t in (self.keys, self.depth_keys, self.values, self.patches, self.means))

    @property
    def fill(self) -> int:
        """Valid tubelets, 0..W."""
        return min(self.count, self.window)

    def reset(self) -> None:
        """Forget everything. The memory stays; `count` says what of it is valid."""
        self.count = 0

    def window_mean(self) -> Tensor:
        """Mean output over the tubelets in the window: (D,)."""
        return self.means[: self.fill].mean(dim=0)


class Block:
    """One step's view of a ring: the tubelets it recomputes, their slots, and everyone's window position.

    Attributes:
        size: tubelets recomputed (m): lookback r, fewer while the stream is young.
        patches: their patch embeddings, newest last: (m, S, D).
        rows: their tokens, m*S.
        query_rotation: of this block's queries, (m, S, E).
    """

    def __init__(self, ring: RingCache, patches: Tensor, tables: RotaryTables) -> None:
        newest = ring.count  # index of the tubelet being encoded
        newest_position = min(newest, ring.window - 1)
        self.size = min(ring.lookback, newest + 1)
        self.fill = min(newest + 1, ring.window)
        self.ring, self.tables = ring, tables

        block_idx = torch.arange(newest - self.size + 1, newest + 1, device=patches.device)  # (m,)
        self.slot_idx = block_idx % ring.window
        position_idx = newest_position - (newest - block_idx)
        self.query_rotation = Rotation(tables.query.cos[position_idx], tables.query.sin[position_idx])

        age = (newest - torch.arange(self.fill, device=patches.device)) % ring.window  # by slot
        depth = tables.depth
        self.key_rotation = Rotation(*(part[newest_position - age][:, None, :] for part in depth))  # (fill, 1, d)

        ring.patches[newest % ring.lookback] = patches
        self.patches = ring.patches[block_idx % ring.lookback]  # (m, S, D)
        self.rows = self.size * patches.shape[0]

    def write(self, layer: int, keys: Tensor, values: Tensor) -> None:
        """Store this block's keys and values as projected, each (A, m, S, E)."""
        stored = rotate(keys, self.tables.key)
        depth = self.key_rotation.cos.shape[-1]
        self.ring.keys[layer].index_copy_(1, self.slot_idx, stored)
        self.ring.depth_keys[layer].index_copy_(1, self.slot_idx, stored[..., :depth])
        self.ring.values[layer].index_copy_(1, self.slot_idx, values)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        """Every valid key at its window position, and its value: each (A, fill*S, E), views of the ring."""
        keys = self.ring.keys[layer][:, : self.fill]  # (A, fill, S, E)
        values = self.ring.values[layer][:, : self.fill]
        depth_keys = self.ring.depth_keys[layer][:, : self.fill]
        rotate(depth_keys, self.key_rotation, out=keys[..., : depth_keys.shape[-1]])
        return keys.flatten(1, 2), values.flatten(1, 2)  # (A, fill*S, E)

    def commit(self, means: Tensor) -> None:
        """End the step, given the block's pooled outputs (m, D). The only place that advances a ring."""
        self.ring.means[self.slot_idx] = means
        self.ring.count += 1
