"""Ring KV cache: the last W tubelets of one stream, preallocated, written by slot, never moved.

Attention sums over keys in any order, so slot order need not be time order. A key's depth rotation depends on its
window position (positions.py), which changes while the stream runs. So keys are stored with the depth part
un-rotated, and that part is rotated at each read.

That is also why a sparse step can start from the previous tubelet's keys and values: they are right in any slot.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from math import prod

import numpy as np
import torch
from torch import Tensor

from saccade_ros.encoder.areas import Areas
from saccade_ros.encoder.positions import Indices, StepIndices, filled_slots
from saccade_ros.encoder.spec import ModelSpec


class RingCache:
    """State of one stream. `count` tubelets have been encoded since reset; nothing else is counted.

    A step makes a Block, writes and reads its slots layer by layer, and advances the ring once, at its end. A step that
    fails before leaves no trace: the next one overwrites exactly the slots it wrote, before reading them.

    Args:
        key_slot, value_slot: shape of one tubelet of one head in memory; the attention kernel's choice.
        merge: tokens merged by each layer. A layer's slots hold as many tokens as it attends with.
        areas: order of the tokens in a slot; None keeps their own.

    Attributes:
        keys, values: of each layer, (A, W, key slot) and (A, W, value slot).
        log_sizes: with merging, of each layer, the logarithms of the patches that its keys stand for, (W, tokens).
        order, place: index that brings the tokens of tubelets to the order they have in a slot, and back.
    """

    order: slice | Tensor = slice(None)
    place: slice | Tensor = slice(None)

    def __init__(
        self,
        spec: ModelSpec,
        window: int,
        recompute: int,
        key_slot: tuple[int, ...],
        value_slot: tuple[int, ...],
        device: torch.device,
        dtype: torch.dtype,
        merge: int = 0,
        areas: Areas | None = None,
    ) -> None:
        self.window, self.recompute, self.tokens, self.merges = window, recompute, spec.tokens, merge > 0
        counts = spec.token_counts(merge)
        slots = spec.heads, window

        def by_layer(slot: tuple[int, ...]) -> list[Tensor]:
            """Memory of each run of layers with as many tokens, one after the other: (layers, A, W, slot) each."""
            runs = [(count, len(list(layers))) for count, layers in groupby(counts[:-1])]
            sizes = [(layers, *slots, *_slot(slot, count, spec)) for count, layers in runs]
            return [torch.zeros(size, device=device, dtype=dtype) for size in sizes]

        self._memory = [*by_layer(key_slot), *by_layer(value_slot)]
        layers = [layer for run in self._memory for layer in run]
        self.keys, self.values = layers[: spec.depth], layers[spec.depth :]
        merged = counts[:-1] if self.merges else ()
        self.log_sizes = [torch.zeros(window, count, device=device, dtype=dtype) for count in merged]
        self.patches = torch.zeros(recompute, spec.tokens, spec.width, device=device)  # fp32
        self.means = torch.zeros(window, spec.width, device=device, dtype=dtype)  # pooled outputs
        self.canvas = torch.zeros(counts[-1], spec.width, device=device, dtype=dtype)  # newest tubelet's outputs
        self.canvas_before = torch.zeros_like(self.canvas)  # the same before the last step
        self.areas = areas or Areas.whole(spec)
        if self.areas.are_on:
            self.order = torch.from_numpy(self.areas.token_idx).to(device)  # (S,)
            self.place = torch.from_numpy(self.areas.place_idx).to(device)  # (S,)
        self.count = 0

    @staticmethod
    def bytes_needed(
        spec: ModelSpec, window: int, recompute: int, key_slot: tuple[int, ...], dtype: torch.dtype, merge: int = 0
    ) -> int:
        """Memory of one stream's cache in bytes: L*W*A*(K + S*E) + W*D + 2*S*D values, and r*S*D of fp32.

        K, a head's keys of one tubelet, is S*E; the AMX kernel pads E to 32, so that it is more for ViT-H, of width 80.
        With merging, each layer has its own number of tokens n for S (ModelSpec.token_counts), the canvas what the last
        layer leaves, and W*n sizes come to each layer.
        """
        counts = spec.token_counts(merge)
        slots = sum(prod(_slot(key_slot, count, spec)) + count * spec.head_width for count in counts[:-1])
        sizes = sum(counts[:-1]) if merge else 0
        values = window * (spec.heads * slots + sizes) + (window + 2 * counts[-1]) * spec.width
        return values * dtype.itemsize + recompute * spec.tokens * spec.width * torch.float32.itemsize

    @property
    def nbytes(self) -> int:
        """Memory this cache holds, in bytes."""
        return sum(t.nbytes for t in (*self._memory, *self.log_sizes, self.patches, self.means, *self._canvases))

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

    def keep(self, tokens: Tensor) -> None:
        """Keep the outputs of the newest tubelet, (S, D), beside those before it."""
        self.canvas_before.copy_(self.canvas)
        self.canvas.copy_(tokens)

    def advance(self) -> None:
        """Count one more encoded tubelet. Called in one place, at the end of a step that succeeded."""
        self.count += 1

    def step_back(self) -> None:
        """Undo the last step: the next one overwrites its slots before it reads them."""
        self.canvas.copy_(self.canvas_before)
        self.count -= 1

    def hold(self) -> None:
        """Let the newest tubelet count once more, as a sparse step of no token does: its slot is copied to the next.

        So time goes on in the cache while nothing is computed.

        Raises:
            ValueError: what Block refuses as a sparse step.
        """
        block = Block(self, np.empty(0, np.int64))
        block.repeat_previous_slot()
        self.advance()

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Undo the steps made inside at its end.

        No copy of the cache is needed for it, which for ViT-L is hundreds of megabytes.
        """
        count, canvases = self.count, [canvas.clone() for canvas in self._canvases]
        try:
            yield
        finally:
            self.count = count
            for canvas, kept in zip(self._canvases, canvases, strict=True):
                canvas.copy_(kept)

    @property
    def _canvases(self) -> tuple[Tensor, Tensor]:
        return self.canvas, self.canvas_before


