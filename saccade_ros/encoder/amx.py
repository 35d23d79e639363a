"""Our own kernels for x86 processors, loaded with ctypes: attention and linear layers on AMX, norms on AVX-512.

The C++ is in native/; colcon and pip build it where the compiler can. kernels.py decides where these serve instead of
torch's.
"""

import ctypes
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import saccade_ros
from saccade_ros.encoder.linear import quantize_rows
from saccade_ros.encoder.norm import ResidualNorm
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
        self._query_rotations = _packed_rotation(tables.query, padded)  # (W, S, 4, P/2)
        self._key_rotations = _packed_rotation(tables.key, padded)  # (S, 4, P/2)
        self._depth_rotations = _packed_rotation(tables.depth, padded)  # (W, 4, P/2)

    @staticmethod
    def serves(spec: ModelSpec, dtype: torch.dtype) -> bool:
        """True if the kernel was built, the processor has AMX, and the model fits its tiles."""
        fits = (
            dtype in (torch.bfloat16, torch.float32) and spec.tokens % TILE == 0 and spec.head_width % (TILE // 2) == 0
        )
        return fits and amx_available()

    def rotations(self, block: Block) -> tuple[Tensor, ...]:
        """See Attention: of queries, (rows, 4, P/2), and of keys by slot, (fill, 4, P/2)."""
        if block.is_sparse:
            queries = self._query_rotations[block.position_idx, block.token_idx]  # (M, 4, P/2)
        else:
            queries = self._query_rotations[block.position_idx].flatten(0, 1)  # (m*S, 4, P/2)
        return queries, self._depth_rotations[block.key_position_idx]

    def __call__(self, layer: int, qkv: Tensor, block: Block) -> Tensor:
        """See Attention."""
        queries, depth = block.rotations
        spec, ring = self._spec, block.ring
        out = torch.empty(len(qkv), spec.width, dtype=qkv.dtype)
        sizes = (torch.get_num_threads(), spec.heads, ring.window, block.fill, spec.tokens, spec.head_width, block.rows)
        places = block.token_idx if block.is_sparse else None
        arrays = (qkv, block.slot_idx, places, queries, self._key_rotations, depth)
        memory = (*arrays, ring.keys[layer], ring.values[layer], out)
        failed = self._attend(*sizes, spec.rope_width // 2, *map(_address, memory))
        if failed:
            raise MemoryError("no working memory for attention; lower backend.threads or encoder.recompute")
        return out


class AmxLinear(nn.Module):
    """A linear layer on the CPU's matrix unit, with the GELU fused.

    int8: the weight has a scale for each output channel, the input one for each row, taken at every call (dynamic
    quantization); sums are exact in int32, input and output bf16.

    Raises:
        MemoryError: from a call, if the kernel's working memory cannot be had.
    """

    def __init__(self, linear: nn.Linear, dtype: torch.dtype, int8: bool = False) -> None:
        super().__init__()
        weight, self._dtype = linear.weight.detach().float(), dtype
        self._bias, self._scales = linear.bias.detach().float().clone(), None
        kernels = library()
        if int8:
            rounded, self._scales = quantize_rows(weight)
            self._weight = _tiles(rounded)
            self._run = kernels.saccade_linear_int8
        else:
            self._weight = _tiles(weight.to(dtype))
            self._run = {
                torch.bfloat16: kernels.saccade_linear_bf16,
                torch.float32: kernels.saccade_linear_fp32,
            }[dtype]
        self.out_features, self.in_features = weight.shape

    @staticmethod
    def serves(linear: nn.Linear, dtype: torch.dtype) -> bool:
        """True if the kernel was built, the processor has AMX, and the layer's sizes fit its tiles."""
        fits = linear.out_features % TILE == 0 and linear.in_features % (2 * TILE) == 0
        return fits and dtype in (torch.bfloat16, torch.float32) and amx_available()

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, in) -> (N, out)."""
        return self._compute(x, ends_in_gelu=False)

    def gelu(self, x: Tensor) -> Tensor:
        """GELU of the layer's output."""
        return self._compute(x, ends_in_gelu=True)

    def _compute(self, x: Tensor, ends_in_gelu: bool) -> Tensor:
        if x.dtype != self._dtype or x.shape[1:] != (self.in_features,):
            raise ValueError(f"input is {tuple(x.shape)} in {x.dtype}; takes (N, {self.in_features}) in {self._dtype}")
        x = x.contiguous()
        out = torch.empty(len(x), self.out_features, dtype=self._dtype)
        sizes = (torch.get_num_threads(), len(x), self.in_features, self.out_features, ends_in_gelu)
        arrays = (x, self._weight, self._bias, *(() if self._scales is None else (self._scales,)), out)
        if self._run(*sizes, *map(_address, arrays)):
            raise MemoryError("no working memory for a linear layer; encode fewer streams at once")
        return out


class Avx512Norm(ResidualNorm):
    """A prepared ResidualNorm on AVX-512: the sum and its norm in one pass over memory."""

    def __init__(self, norm: ResidualNorm) -> None:
        super().__init__(norm.normalized_shape, eps=norm.eps)
        self.weight, self.bias, self.dtype = norm.weight, norm.bias, norm.dtype
        kernels = library()
        self._run = {
            torch.bfloat16: kernels.saccade_add_norm_bf16,
            torch.float32: kernels.saccade_add_norm_fp32,
        }[norm.dtype]

    @staticmethod
    def serves(norm: ResidualNorm) -> bool:
        """True if the kernel was built, the processor has AVX-512, and the norm's width fits its registers."""
        fits = norm.normalized_shape[0] % 16 == 0 and norm.dtype in (torch.bfloat16, torch.float32)
        return fits and library() is not None and bool(library().saccade_norm_available())

    def forward(self, residual: Tensor, update: Tensor | None = None) -> Tensor:
        """See ResidualNorm."""
        out = torch.empty(residual.shape, dtype=self.dtype)
        sizes = (torch.get_num_threads(), *residual.shape, self.eps)
        arrays = (residual, update, self.weight, self.bias, out)
        self._run(*sizes, *map(_address, arrays))
        return out


def amx_available() -> bool:
    """True if the kernels were built and the processor has AMX."""
    return library() is not None and bool(library().saccade_amx_available())


@cache
def library() -> Any:
    """The built kernels, from whichever of the package's folders has them; None if they were not built."""
    for folder in saccade_ros.__path__:
        for file in sorted(Path(folder, "encoder", "native").glob("libsaccade_native*.so")):
            return _declared(ctypes.CDLL(str(file)))
    return None


def _declared(loaded: Any) -> Any:
    integer, pointer = ctypes.c_int, ctypes.c_void_p
    for attend in (loaded.saccade_amx_attend_bf16, loaded.saccade_amx_attend_fp32):
        attend.argtypes = [integer] * 8 + [pointer] * 9
    for linear in (loaded.saccade_linear_bf16, loaded.saccade_linear_fp32):
        linear.argtypes = [integer] * 5 + [pointer] * 4
    loaded.saccade_linear_int8.argtypes = [integer] * 5 + [pointer] * 5
    for add_norm in (loaded.saccade_add_norm_bf16, loaded.saccade_add_norm_fp32):
        add_norm.argtypes = [integer] * 3 + [ctypes.c_float] + [pointer] * 5
        add_norm.restype = None
    return loaded


def _address(array: Tensor | None) -> int | None:
    return None if array is None else array.data_ptr()


def _tiles(weight: Tensor) -> Tensor:
    """A weight (out, in) as the kernel reads it: 16 outputs to a tile, 4 bytes of each to a row; in fp32 as in bf16."""
    values = 4 if weight.dtype == torch.int8 else 2  # of an output, side by side
    blocks = weight.unflatten(1, (-1, 16, values)).unflatten(0, (-1, 2, 16))  # (out/32, 2, 16, depths, 16, values)
    tiles: Tensor = blocks.permute(0, 3, 1, 4, 2, 5).contiguous()  # (out/32, depths, 2, 16, 16, values)
    return tiles


def _padded(head_width: int) -> int:
    return -(-head_width // TILE) * TILE


def _packed_rotation(by: Rotation, padded: int) -> Tensor:
    """A rotation as the kernel reads it: cosines of even and odd channels, then sines: (..., 4, padded/2), fp32."""
    width = by.cos.shape[-1]
    packed = torch.zeros(*by.cos.shape[:-1], 4, padded // 2, device="cpu")
    packed[..., :2, :] = 1.0
    for row, part in enumerate((by.cos[..., ::2], by.cos[..., 1::2], by.sin[..., ::2], by.sin[..., 1::2])):
        packed[..., row, : width // 2] = part
    return packed
