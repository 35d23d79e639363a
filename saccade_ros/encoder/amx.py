"""Attention on the CPU's matrix unit; the work is in native/attention.cpp."""

import torch
from torch import Tensor

from saccade_ros.encoder.native import library
from saccade_ros.encoder.ring import Block
from saccade_ros.encoder.rope import RotaryTables, Rotation
from saccade_ros.encoder.spec import ModelSpec

TILE = 32  # the matrix unit takes bf16 in rows of 32


class AmxAttention:
    """Attention in bf16 or fp32 on the CPU's matrix unit.

    Raises:
        MemoryError: from a call, if the kernel's working memory cannot be had.
    """

    def __init__(self, spec: ModelSpec, tables: RotaryTables, dtype: torch.dtype) -> None:
        padded = _padded(spec.head_width)
        self.key_slot: tuple[int, ...] = (padded * spec.tokens,)
        self.value_slot: tuple[int, ...] = (spec.tokens * spec.head_width,)
        self._spec = spec
        kernels = library()
        self._attend = {
            torch.bfloat16: kernels.saccade_amx_attend_bf16,
            torch.float32: kernels.saccade_amx_attend_fp32,
        }[dtype]
        self._query_turns = _turns(tables.query, padded)  # (W, S, 4, P/2)
        self._key_turns = _turns(tables.key, padded)  # (S, 4, P/2)
        self._depth_turns = _turns(tables.depth, padded)  # (W, 4, P/2)

    @staticmethod
    def serves(spec: ModelSpec, dtype: torch.dtype) -> bool:
        """True if the kernel was built, the processor has AMX, and the model fits its tiles."""
        fits = (
            dtype in (torch.bfloat16, torch.float32) and spec.tokens % TILE == 0 and spec.head_width % (TILE // 2) == 0
        )
        return fits and library() is not None and bool(library().saccade_amx_available())

    def turns(self, block: Block) -> tuple[Tensor, ...]:
        """Of queries, (m, S, 4, P/2), and of keys by slot, (fill, 4, P/2)."""
        return self._query_turns[block.position_idx], self._depth_turns[block.key_position_idx]

    def __call__(self, layer: int, qkv: Tensor, block: Block) -> Tensor:
        """See Attention."""
        queries, depth = block.turns
        spec, ring = self._spec, block.ring
        out = torch.empty(len(qkv), spec.width, dtype=qkv.dtype)
        sizes = (torch.get_num_threads(), spec.heads, ring.window, block.fill, spec.tokens, spec.head_width, block.size)
        arrays = (qkv, block.slot_idx, queries, self._key_turns, depth)
        memory = (*arrays, ring.keys[layer], ring.values[layer], out)
        failed = self._attend(*sizes, spec.rope_width // 2, *(array.data_ptr() for array in memory))
        if failed:
            raise MemoryError("no working memory for attention; lower backend.threads or encoder.lookback")
        return out


def _padded(head_width: int) -> int:
    return -(-head_width // TILE) * TILE


def _turns(by: Rotation, padded: int) -> Tensor:
    """A rotation as the kernel reads it: cosines of even and odd channels, then sines: (..., 4, padded/2), fp32."""
    width = by.cos.shape[-1]
    turns = torch.zeros(*by.cos.shape[:-1], 4, padded // 2, device="cpu")
    turns[..., :2, :] = 1.0
    for row, part in enumerate((by.cos[..., ::2], by.cos[..., 1::2], by.sin[..., ::2], by.sin[..., 1::2])):
        turns[..., row, : width // 2] = part
    return turns
