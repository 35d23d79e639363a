"""Ring KV cache: the last W tubelets of one stream, preallocated, written by slot, never moved.

Attention sums over keys in any order, so slot order need not be time order. A key's depth rotation depends on its
window position (positions.py), which changes while the stream runs. So keys are stored with the depth part
un-rotated, and that part is rotated at each read.
"""

from collections.abc import Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from saccade_ros.encoder.positions import StepIndices, filled_slots
from saccade_ros.encoder.spec import ModelSpec


class RingCache:
    """State of one stream. `count` tubelets have been encoded since reset; nothing else is counted.

    A step makes a Block, writes and reads its slots layer by layer, and advances the ring once, at its end. A step that
    fails before leaves no trace: the next one overwrites exactly the slots it wrote, before reading them.

    Args:
        key_slot, value_slot: shape of one tubelet of one head in memory; the attention kernel's choice.
    """

    def __init__(
        self,
        spec: ModelSpec,
        window: int,
        recompute: int,
        key_slot: tuple[int, ...],
        value_slot: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self.window, self.recompute = window, recompute
        slots = (spec.depth, spec.heads, window)
        self.keys = torch.zeros(*slots, *key_slot, device=device, dtype=dtype)  # (L, A, W, key slot)
        self.values = torch.zeros(*slots, *value_slot, device=device, dtype=dtype)  # (L, A, W, value slot)
        self.patches = torch.zeros(recompute, spec.tokens, spec.width, device=device)  # fp32
        self.means = torch.zeros(window, spec.width, device=device, dtype=dtype)  # pooled outputs
        self.count = 0

    @staticmethod
    def bytes_needed(
        spec: ModelSpec, window: int, recompute: int, key_slot: tuple[int, ...], dtype: torch.dtype
    ) -> int:
        """Memory of one stream's cache in bytes: L*W*A*(K + S*E) + W*D values, and r*S*D of fp32.

        K, a head's keys of one tubelet, is S*E; the AMX kernel pads E to 32, so that it is more for ViT-H, of width 80.
        """
        tubelet = spec.heads * (prod(key_slot) + spec.tokens * spec.head_width)
        values = spec.depth * window * tubelet + window * spec.width
        return values * dtype.itemsize + recompute * spec.tokens * spec.width * torch.float32.itemsize

    @property
    def nbytes(self) -> int:
        """Memory this cache holds, in bytes."""
        return sum(t.nbytes for t in (self.keys, self.values, self.patches, self.means))

    @property
    def fill(self) -> int:
        """Valid tubelets, 0..W."""
        return filled_slots(self.count, self.window)

    @property
    def next_step(self) -> StepIndices:
        """Indices of the step that encodes the next tubelet."""
        return StepIndices(self.count, self.window, self.recompute)

    def reset(self) -> None:
        """Empty the ring. The memory stays; `count` says what of it is valid."""
        self.count = 0

    def advance(self) -> None:
        """Count one more encoded tubelet. Called in one place, at the end of a step that succeeded."""
        self.count += 1


class Block:
    """Indices of a step in a ring's memory: the tubelets it recomputes, their slots, and all window positions.

    Shapes are fixed when it is made; `update` rewrites the indices in place for each later step. So a captured CUDA
    graph can use one block for as long as the ring's fill stays.

    Attributes:
        size: tubelets recomputed (m): recompute r, fewer while the stream is young.
        fill: tubelets attended to, the new one included.
        slot_idx, position_idx: slots and window positions of the block's tubelets, newest last: (m,).
        key_position_idx: window position of the tubelet in each slot: (fill,).
        rotations: what the attention kernel rotates by in this step; its own business.
    """

    def __init__(self, ring: RingCache) -> None:
        self.ring = ring
        self.size, self.fill = ring.next_step.size, ring.next_step.fill
        self.rotations: tuple[Tensor, ...] = ()
        parts = [self.size, self.size, self.size, self.fill]
        self._indices = torch.empty(sum(parts), dtype=torch.int64, device=ring.keys.device)
        self.slot_idx, self.position_idx, self._patch_idx, self.key_position_idx = self._indices.split(parts)
        self.update()

    @property
    def rows(self) -> int:
        """Tokens of the block: m*S."""
        return self.size * self.ring.patches.shape[1]

    def update(self) -> None:
        """Point at the tubelet that the ring takes next. The only transfer from host to device in a step."""
        step = self.ring.next_step
        block_idx = step.block_idx[step.block_mask]  # (m,)
        parts = step.slots(block_idx), step.positions(block_idx), block_idx % self.ring.recompute
        by_slot = step.positions(step.slot_tubelet_idx[: step.fill])  # (fill,)
        indices = torch.from_numpy(np.concatenate((*parts, by_slot)))  # (3m + fill,)
        on_gpu = self._indices.is_cuda
        self._indices.copy_(indices.pin_memory() if on_gpu else indices, non_blocking=on_gpu)

    def append(self, patches: Tensor) -> Tensor:
        """Keep the new tubelet's patch embeddings (S, D); return the whole block's: (m*S, D)."""
        self.ring.patches.index_copy_(0, self._patch_idx[-1:], patches[None])
        return self.ring.patches[self._patch_idx].flatten(0, 1)  # (m*S, D)

    def pool(self, means: Tensor) -> Tensor:
        """Keep the block's pooled outputs (m, D); return their mean over the window: (D,)."""
        self.ring.means.index_copy_(0, self.slot_idx, means)
        return self.ring.means[: self.fill].mean(dim=0)


def make_blocks(rings: Sequence[RingCache]) -> list[Block]:
    """Make a block for the next step of each ring.

    Raises:
        ValueError: a ring is given twice; a stream advances one tubelet per step.
    """
    if len({id(ring) for ring in rings}) < len(rings):
        raise ValueError("the same ring is given twice: a stream advances one tubelet per step")
    return [Block(ring) for ring in rings]