def _slot(slot: tuple[int, ...], count: int, spec: ModelSpec) -> tuple[int, ...]:
    """Shape of a slot of `count` tokens in the layout of one of S: every kernel's first size is a multiple of them."""
    return slot[0] // spec.tokens * count, *slot[1:]


class Block:
    """Indices of a step in a ring's memory: the tokens it computes, their slots, and all window positions.

    A dense step computes all tokens of the newest m tubelets. A sparse one computes M tokens of the newest tubelet,
    whose slot starts as a copy of the previous one's; its outputs are painted over the previous ones.

    Shapes are fixed when it is made; `update` rewrites the indices in place for each later step. So a captured CUDA
    graph can use one block for as long as the ring's fill and the number of tokens stay.

    Args:
        token_idx: tokens of a sparse step, (M,) ascending; None computes all, densely.

    Attributes:
        size: tubelets recomputed (m): recompute r, fewer while the stream is young.
        fill: tubelets attended to, the new one included.
        rows: tokens computed: m*S, or M.
        slot_idx, position_idx: slots and window positions of the block's tubelets, newest last: (m,).
        key_position_idx: window position of the tubelet in each slot: (fill,).
        token_idx: place in its tubelet of each token computed, (rows,); ascending, with areas one area after the other.
        row_idx: place of each in a layer's ring, slots one after the other, (rows,).
        area_rows: of each area, its tokens' places among those computed of one tubelet; see areas.py.
        rotations: what the attention kernel rotates by in this step; its own business.
        sizes, places: with merging, of the tokens at the present layer, patches that each stands for, (n,), and its
            rotary row and column, (n, 2), in fp32; merging.py sets them.

    Raises:
        ValueError: a sparse step of an empty ring, or of one that has one slot, or recomputes more than the newest
            tubelet, or merges.
    """

    def __init__(self, ring: RingCache, token_idx: Indices | None = None) -> None:
        self.ring, self.is_sparse = ring, token_idx is not None
        self.size, self.fill = ring.next_step.size, ring.next_step.fill
        self.rows = self.size * ring.tokens if token_idx is None else len(token_idx)
        if self.is_sparse and (ring.window == 1 or ring.recompute > 1 or ring.merges or not ring.count):
            raise ValueError(
                f"{self.rows} of {ring.tokens} tokens are to be computed, after {ring.count} tubelets, with window "
                f"{ring.window} and recompute {ring.recompute}: the first tubelet, and any with window 1 (whose only "
                "slot would be copied onto itself), recompute above 1 or merging, is computed whole"
            )
        self.rotations: tuple[Tensor, ...] = ()
        self.sizes = self.places = torch.empty(0)
        parts = [self.size, self.size, self.size, self.fill, self.rows, self.rows, 1]
        self._indices = torch.empty(sum(parts), dtype=torch.int64, device=ring.means.device)
        named = self._indices.split(parts)
        self.slot_idx, self.position_idx, self._patch_idx, self.key_position_idx = named[:4]
        self.token_idx, self.row_idx, self._previous_slot_idx = named[4:]
        self.update(token_idx)

    def update(self, token_idx: Indices | None = None) -> None:
        """Point at the tubelet that the ring takes next. The only transfer from host to device in a step.

        Args:
            token_idx: as many as when the block was made.
        """
        ring, step, areas = self.ring, self.ring.next_step, self.ring.areas
        chosen = areas.token_idx if token_idx is None else areas.arrange(token_idx)  # (rows / m,)
        self.area_rows = areas.slices_of(chosen)
        block_idx = step.block_idx[step.block_mask]  # (m,)
        slots = step.slots(block_idx)  # (m,)
        tokens = np.tile(chosen, self.size)  # (rows,)
        rows = np.repeat(slots, len(chosen)) * ring.tokens + areas.place_idx[tokens]  # (rows,)
        by_slot = step.positions(step.slot_tubelet_idx[: step.fill])  # (fill,)
        previous = np.array([step.slots(step.newest - 1)])  # (1,)
        parts = slots, step.positions(block_idx), block_idx % ring.recompute, by_slot, tokens, rows, previous
        indices = torch.from_numpy(np.concatenate(parts))  # (3m + fill + 2 rows + 1,)
        on_gpu = self._indices.is_cuda
        self._indices.copy_(indices.pin_memory() if on_gpu else indices, non_blocking=on_gpu)

    def append(self, patches: Tensor) -> Tensor:
        """Keep the new tubelet's patch embeddings (S, D); return those of the tokens to compute: (rows, D)."""
        if self.is_sparse:
            self.repeat_previous_slot()
            return patches[self.token_idx]  # (M, D)
        self.ring.patches.index_copy_(0, self._patch_idx[-1:], patches[None])
        return self.ring.patches[self._patch_idx][:, self.ring.order].flatten(0, 1)  # (m*S, D)

    def repeat_previous_slot(self) -> None:
        """Copy the previous tubelet's keys and values to the slot of the new one, in every layer, and its mean."""
        for memory in self.ring._memory:
            memory.index_copy_(2, self.slot_idx, memory.index_select(2, self._previous_slot_idx))
        self.ring.means.index_copy_(0, self.slot_idx, self.ring.means.index_select(0, self._previous_slot_idx))

    def paint(self, tokens: Tensor) -> Tensor:
        """Complete the computed tokens' outputs (rows, D) to whole tubelets: (m, S, D)."""
        if self.is_sparse:
            return self.ring.canvas.index_copy(0, self.token_idx, tokens)[None]  # (1, S, D)
        whole: Tensor = tokens.unflatten(0, (self.size, -1))[:, self.ring.place]  # (m, S, D)
        return whole

    def pool(self, means: Tensor) -> Tensor:
        """Keep the block's pooled outputs (m, D); return their mean over the window: (D,)."""
        self.ring.means.index_copy_(0, self.slot_idx, means)
        return self.ring.means[: self.fill].mean(dim=0)


def make_blocks(rings: Sequence[RingCache], token_idx: Sequence[Indices | None]) -> list[Block]:
    """Make a block for the next step of each ring.

    Raises:
        ValueError: a ring is given twice; a stream advances one tubelet per step.
    """
    if len({id(ring) for ring in rings}) < len(rings):
        raise ValueError("the same ring is given twice: a stream advances one tubelet per step")
    return [Block(ring, chosen) for ring, chosen in zip(rings, token_idx, strict=True)]
